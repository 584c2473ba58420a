"""``comet-async enqueue``, ``worker``, ``fleet`` and ``jobs``, as programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from tests.support.images import make_png

pytestmark = pytest.mark.real_loop


@pytest.fixture
def shared(database: str) -> Iterator[str]:
    """Return a database without a journal."""
    drop = "DROP SCHEMA IF EXISTS comet_async CASCADE"
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("SET client_min_messages = warning")
        db.execute(drop)
        yield database
        db.execute(drop)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with forty images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(make_png(300, 300, number))
    return folder


async def start(*words: str) -> asyncio.subprocess.Process:
    """Start the program."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comet_async", *words),
        env=os.environ | {"COMETAPI_KEY": DEFAULT_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def run(*words: str) -> str:
    """Run the program to its end; return what it said."""
    process = await start(*words)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_two_workers(shared: str, many: Path, tmp_path: Path) -> None:
    """Two processes share a queue; each image is charged once, and SIGTERM ends both."""
    out = tmp_path / "out"
    order = ("enqueue", str(many), "--journal", shared, "--out", str(out), "--left", "0.2")
    async with Sandbox(engine="stub", speed=20, limit=8) as sandbox:
        gateway = ("--gateway", sandbox.url)
        first = await run(*order, *gateway)
        assert "40 images queued" in first
        assert "40 images queued before" in await run(*order, *gateway)
        words = ("worker", "--journal", shared, "--concurrency", "8", "--at-once", "10", *gateway)
        workers = [await start(*words) for _ in range(2)]
        async with await PostgresJournal.open(shared) as journal:
            async with asyncio.timeout(120):
                while (await journal.counts()).get("done") != 40:  # type: ignore[call-overload]
                    assert all(each.returncode is None for each in workers)
                    await asyncio.sleep(0.1)
        status = json.loads(await run("fleet", shared, "--json"))
        for each in workers:
            each.send_signal(signal.SIGTERM)
        outputs = [(await each.communicate())[0].decode() for each in workers]
        assert [each.returncode for each in workers] == [0, 0], outputs
        assert all("done, 0 failed" in text for text in outputs)
        assert not any("0 jobs done" in text for text in outputs)  # both have worked
        assert len(sandbox.ledger.charges) == 40
        assert sandbox.ledger.charged_twice() == []
    assert len(list(out.glob("*.png"))) == 40
    assert len(status["workers"]) == 2
    assert (status["queued"], status["billed"], status["images_left"]) == (0, 40, 0)
    assert "40 jobs done" in await run("jobs", shared)


async def test_sigterm_while_tasks_run(shared: str, many: Path, tmp_path: Path) -> None:
    """A worker ends within its grace, and leaves its jobs to others, which pay nothing again."""
    out = tmp_path / "out"
    async with Sandbox(engine="stub", speed=2, limit=8) as sandbox:
        words = ("--journal", shared, "--gateway", sandbox.url)
        await run("enqueue", str(many), "--out", str(out), "--left", "0.2", *words)
        worker = await start("worker", "--concurrency", "8", "--grace", "0", *words)
        async with asyncio.timeout(60):
            while len(sandbox.ledger.charges) < 4:
                await asyncio.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        began = time.monotonic()
        output, _ = await asyncio.wait_for(worker.communicate(), 30)
        assert worker.returncode == 0, output.decode()
        print("ended after", time.monotonic() - began)
        charged = len(sandbox.ledger.charges)
        assert charged < 40
        status = json.loads(await run("fleet", shared, "--json"))
        assert status["workers"] == []
        assert (status["running"], status["held"]) == (0, 0)
        assert status["queued"] == 40 - status["jobs"].get("done", 0)
