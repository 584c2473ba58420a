"""Callbacks in ASGI services: the documented program, behind a real server, with a real sandbox."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comet_async.callbacks import MAX_BODY
from comet_async.geometry import Margins
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.session import CometSession
from comet_async.testing import VirtualClock

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

PROGRAM = Path(__file__).parents[1] / "docs" / "examples" / "asgi" / "callbacks_fastapi.py"
RARELY = 120.0

App = Any  # an ASGI application
Program = Any  # the documented module


@pytest.fixture
def port() -> socket.socket:
    """Return a listening socket for the service."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
def base(port: socket.socket) -> str:
    """Return the service's address."""
    return f"http://127.0.0.1:{port.getsockname()[1]}"


@pytest.fixture
def program(
    sandbox: Sandbox, clock: VirtualClock, base: str, monkeypatch: pytest.MonkeyPatch
) -> Program:
    """Return the documented program, in the test's time; it polls every two minutes."""
    monkeypatch.setenv("HOOKS_URL", f"{base}/hooks")
    monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
    monkeypatch.setenv("COMETAPI_API_ROOT", sandbox.url)
    spec = importlib.util.spec_from_file_location("callbacks_fastapi", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CometSession = partial(CometSession, clock=clock, schedule=RARELY)
    return module


@asynccontextmanager
async def serving(app: App, port: socket.socket) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve *app* with uvicorn until the block ends; give a client for it."""
    options = {"lifespan": "on", "log_config": None, "timeout_keep_alive": 3600}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    running = asyncio.create_task(server.serve(sockets=[port]))
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.1)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as client:
            yield client
    finally:
        server.should_exit = True
        await running


def check_that_callbacks_ended_the_wait(comet: CometSession, sandbox: Sandbox) -> None:
    """They were taken, and the polls that they caused were the only ones."""
    assert {delivery.answer for delivery in sandbox.deliveries} == {200}
    waiter = comet._waiter
    assert waiter.notifications >= 1
    assert 1 <= waiter.polls <= len(sandbox.deliveries)
    assert waiter.longest_delay < 5.0


async def test_the_documented_service(
    program: Program, port: socket.socket, base: str, sandbox: Sandbox, photo: bytes
) -> None:
    """It answers as soon as the sandbox calls back, long before it would poll."""
    async with serving(program.app, port) as client:
        async with client.post(f"{base}/widen", data=photo) as answer:
            assert answer.status == 200
            assert (await answer.json())["url"].startswith(sandbox.url)
        check_that_callbacks_ended_the_wait(program.app.state.comet, sandbox)


async def test_the_same_function_in_starlette(
    program: Program, port: socket.socket, sandbox: Sandbox, photo: bytes
) -> None:
    """Without FastAPI the route is written another way, and that is all."""
    from starlette.applications import Starlette  # noqa: PLC0415 - it may be missing
    from starlette.routing import Route  # noqa: PLC0415 - it may be missing

    route = Route("/hooks/cb/{token}", program.callback, methods=["POST"])
    app = Starlette(routes=[route], lifespan=program.lifespan)
    async with serving(app, port):
        await app.state.comet.expand(photo, Margins.uniform(0.2))
        check_that_callbacks_ended_the_wait(app.state.comet, sandbox)


async def test_lost_callbacks_cost_only_time(
    program: Program,
    port: socket.socket,
    base: str,
    sandbox: Sandbox,
    photo: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service that knows another token, as after a restart, has the image minutes later."""
    monkeypatch.setattr(program.receiver, "verify_token", lambda _token: False)
    async with serving(program.app, port) as client:
        async with client.post(f"{base}/widen", data=photo) as answer:
            assert answer.status == 200
        assert {delivery.answer for delivery in sandbox.deliveries} == {404}
        waiter = program.app.state.comet._waiter
        assert (waiter.notifications, waiter.finished) == (0, 1)


async def test_strangers_are_turned_away(program: Program, port: socket.socket, base: str) -> None:
    """The checks are those of the receiver's own server."""
    right, good = program.receiver.path, b'{"task_id": "t0", "task_status": "succeed"}'
    cases = [
        ("/cb/guessed", good, 404),
        (right, b" " * (MAX_BODY + 1), 413),
        (right, b"<html>", 400),
        (right, good, 200),
    ]
    async with serving(program.app, port) as client:
        for path, sent, status in cases:
            async with client.post(f"{base}/hooks{path}", data=sent) as answer:
                assert (answer.status, await answer.read()) == (status, b"")
