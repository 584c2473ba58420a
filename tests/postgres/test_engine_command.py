"""``comet-async enqueue``, ``worker``, ``fleet`` and ``jobs``, as programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async._journal.states import JobState
from comet_async.cli.app import run as cli
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from tests.support.images import make_folder, make_png
from tests.support.s3 import Bucket

pytestmark = [pytest.mark.real_loop, pytest.mark.program]


@pytest.fixture
def shared(own_database: str) -> str:
    """Return a database without a journal."""
    return own_database


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with forty images."""
    return make_folder(tmp_path / "photos", 40)


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


async def looked_at(url: str) -> dict[str, Any]:
    """Return what ``fleet --json`` says."""
    status: dict[str, Any] = json.loads(await run("fleet", url, "--json"))
    return status


async def until(url: str, seconds: float, wanted: Callable[[dict[JobState, int]], bool]) -> None:
    """Wait until the numbers of jobs by state are as *wanted*."""
    async with await PostgresJournal.open(url) as journal, asyncio.timeout(seconds):
        while not wanted(await journal.counts()):  # noqa: ASYNC110 - other processes work
            await asyncio.sleep(0.1)


async def ended(worker: asyncio.subprocess.Process) -> str:
    """Tell a worker to stop; return what it said."""
    worker.send_signal(signal.SIGTERM)
    output, _ = await asyncio.wait_for(worker.communicate(), 60)
    assert worker.returncode == 0, output.decode()
    return output.decode()


def all_done(counts: dict[JobState, int]) -> bool:
    """Return True if all images are done."""
    return counts == {JobState.DONE: 40}


@pytest.mark.slow
async def test_two_workers(shared: str, many: Path, tmp_path: Path) -> None:
    """Two processes share a queue; each image is charged once, and SIGTERM ends both."""
    out = tmp_path / "out"
    order = ("enqueue", str(many), "--journal", shared, "--out", str(out), "--left", "0.2")
    async with Sandbox(engine="stub", speed=20, limit=8) as sandbox:
        gateway = ("--gateway", sandbox.url)
        await run("enqueue", str(many / "00.png"), *order[2:], *gateway)
        words = ("worker", "--journal", shared, "--concurrency", "8", "--at-once", "10", *gateway)
        workers = [await start(*words) for _ in range(2)]
        await until(shared, 60, lambda counts: counts == {JobState.DONE: 1})
        while len((await looked_at(shared))["workers"]) < 2:
            assert all(each.returncode is None for each in workers)
        first = await run(*order, *gateway)
        assert "39 images queued" in first
        await run(*order, *gateway)
        await until(shared, 120, all_done)
        status = await looked_at(shared)
        outputs = [await ended(each) for each in workers]
        assert all("done, 0 failed" in text for text in outputs), outputs
        assert not any("0 jobs done" in text.split("\n") for text in outputs)
        assert len(sandbox.ledger.charges) == 40
        assert sandbox.ledger.charged_twice() == []
    assert len(list(out.glob("*.png"))) == 40
    assert len(status["workers"]) == 2
    assert (status["queued"], status["billed"], status["images_left"]) == (0, 40, 0)
    assert "40 jobs done" in await run("jobs", shared)
    shown = await run("fleet", shared)
    assert "40 images billed" in shown
    assert " left" not in shown  # all is done


@pytest.mark.slow
async def test_sigterm_while_tasks_run(shared: str, many: Path, tmp_path: Path) -> None:
    """A worker leaves at once if it has no grace; others take its jobs up and pay nothing again."""
    out = tmp_path / "out"
    async with Sandbox(engine="stub", speed=10, limit=8) as sandbox:
        words = ("--journal", shared, "--gateway", sandbox.url)
        await run("enqueue", str(many), "--out", str(out), "--left", "0.2", *words)
        worker = await start("worker", "--concurrency", "8", "--grace", "0", *words)
        async with asyncio.timeout(60):
            while len(sandbox.ledger.charges) < 4:  # noqa: ASYNC110 - another process works
                await asyncio.sleep(0.05)
        await ended(worker)
        charged = len(sandbox.ledger.charges)
        assert charged < 40
        status = await looked_at(shared)
        assert (status["workers"], status["running"], status["held"]) == ([], 0, 0)
        assert status["queued"] == 40 - status["jobs"].get("done", 0)
        other = await start("worker", "--concurrency", "8", *words)
        await until(shared, 120, all_done)
        await ended(other)
        assert len(sandbox.ledger.charges) == 40
        assert sandbox.ledger.charged_twice() == []


async def test_sigterm_while_tasks_take_long(shared: str, many: Path, tmp_path: Path) -> None:
    """A worker ends after its time of grace, however long its tasks take; they stay recorded."""
    async with Sandbox(engine="stub", speed=0.001, limit=8) as sandbox:
        words = ("--journal", shared, "--gateway", sandbox.url)
        await run("enqueue", str(many), "--out", str(tmp_path / "out"), "--left", "0.2", *words)
        worker = await start("worker", "--concurrency", "8", "--grace", "0.5", *words)
        await until(shared, 60, lambda counts: counts.get(JobState.SUBMITTED, 0) == 8)
        assert "0 jobs done, 0 failed" in await ended(worker)
        status = await looked_at(shared)
        assert (status["queued"], status["running"], status["held"]) == (40, 0, 0)
        assert status["jobs"] == {"planned": 32, "submitted": 8}
        assert len(sandbox.ledger.charges) == 8


async def test_from_a_bucket_into_a_bucket(shared: str, bucket: Bucket) -> None:
    """A worker reads the sources from a store, and writes the results there."""
    for number in range(6):
        bucket.write(f"photos/{number}.png", make_png(300, 300, number))
    async with Sandbox(engine="stub", speed=20, limit=8) as sandbox:
        words = ("--journal", shared, "--gateway", sandbox.url)
        order = ("enqueue", f"{bucket.address}/photos", "--store", f"{bucket.address}/wide")
        assert "6 images queued" in await run(*order, "--left", "0.2", *words)
        worker = await start("worker", "--concurrency", "8", *words)
        await until(shared, 60, lambda counts: counts == {JobState.DONE: 6})
        await ended(worker)
        assert "6 images finished already" in await run(*order, "--left", "0.2", *words)
        assert len(sandbox.ledger.charges) == 6
    results = [name for name in bucket.names() if name.endswith(".png") and "wide" in name]
    assert results == [f"wide/{number}.png" for number in range(6)]
    assert bucket.read("wide/0.png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("fleet", "mysql://host/db"), "not a PostgreSQL database"),
        (("fleet", "postgresql://me:canary@host/db"), "PGPASSWORD"),
        (("worker", "--journal", "jobs.sqlite3"), "not a PostgreSQL database"),
        (("enqueue", ".", "--journal", "postgresql://host/db", "--to", "2:1"), "add --out DIR"),
        (
            *(("enqueue", ".", "--journal", "postgresql://host/db", "--store", "wide"),),
            "not an address in a store",
        ),
        (("worker", "--journal", "postgresql://host/db", "--sandbox"), "comet-async sandbox"),
        (
            *(("enqueue", ".", "--journal", "postgresql://host/db", "--out", "s3://bucket/wide"),),
            "use --store",
        ),
        (("report", "postgresql://host/db"), "comet-async jobs URL"),
    ],
    ids=["scheme", "password", "file", "nowhere", "store", "sandbox", "out", "report"],
)
async def test_what_can_not_be_used(
    words: tuple[str, ...], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is refused before the database is used, and no password is repeated."""
    assert await cli(words) == 2
    output = "".join(capfd.readouterr())
    assert text in " ".join(output.split())
    assert "canary" not in output
