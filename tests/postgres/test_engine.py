"""A fleet: images are enqueued once, and workers take them from the queue."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from comet_async import (
    BudgetExceededError,
    CometSession,
    ExpandRequest,
    InputError,
    JournalRequiredError,
    Margins,
    SessionClosedError,
)
from comet_async._fleet.queue import Queue
from comet_async._journal.states import JobState
from comet_async._postgres import connection
from comet_async.errors import CometError, JournalError, JournalLostError
from comet_async.fleet import (
    Enqueued,
    FleetStatus,
    FleetWorker,
    enqueue_folder,
    enqueue_many,
    fleet_status,
)
from comet_async.postgres import PostgresConnection, PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from tests.postgres.fleet import Cable
from tests.support.images import make_folder, make_png

pytestmark = [pytest.mark.real_loop, pytest.mark.program]

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


def session(sandbox: Sandbox, journal: PostgresJournal) -> CometSession:
    """Return a session of a fleet's."""
    return CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        journal=journal,
        schedule=0.05,
        concurrency=20,
        settle=0.1,
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder with twelve images."""
    return make_folder(tmp_path / "photos", 12)


async def enqueued(comet: CometSession, source: Path, out: Path, **options: Any) -> list[Enqueued]:
    """Enqueue a folder; return what became of its images."""
    return [each async for each in enqueue_folder(comet, source, out, WIDE, **options)]


async def until(journal: PostgresJournal, **wanted: object) -> FleetStatus:
    """Wait until the queue is as *wanted*."""
    async with asyncio.timeout(60):
        while True:
            status = await fleet_status(journal)
            if all(getattr(status, name) == value for name, value in wanted.items()):
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


async def test_what_a_job_costs_the_database(
    comet: CometSession,
    journal: PostgresJournal,
    database: str,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A statement for each change, and a few that look: what a job costs decides how many fit."""
    await enqueued(comet, many, tmp_path / "out")
    statements = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(db: PostgresConnection, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - as inner
            nonlocal statements
            statements += db is journal._connection
            return inner(db, *args, **more)

        return outer

    for name in ("run", "rows", "fetch"):
        monkeypatch.setattr(PostgresConnection, name, counted(getattr(PostgresConnection, name)))
    schema = journal.schema
    async with await PostgresJournal.open(database, schema=schema, read_only=True) as watch:
        await emptied(FleetWorker(comet), watch)
    # Two looks at the job, its claim, six moves, its release; at most three for the quota; and a
    # few for the worker itself.
    assert 9 * 12 <= statements <= 13 * 12 + 10


async def test_a_failed_job_is_kept_with_its_reason(
    comet: CometSession,
    journal: PostgresJournal,
    admin: psycopg.Connection[Any],
    many: Path,
    tmp_path: Path,
) -> None:
    """It stays in the queue as failed until its image is enqueued again."""
    await enqueued(comet, many, tmp_path / "out")
    gone = many / "03.png"
    there = gone.read_bytes()
    gone.unlink()
    worker = FleetWorker(comet)
    status = await emptied(worker, journal, held=1)
    assert (worker.done, worker.failed, status.held) == (11, 1, 1)
    assert status.jobs == {"done": 11, "planned": 1}
    (planned,) = await journal.find({JobState.PLANNED})
    assert "03.png" in planned.message
    table = sql.Identifier(journal.schema, "pgqueuer_log")
    query = sql.SQL("SELECT traceback::text FROM {} WHERE status = 'failed'").format(table)
    reasons = admin.execute(query).fetchall()
    assert len(reasons) == 1
    assert "03.png" in reasons[0][0]
    gone.write_bytes(there)
    again = await enqueued(comet, many, tmp_path / "out")
    # Also those whose files were written in the very moment in which they were read first.
    assert [Path(each.source).name for each in again if each.queued] == ["03.png"]
    assert (await fleet_status(journal)).held == 0
    await emptied(FleetWorker(comet), journal)
    assert len(list((tmp_path / "out").glob("*.png"))) == 12


async def test_a_result_whose_name_is_taken_is_saved_elsewhere(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path, tmp_path: Path
) -> None:
    """Two requests want one name, and both are paid: one is saved under another name, free."""
    image, orders = many / "00.png", {}
    for margins in (WIDE, Margins.uniform(0.2)):
        async for each in enqueue_folder(comet, image, tmp_path / "out", margins):
            assert each.queued
            orders[each.key] = margins
    await emptied(FleetWorker(comet), journal, held=1)
    (left,) = await journal.find({JobState.SUCCEEDED, JobState.SAVING})
    other = tmp_path / "other"
    async for each in enqueue_folder(comet, image, other, orders[left.key]):
        assert each.key == left.key
    await emptied(FleetWorker(comet), journal, held=1)  # the first name is still taken
    assert [each.name for each in other.glob("*.png")] == ["00.png"]
    assert len(sandbox.ledger.charges) == 2


async def test_a_task_that_failed_is_not_bought_again(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path, tmp_path: Path
) -> None:
    """Its outcome is told when it is enqueued again, unless it is to be bought again."""
    order = {"prompt": sandbox.options.risky_words[0]}
    await enqueued(comet, many / "00.png", tmp_path / "out", **order)
    await emptied(FleetWorker(comet), journal, held=1)
    (again,) = await enqueued(comet, many / "00.png", tmp_path / "out", **order)
    assert again.outcome is not None
    assert again.outcome.status == "failed"
    assert (await fleet_status(journal)).queued == 0
    (bought,) = await enqueued(comet, many / "00.png", tmp_path / "out", retry_failed=True, **order)
    assert bought.queued
    assert bought.key != again.key


async def test_a_budget_stops_the_worker(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path, tmp_path: Path
) -> None:
    """What is over it stays in the queue, for a worker that may buy more."""
    await enqueued(comet, many, tmp_path / "out")
    worker = FleetWorker(comet, max_jobs=5, budget="spring")
    with pytest.raises(BudgetExceededError):
        await asyncio.wait_for(worker.run(), 60)
    assert isinstance(worker.stopped, BudgetExceededError)
    assert len(sandbox.ledger.charges) == 5
    await emptied(FleetWorker(comet, max_jobs=100, budget="spring"), journal)
    assert len(sandbox.ledger.charges) == 12


async def test_another_name_for_an_image_that_a_worker_has(
    comet: CometSession,
    journal: PostgresJournal,
    sandbox: Sandbox,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result is saved under both, although the worker had read where it belongs."""
    image, move = many / "00.png", PostgresJournal.move
    reached, go = asyncio.Event(), asyncio.Event()

    async def waits(self: PostgresJournal, record: Any, new: JobState, **more: Any) -> Any:  # noqa: ANN401 - any record
        moved = await move(self, record, new, **more)
        if new is JobState.DONE:
            reached.set()
            await go.wait()
        return moved

    monkeypatch.setattr(PostgresJournal, "move", waits)
    await enqueued(comet, image, tmp_path / "one")
    worker = FleetWorker(comet)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(reached.wait(), 60)
    async with session(sandbox, journal) as another:
        for _ in range(2):
            await enqueued(another, image, tmp_path / "two")
    go.set()
    await until(journal, queued=0, running=0)
    worker.stop()
    await running
    assert [each.name for each in (tmp_path / "two").glob("*.png")] == ["00.png"]
    assert len(sandbox.ledger.charges) == 1


async def test_a_database_that_was_replaced_ends_the_worker(
    comet: CometSession,
    journal: PostgresJournal,
    admin: psycopg.Connection[Any],
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No job can be worked on: they stay queued, and are not given up one after the other."""
    await enqueued(comet, many, tmp_path / "out")
    run_job, ran, go = CometSession.run_job, asyncio.Event(), asyncio.Event()

    async def waits(self: CometSession, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - any signature
        ran.set()
        await go.wait()
        return await run_job(self, *args, **more)

    monkeypatch.setattr(CometSession, "run_job", waits)
    worker = FleetWorker(comet)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(ran.wait(), 60)
    monkeypatch.setattr(connection, "identity", lambda _db: {"identity": "1/00000002"})
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        [f"comet_async {journal.schema}"],
    )
    go.set()
    with pytest.raises(JournalLostError):
        await asyncio.wait_for(running, 60)
    monkeypatch.undo()
    status = await fleet_status(journal)
    assert (worker.failed, status.held) == (0, 0)
    await emptied(FleetWorker(comet), journal)


async def _first_attempt(database: str) -> None:
    """Wait until the only job has failed once."""
    query = "SELECT attempts > 0 OR status = 'failed' FROM comet_async.pgqueuer"
    with psycopg.connect(database, autocommit=True) as watch:
        async with asyncio.timeout(60):
            while watch.execute(query).fetchone() != (True,):  # noqa: ASYNC110 - in a database
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_a_limit_of_the_database_gives_no_job_up(
    setting: str, many: Path, tmp_path: Path, own_database: str, admin: psycopg.Connection[Any]
) -> None:
    """A statement that an administrator's limit cancels is tried again later."""
    name = urlsplit(own_database).path[1:]
    async with Sandbox(engine="stub", speed=100, limit=20) as sandbox, AsyncExitStack() as stack:
        limited = f"ALTER DATABASE {name} SET {setting} = '200ms'"
        admin.execute(limited.encode())
        journal = await stack.enter_async_context(await PostgresJournal.open(own_database))
        comet = await stack.enter_async_context(session(sandbox, journal))
        await enqueued(comet, many / "00.png", tmp_path / "out")
        account = comet._services.account
        worker = FleetWorker(comet)
        with psycopg.connect(own_database) as other:
            other.execute("SET lock_timeout = 0; SET statement_timeout = 0")
            other.execute("INSERT INTO comet_async.quota (account) VALUES (%s)", [account])
            other.commit()
            other.execute("SELECT FROM comet_async.quota FOR UPDATE")
            running = asyncio.create_task(worker.run())
            await _first_attempt(own_database)
        await until(journal, queued=0, running=0)
        worker.stop()
        await running
        assert (worker.done, worker.failed) == (1, 0)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (BudgetExceededError("used up"), 0),
        (asyncio.CancelledError(), 0),
        (CometError("a bad day", retryable=True), 1),
    ],
    ids=["budget", "stopped", "failure"],
)
async def test_what_counts_as_an_attempt(
    comet: CometSession,
    journal: PostgresJournal,
    admin: psycopg.Connection[Any],
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: BaseException,
    attempts: int,
) -> None:
    """A job is given up after twenty failures of its own, not because workers came and went."""
    await enqueued(comet, many / "00.png", tmp_path / "out")
    worker, ran = FleetWorker(comet), asyncio.Event()

    async def run_job(*_: Any, **__: Any) -> None:
        ran.set()
        raise error

    monkeypatch.setattr(CometSession, "run_job", run_job)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(ran.wait(), 60)
    await until(journal, queued=1, running=0)
    worker.stop()
    await asyncio.wait({running})
    table = sql.Identifier(journal.schema, "pgqueuer")
    query = sql.SQL("SELECT attempts FROM {}").format(table)
    assert admin.execute(query).fetchall() == [(attempts,)]


async def test_workers_leave_the_jobs_of_other_accounts(
    sandbox: Sandbox, journal: PostgresJournal, many: Path, tmp_path: Path
) -> None:
    """A worker with another key takes none of them."""
    async with session(sandbox, journal) as comet:
        await enqueued(comet, many, tmp_path / "out")
    other = CometSession("another-key", gateway=sandbox.url, journal=journal)
    async with other:
        worker = FleetWorker(other)
        running = asyncio.create_task(worker.run())
        async with session(sandbox, journal) as comet:
            await emptied(FleetWorker(comet), journal)
        worker.stop()
        await running
        assert (worker.done, worker.failed) == (0, 0)


async def test_many_requests(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path
) -> None:
    """Requests of all kinds are enqueued; an image in memory is none that a worker can read."""
    requests = [
        ExpandRequest(image=str(many / "00.png"), margins=WIDE),
        ExpandRequest(image=make_png(300, 300, 99), margins=WIDE),
    ]
    there, refused = sorted(
        [each async for each in enqueue_many(comet, requests)], key=lambda each: not each.queued
    )
    assert there.queued
    assert refused.outcome is not None
    assert isinstance(refused.outcome.error, InputError)
    await emptied(FleetWorker(comet), journal)
    assert len(sandbox.ledger.charges) == 1


async def test_an_image_in_shape_is_copied(
    comet: CometSession, journal: PostgresJournal, many: Path, tmp_path: Path
) -> None:
    """No worker is needed for it."""
    square = Margins.for_aspect("1:1")
    out = tmp_path / "out"
    found = [each async for each in enqueue_folder(comet, many, out, square)]
    assert all(each.outcome is not None and each.outcome.done for each in found)
    assert len(list(out.glob("*.png"))) == 12
    assert (await fleet_status(journal)).queued == 0


async def test_priorities(
    comet: CometSession, journal: PostgresJournal, sandbox: Sandbox, many: Path, tmp_path: Path
) -> None:
    """Jobs with a higher number are taken first."""
    await enqueued(comet, many, tmp_path / "out", exclude=["11.png"])
    (urgent,) = await enqueued(comet, many / "11.png", tmp_path / "out", priority=5)
    await emptied(FleetWorker(comet, at_once=2), journal)
    # It is taken first; the job that is taken next may be sent before it.
    assert urgent.key in {post.external_task_id for post in sandbox.ledger.posts[:2]}


async def test_planning_and_queueing_are_one(
    comet: CometSession,
    journal: PostgresJournal,
    admin: psycopg.Connection[Any],
    many: Path,
    tmp_path: Path,
) -> None:
    """If a key can't be queued, its job is not there either."""
    await enqueued(comet, many / "00.png", tmp_path / "out")
    table = sql.Identifier(journal.schema, "pgqueuer_log")
    admin.execute(sql.SQL("DROP TABLE {}").format(table))
    with pytest.raises(JournalError):
        await enqueued(comet, many, tmp_path / "out")
    assert await journal.counts() == {"planned": 1}


@pytest.mark.usefixtures("sandbox")
async def test_a_session_needs_a_shared_journal(many: Path, tmp_path: Path) -> None:
    """It is refused before anything is read."""
    async with CometSession(DEFAULT_KEY, journal=tmp_path / "journal.sqlite3") as comet:
        with pytest.raises(JournalRequiredError):
            FleetWorker(comet)
        with pytest.raises(JournalRequiredError):
            await enqueued(comet, many, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [{"at_once": 1}, {"at_once": 2.5}, {"grace": -1}, {"max_jobs": -1}, {"budgets": "x"}],
    ids=str,
)
async def test_what_a_worker_refuses(comet: CometSession, options: dict[str, Any]) -> None:
    """What can't be meant is refused when it is made."""
    with pytest.raises(InputError):
        FleetWorker(comet, **options)


async def test_a_stop_before_the_start(comet: CometSession) -> None:
    """A worker that was stopped takes nothing."""
    worker = FleetWorker(comet)
    worker.stop()
    await asyncio.wait_for(worker.run(), 30)


async def test_a_worker_runs_again(
    comet: CometSession, journal: PostgresJournal, many: Path, tmp_path: Path
) -> None:
    """After it was stopped, and after an error that has been dealt with."""
    worker = FleetWorker(comet, max_jobs=0)
    await enqueued(comet, many, tmp_path / "out")
    with pytest.raises(BudgetExceededError):
        await asyncio.wait_for(worker.run(), 30)
    worker._budget = {}
    await emptied(worker, journal)
    assert (worker.done, worker.stopped) == (12, None)
    await enqueued(comet, make_folder(tmp_path / "more", 3), tmp_path / "out")
    await emptied(worker, journal)
    assert worker.done == 15


@pytest.mark.parametrize("everything", [False, True], ids=["run", "all tasks"])
async def test_jobs_of_a_worker_that_is_cancelled_go_back_to_the_queue(
    journal: PostgresJournal, many: Path, tmp_path: Path, *, everything: bool
) -> None:
    """By a program that is interrupted: what is paid waits for the next worker, not forever."""
    before = asyncio.all_tasks()
    async with (
        Sandbox(engine="stub", limit=20) as slow,
        session(slow, journal) as comet,
    ):
        await enqueued(comet, many, tmp_path / "out")
        served = asyncio.all_tasks()
        running = asyncio.create_task(FleetWorker(comet).run())
        await until(journal, running=12, in_flight=12)
        while len(slow.ledger.charges) < 12:  # noqa: ASYNC110 - requests are on their way
            await asyncio.sleep(0.01)
        chosen = asyncio.all_tasks() - served if everything else {running}
        for task in chosen:
            if "aiohttp" not in repr(task):
                task.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        status = await fleet_status(journal)
        assert (status.queued, status.running, status.in_flight) == (12, 0, 12)
        slow.assert_charged(12)
    assert asyncio.all_tasks() == before


@pytest.mark.failure("F72")
@pytest.mark.parametrize("cancelled", [False, True], ids=["stopped", "cancelled"])
@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_worker_stops_without_a_database(
    cable: Cable,
    database: str,
    schema: str,
    many: Path,
    tmp_path: Path,
    how: str,
    *,
    cancelled: bool,
) -> None:
    """It does not wait for it; the next worker takes its jobs over, and nothing is paid twice."""
    url = f"postgresql://postgres@127.0.0.1:{cable.port}/postgres"
    async with Sandbox(engine="stub", speed=5, limit=20) as sandbox:
        journal = await PostgresJournal.open(url, schema=schema, patience=600, heartbeat=2)
        async with journal, session(sandbox, journal) as comet:
            await enqueued(comet, many, tmp_path / "out")
            worker = FleetWorker(comet, grace=0)
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(60):
                while not sandbox.ledger.charges:  # noqa: ASYNC110 - the sandbox's
                    await asyncio.sleep(0.01)
            getattr(cable, how)()
            async with asyncio.timeout(120):
                if cancelled:
                    running.cancel()
                    await asyncio.wait({running})
                else:
                    worker.stop()
                    await running
                await comet.aclose(timeout=1)
                await journal.aclose()
        other = await PostgresJournal.open(database, schema=schema, heartbeat=2)
        async with other, session(sandbox, other) as comet:
            await emptied(FleetWorker(comet), other)
        assert sandbox.ledger.charged_twice() == []
        assert len(sandbox.ledger.charges) == 12
    assert len(list((tmp_path / "out").glob("*.png"))) == 12


async def test_a_stop_while_the_database_is_waited_for(cable: Cable, schema: str) -> None:
    """A worker that has not begun takes nothing, and ends."""
    url = f"postgresql://postgres@127.0.0.1:{cable.port}/postgres"
    journal = await PostgresJournal.open(url, schema=schema, patience=600)
    async with journal, CometSession(DEFAULT_KEY, journal=journal) as comet:
        worker = FleetWorker(comet)
        cable.stall()
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(60):
            await asyncio.sleep(0.1)
            worker.stop()
            await running


async def test_closing_while_the_journal_is_opened(
    cable: Cable, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session does not wait for a database that never answers."""
    patient = functools.partial(PostgresJournal.open, patience=600)
    monkeypatch.setattr(PostgresJournal, "open", patient)
    cable.stall()
    url = f"postgresql://postgres@127.0.0.1:{cable.port}/postgres"
    comet = CometSession(DEFAULT_KEY, journal=url)
    call = asyncio.create_task(comet.expand(many / "00.png", WIDE))
    async with asyncio.timeout(60):
        await asyncio.sleep(0.1)
        await comet.aclose()
    with pytest.raises(SessionClosedError):
        await call


async def test_jobs_go_back_although_they_are_cancelled_twice(
    journal: PostgresJournal, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second cancellation, while a slow database takes the first one, removes no entry."""
    putting_back, uncount = asyncio.Event(), Queue.uncount

    async def slowly(self: Queue, driver: Any, entry: int) -> None:  # noqa: ANN401 - PGQueuer's
        putting_back.set()
        await asyncio.sleep(0.2)
        await uncount(self, driver, entry)

    monkeypatch.setattr(Queue, "uncount", slowly)
    async with (
        Sandbox(engine="stub", limit=20) as slow,
        session(slow, journal) as comet,
    ):
        await enqueued(comet, many, tmp_path / "out")
        running = asyncio.create_task(FleetWorker(comet).run())
        await until(journal, running=12, in_flight=12)
        running.cancel()
        await putting_back.wait()
        for task in asyncio.all_tasks():
            if "QueueManager._dispatch" in repr(task):
                task.cancel()
        await asyncio.wait({running})
        status = await fleet_status(journal)
    assert (status.queued, status.running) == (12, 0)


async def test_jobs_that_wait_for_a_slot_are_logged_once(
    journal: PostgresJournal, many: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that takes more jobs than there are slots says so in one line."""
    caplog.set_level(logging.INFO, "comet_async")
    async with Sandbox(engine="stub", speed=0.01, limit=20) as slow:
        comet = CometSession(DEFAULT_KEY, gateway=slow.url, journal=journal, concurrency=2)
        async with comet:
            await enqueued(comet, many, tmp_path / "out")
            worker = FleetWorker(comet, at_once=12, grace=0)
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(60):
                while not (lines := slot_lines(caplog)):  # noqa: ASYNC110 - it logs after 5 s
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            worker.stop()
            await running
    assert [line.levelname for line in slot_lines(caplog)] == ["INFO"]
    assert len(lines) == 1


def slot_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the log says about waiting for slots."""
    records = [each for each in caplog.records if each.levelno >= logging.INFO]
    return [each for each in records if getattr(each, "comet_event", "") == "slotawaited"]
