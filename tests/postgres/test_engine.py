"""A fleet: images are enqueued once, and workers take them from the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comet_async import (
    AccountError,
    BudgetExceededError,
    CometSession,
    ExpandRequest,
    InputError,
    JournalRequiredError,
    Margins,
)
from comet_async.errors import CometError
from comet_async.fleet import (
    Enqueued,
    FleetStatus,
    FleetWorker,
    enqueue_folder,
    enqueue_many,
    fleet_status,
)
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Faults, Sandbox
from tests.support.images import make_png

pytestmark = pytest.mark.real_loop

WIDE = Margins(left=0.25, right=0.25)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Return a server that charges and paints nothing."""
    async with Sandbox(engine="stub", speed=100, limit=20) as running:
        yield running


@pytest.fixture
async def comet(sandbox: Sandbox, journal: PostgresJournal) -> AsyncIterator[CometSession]:
    """Return a session with a journal in PostgreSQL."""
    async with session(sandbox, journal) as opened:
        yield opened


def session(sandbox: Sandbox, journal: PostgresJournal, **settings: Any) -> CometSession:
    """Return a session of a fleet's."""
    return CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        journal=journal,
        schedule=0.05,
        **{"concurrency": 20, "settle": 0.1, **settings},
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with twelve images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(make_png(300, 300, number))
    return folder


async def enqueued(comet: CometSession, source: Path, out: Path, **options: Any) -> list[Enqueued]:
    """Enqueue a folder; return what became of its images."""
    return [each async for each in enqueue_folder(comet, source, out, WIDE, **options)]


async def until(journal: PostgresJournal, **wanted: int) -> FleetStatus:
    """Wait until the queue is as *wanted*."""
    async with asyncio.timeout(60):
        while True:
            status = await fleet_status(journal)
            if all(getattr(status, name) == number for name, number in wanted.items()):
                return status
            await asyncio.sleep(0.05)


async def emptied(worker: FleetWorker, journal: PostgresJournal, held: int = 0) -> FleetStatus:
    """Run *worker* until nothing is left in the queue."""
    running = asyncio.create_task(worker.run())
    try:
        status = await until(journal, queued=0, running=0, held=held)
    finally:
        worker.stop()
        await running
    return status


async def test_enqueued_twice_is_queued_and_charged_once(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path, tmp_path: Path
) -> None:
    """The queue has one entry for each image, and the worker buys each once."""
    first = await enqueued(comet, many, tmp_path / "out")
    assert [each.queued for each in first] == [True] * 12
    assert all(Path(each.source).is_absolute() for each in first)
    again = await enqueued(comet, many, tmp_path / "out")
    assert [(each.queued, each.outcome) for each in again] == [(False, None)] * 12
    assert (await fleet_status(journal)).queued == 12
    assert sandbox.ledger.charges == []
    worker = FleetWorker(comet)
    status = await emptied(worker, journal)
    assert (worker.done, worker.failed) == (12, 0)
    assert len(sandbox.ledger.charges) == 12
    assert len(list((tmp_path / "out").glob("*.png"))) == 12
    assert (status.billed, status.finished, status.images_left) == (12, 12, 0)
    after = await enqueued(comet, many, tmp_path / "out")
    assert [each.outcome is not None and each.outcome.done for each in after] == [True] * 12
    assert (await fleet_status(journal)).queued == 0
