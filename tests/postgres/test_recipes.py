"""The documented programs around a fleet: another queue, and a service that only enqueues."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from comet_async._journal.states import JobState
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from tests.support.images import make_folder

pytestmark = [pytest.mark.real_loop, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
IMAGES = 30


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Return a server that charges and paints nothing; its tasks take a second."""
    async with Sandbox(engine="stub", speed=20, limit=20) as running:
        yield running


@pytest.fixture
def environment(own_database: str, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Return what the programs are given."""
    return {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES / "queues"),  # also where PYTHONSAFEPATH is set
        "DATABASE_URL": own_database,
        "COMETAPI_KEY": DEFAULT_KEY,
        "COMETAPI_API_ROOT": sandbox.url,
        "HEARTBEAT": "1",
        "SHARED_FOLDER": str(tmp_path),
    }


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with images."""
    return make_folder(tmp_path / "photos", IMAGES)


async def start(environment: dict[str, str], *words: str) -> asyncio.subprocess.Process:
    """Start a program of Python's next to the documented ones."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *words),
        env=environment,
        cwd=EXAMPLES / "queues",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def run(environment: dict[str, str], *words: str) -> str:
    """Run a program to its end; return what it said."""
    process = await start(environment, *words)
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def until_done(url: str, at_least: int, *programs: asyncio.subprocess.Process) -> None:
    """Wait until that many jobs are done, while *programs* work."""
    async with await PostgresJournal.open(url) as journal, asyncio.timeout(180):
        while (await journal.counts()).get(JobState.DONE, 0) < at_least:
            assert all(program.returncode is None for program in programs)
            await asyncio.sleep(0.1)


async def test_procrastinate(
    environment: dict[str, str], many: Path, tmp_path: Path, sandbox: Sandbox
) -> None:
    """One of two workers is killed, and the other ends its jobs; none is paid twice."""
    pytest.importorskip("procrastinate")
    url, out = environment["DATABASE_URL"], tmp_path / "wide"
    program, app = "procrastinate_main.py", "--app=procrastinate_jobs.queue"
    await run(environment, "-m", "procrastinate", app, "schema", "--apply")
    for _ in range(2):
        await run(environment, program, "enqueue", str(many), str(out))
    with psycopg.connect(url, autocommit=True) as db:
        count = "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status"
        assert db.execute(count).fetchall() == [("todo", IMAGES)]
        assert sandbox.ledger.posts == []
        killed, other = [await start(environment, program, "work") for _ in range(2)]
        await until_done(url, 3, killed, other)
        killed.kill()
        await killed.communicate()
        await until_done(url, IMAGES, other)
        async with asyncio.timeout(60):
            while db.execute(count).fetchall() != [("succeeded", IMAGES)]:  # noqa: ASYNC110 - another process works
                await asyncio.sleep(0.1)
    other.send_signal(signal.SIGTERM)
    output, _ = await asyncio.wait_for(other.communicate(), 60)
    assert other.returncode == 0, output.decode()
    assert len(sandbox.ledger.charges) == IMAGES
    assert sandbox.ledger.charged_twice() == []
    assert len(list(out.glob("*.png"))) == IMAGES


@contextlib.asynccontextmanager
async def serving(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the documented service with uvicorn; give a client for it."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    program = EXAMPLES / "asgi" / "fleet_service.py"
    spec = importlib.util.spec_from_file_location(program.stem, program)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    port = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(module.app, lifespan="on", log_config=None))
    running = asyncio.create_task(server.serve(sockets=[port]))
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.1)
    try:
        base = f"http://127.0.0.1:{port.getsockname()[1]}"
        async with aiohttp.ClientSession(base) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def test_a_service_that_only_enqueues(
    environment: dict[str, str],
    photo: bytes,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers at once, and later with the image that a worker has made."""
    words = ("worker", "--journal", environment["DATABASE_URL"], "--concurrency", "20")
    async with serving(environment, monkeypatch) as client:
        jobs = []
        for _ in range(2):  # the caller repeats its request
            async with client.post("/images", data=photo) as answer:
                assert answer.status == 202, await answer.text()
                jobs.append(await answer.json())
        key = jobs[0]["job"]
        assert jobs[1]["job"] == key
        async with client.get(f"/images/{key}") as answer:
            assert (await answer.json())["state"] == "planned"
        assert sandbox.ledger.posts == []
        async with client.get(f"/images/{key}/file") as answer:
            assert answer.status == 404
        worker = await start(environment, "-m", "comet_async", *words)
        await until_done(environment["DATABASE_URL"], 1, worker)
        async with client.get(f"/images/{key}") as answer:
            assert await answer.json() == {"job": key, "state": "done", "reason": ""}
        async with client.get(f"/images/{key}/file") as answer:
            assert answer.content_type == "image/png"
            assert await answer.read() == next((tmp_path / "out").glob("*.png")).read_bytes()
        async with client.post("/images", data=photo) as answer:
            assert await answer.json() == {"job": key}
        worker.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(worker.communicate(), 60)
        assert worker.returncode == 0, output.decode()
        assert len(sandbox.ledger.charges) == 1


async def test_what_the_service_refuses(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no image, or too large, is refused before anything is queued."""
    async with serving(environment, monkeypatch) as client:
        for body, status in ((b"no image", 422), (bytes(10 * 1024 * 1024 + 1), 413)):
            async with client.post("/images", data=io.BytesIO(body)) as answer:
                assert answer.status == status
        async with client.get("/images/unknown") as answer:
            assert answer.status == 404
