"""Callbacks with several workers: the documented programs, as two real uvicorn workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from comet_async.sandbox import DEFAULT_KEY, Options, Sandbox

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

PROGRAMS = Path(__file__).parents[1] / "docs" / "examples" / "asgi"
TOKEN = "one-token-for-all-workers-0123456789"  # noqa: S105 - of this test only
# A program of the documentation that polls at its own intervals, whatever it learns.
POLLING = """
from functools import partial
import {program} as service
service.CometSession = partial(service.CometSession, schedule={seconds})
app = service.app
"""


def polling(folder: Path, program: str, seconds: float) -> str:
    """Write the program; return its app's name."""
    (folder / "polling.py").write_text(POLLING.format(program=program, seconds=seconds))
    return "polling:app"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def until_it_listens(port: int, program: subprocess.Popen[bytes]) -> None:
    """Wait until *program* listens on *port*."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            assert program.poll() is None, "the program ended"
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    program = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield program
    finally:
        program.terminate()
        try:
            program.wait(30)
        finally:
            program.kill()  # does nothing if it has ended
            program.wait()


@asynccontextmanager
async def service(
    app: str, folder: Path, sandbox: Sandbox, **environment: str
) -> AsyncIterator[str]:
    """Run *app* with two workers; give its address."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = ("-m", "uvicorn", app, "--workers", "2", "--port", str(port), "--log-level", "error")
    # On a busy machine a worker takes longer to start than uvicorn waits for it by default.
    command += ("--timeout-worker-healthcheck", "60")
    with running(
        sys.executable,
        *command,
        HOOKS_TOKEN=TOKEN,
        HOOKS_URL=f"{base}/hooks",
        COMETAPI_KEY=DEFAULT_KEY,
        COMETAPI_API_ROOT=sandbox.url,
        PYTHONPATH=os.pathsep.join([str(folder), str(PROGRAMS), os.environ.get("PYTHONPATH", "")]),
        **environment,
    ) as program:
        await until_it_listens(port, program)
        yield base


async def widen(base: str, make: list[bytes]) -> set[int]:
    """Have images expanded, each over a connection of its own; return the workers' numbers."""

    async def one(photo: bytes) -> int:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as client,
            client.post(f"{base}/widen", data=photo) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return int((await answer.json()).get("worker", 0))

    return set(await asyncio.gather(*map(one, make)))


def photos(make_photo: object, count: int, first: int = 0) -> list[bytes]:
    """Return different images."""
    return [make_photo(320, 300, number) for number in range(first, first + count)]  # type: ignore[operator]  # a fixture


@pytest.mark.slow
def test_two_workers_take_each_others_callbacks(tmp_path: Path, make_photo: object) -> None:
    """With one token no callback is turned away, whichever worker it comes to."""
    app = polling(tmp_path, "callbacks_fastapi", seconds=1)

    async def main() -> None:
        options = Options(task_seconds=(0.5, 1.0))
        async with Sandbox(options=options, engine="pillow") as sandbox:
            async with service(app, tmp_path, sandbox) as base:
                await widen(base, photos(make_photo, 12))
            assert len(sandbox.deliveries) >= 24
            assert {delivery.answer for delivery in sandbox.deliveries} == {200}

    asyncio.run(main())


@pytest.mark.slow
def test_redis_brings_callbacks_to_the_worker_that_waits(
    tmp_path: Path, make_photo: object
) -> None:
    """No worker polls by itself, and all images are done: each end was passed on to its worker."""
    pytest.importorskip("redis", reason="the Python client of Redis is not installed")
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        pytest.skip("neither redis-server nor valkey-server is installed")
    app = polling(tmp_path, "callbacks_workers", seconds=3600)  # only callbacks end a wait

    async def main() -> None:
        port = free_port()
        options = Options(task_seconds=(0.5, 1.0))
        flags = ("--port", str(port), "--save", "", "--dir", str(tmp_path), "--loglevel", "warning")
        with running(server, *flags) as redis:
            await until_it_listens(port, redis)
            url = f"redis://127.0.0.1:{port}"
            async with Sandbox(options=options, engine="pillow") as sandbox:
                async with service(app, tmp_path, sandbox, REDIS_URL=url) as base:
                    workers: set[int] = set()
                    for first in range(0, 160, 16):  # one may start later than the other
                        workers |= await widen(base, photos(make_photo, 16, first))
                        if len(workers) == 2:
                            break
                assert {delivery.answer for delivery in sandbox.deliveries} == {200}
            assert len(workers) == 2

    asyncio.run(main())
