"""One thread, one commit for all that waits: what is promised whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from comet_async._journal.database import Connection
from comet_async._journal.group_commit import GroupCommitWriter
from comet_async._journal.states import JobState
from comet_async.errors import IdempotencyConflictError, JournalError, StaleRecordError
from comet_async.journal import SqliteJournal
from tests.support.journal_contract import NOW, new_job, planned, saved, step, walked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from comet_async._journal.records import JobRecord

S = JobState


class Gate:
    """A hook that remembers all commits and can hold the thread before the next.

    Attributes:
        seen: What the hook was called with.
        then: Called in the thread after the commit that was held.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.then: Callable[[], object] = lambda: None
        self.opened = threading.Event()

    def __call__(self, name: str) -> None:
        """Take part in a commit."""
        self.seen.append(name)
        if name == "before:meta":
            self.opened.wait(30)
        if name == "after:meta":
            self.then()

    @contextlib.asynccontextmanager
    async def closed(self, journal: SqliteJournal) -> AsyncIterator[None]:
        """Hold the thread, so that all that is asked for inside goes into one batch."""
        held = asyncio.create_task(journal.write_meta("held", 1))
        while "before:meta" not in self.seen:  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0)
        yield
        await asyncio.sleep(0)  # let the tasks of the block queue what they have
        assert not held.done(), "woken before the commit"
        self.seen.clear()
        self.opened.set()
        await held


@pytest.fixture
def gate() -> Gate:
    """Return a gate that is open."""
    return Gate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the journal is."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
async def journal(path: Path, gate: Gate) -> AsyncIterator[SqliteJournal]:
    """Return an empty journal whose commits go through the gate."""
    async with await SqliteJournal.open(path, hook=gate) as journal:
        yield journal


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size* bytes: a full disk without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def records(journal: SqliteJournal, number: int) -> list[JobRecord]:
    """Plan *number* jobs."""
    return await journal.plan([new_job(key=f"user-{i}") for i in range(number)], now=NOW)


async def test_many_share_one_commit(journal: SqliteJournal, gate: Gate) -> None:
    """A hundred moves that wait together are committed together."""
    jobs = await records(journal, 100)
    async with gate.closed(journal):
        moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    sent = await asyncio.gather(*moves)
    assert {job.state for job in sent} == {S.SENDING}
    assert gate.seen == ["after:meta"] + ["before:T2"] * 100 + ["after:T2"] * 100


async def test_hooks_stand_around_the_commit(path: Path) -> None:
    """Before it nobody sees the write, after it everybody does."""
    seen = {}

    def look(name: str) -> None:
        with contextlib.closing(sqlite3.connect(path)) as outside:
            seen[name] = outside.execute("SELECT state FROM job").fetchall()

    async with await SqliteJournal.open(path, hook=look) as journal:
        await walked(journal, S.SENDING)
    assert seen == {
        "before:T1": [],
        "after:T1": [("planned",)],
        "before:T2": [("planned",)],
        "after:T2": [("sending",)],
    }


async def test_a_refusal_is_no_harm_to_the_neighbours(journal: SqliteJournal, gate: Gate) -> None:
    """In one commit, one stale record fails alone."""
    jobs = await records(journal, 3)
    newer = await journal.note(jobs[1], now=NOW)
    async with gate.closed(journal):
        moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    first, second, third = await asyncio.gather(*moves, return_exceptions=True)
    assert isinstance(second, StaleRecordError)
    assert [await journal.get(job.key) for job in jobs] == [first, newer, third]
    assert gate.seen == ["after:meta"] + ["before:T2"] * 2 + ["after:T2"] * 2


async def test_a_failure_half_way_is_undone_alone(journal: SqliteJournal, gate: Gate) -> None:
    """An operation that had written before it failed leaves nothing, its neighbours all."""
    await records(journal, 1)
    async with gate.closed(journal):
        good = asyncio.create_task(planned(journal, 1))
        jobs = [new_job(2), new_job(key="user-0", n=2)]
        bad = asyncio.create_task(journal.plan(jobs, now=NOW))
        also_good = asyncio.create_task(planned(journal, 3))
    with pytest.raises(IdempotencyConflictError):
        await bad
    expected = ["user-0", (await good).key, (await also_good).key]
    assert [job.key for job in await journal.find()] == expected


async def test_a_fault_of_ours_reaches_its_caller_only(journal: SqliteJournal, gate: Gate) -> None:
    """Whatever an operation raises is raised where it was asked for."""
    async with gate.closed(journal):
        bad = asyncio.create_task(journal._writer.run("", lambda _db: 1 // 0))
        good = asyncio.create_task(planned(journal))
    with pytest.raises(ZeroDivisionError):
        await bad
    assert (await good).state is S.PLANNED


async def test_a_cancelled_caller_does_not_lose_the_write(
    journal: SqliteJournal, gate: Gate
) -> None:
    """Only the waiting ends; what was asked for is done."""
    (job,) = await records(journal, 1)
    async with gate.closed(journal):
        task = asyncio.create_task(step(journal, job, S.SENDING))
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await journal.counts() == {S.SENDING: 1}


async def test_a_failure_nobody_waits_for_is_logged(
    journal: SqliteJournal, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that failed after its caller had gone must not pass in silence."""
    (job,) = await records(journal, 1)
    await journal.note(job, now=NOW)
    async with gate.closed(journal):
        task = asyncio.create_task(step(journal, job, S.SENDING))
        await asyncio.sleep(0)
        task.cancel()
    await journal.counts()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "user-0 was expected as planned (0)" in caplog.text


def test_a_loop_that_ends_does_not_lose_the_write(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop may close while the thread is writing; only failures make a sound."""
    gate = Gate()
    journal = asyncio.run(SqliteJournal.open(path, hook=gate))
    (job,) = asyncio.run(records(journal, 1))

    async def leave() -> None:
        async with asyncio.timeout(30), gate.closed(journal):
            calls = (step(journal, job, S.SENDING), journal.save_file("nothing", "", saved()))
            tasks = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(leave())
    gate.opened.set()
    assert asyncio.run(journal.counts()) == {S.SENDING: 1}
    asyncio.run(journal.aclose())
    assert [record.getMessage() for record in caplog.records] == [
        "a write failed after its caller was gone: job nothing has no destination"
    ]


async def test_closing_finishes_what_is_queued(path: Path, gate: Gate) -> None:
    """Nothing that was asked for before the end is lost."""
    journal = await SqliteJournal.open(path, hook=gate)
    jobs = await records(journal, 10)
    moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    await asyncio.sleep(0)
    await asyncio.gather(journal.aclose(), journal.aclose())
    assert {job.state for job in await asyncio.gather(*moves)} == {S.SENDING}
    async with await SqliteJournal.open(path, boot=journal.boot) as again:
        assert await again.counts() == {S.SENDING: 10}


async def test_an_opening_that_fails_after_its_caller_was_cancelled_is_silent(gate: Gate) -> None:
    """The caller has gone: asyncio prints no traceback of an error that nobody could handle."""

    def refuse() -> Connection:
        gate.opened.wait(30)
        raise JournalError("it is locked")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: reported.append(about))
    writer = GroupCommitWriter[Connection]("journal")
    task = asyncio.create_task(writer.open(refuse))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.wait({task})
    gc.collect()
    assert reported == []


async def test_closing_ends_before_its_cancelled_caller_does(path: Path, gate: Gate) -> None:
    """The lock must not stay behind: the next statement, or loop, may open the journal again."""
    journal = await SqliteJournal.open(path, hook=gate)
    async with gate.closed(journal):
        task = asyncio.create_task(journal.aclose())
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await (await SqliteJournal.open(path)).aclose()


async def test_a_forgotten_journal_warns(path: Path) -> None:
    """Never closing it is a mistake; its file is freed all the same."""
    journal = await SqliteJournal.open(path)
    thread = journal._writer._thread
    thread.submit(int).result()  # it keeps what it did last until it has something else to do
    with pytest.warns(ResourceWarning, match=r"unclosed journal .*journal\.sqlite3"):  # noqa: PT031 - both lines matter
        del journal
        gc.collect()
    thread.shutdown()
    await (await SqliteJournal.open(path)).aclose()


async def test_a_full_disk_fails_the_write(journal: SqliteJournal, path: Path) -> None:
    """Nothing is half written, and when there is room again the journal works on."""
    record = await walked(journal, S.SENDING)
    wal = path.with_name(f"{path.name}-wal")
    with file_size_limit(wal.stat().st_size + 5_000):
        with pytest.raises(JournalError, match=r"can't be used") as caught:
            await journal.move(record, S.UNKNOWN, now=NOW, note="x " * 25_000)
        assert await journal.get(record.key) == record
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    moved = await journal.move(record, S.SUBMITTED, now=NOW, task_id="t")
    assert await journal.get(record.key) == moved
    assert [event.new for event in await journal.events()] == ["planned", "sending", "submitted"]


async def test_on_a_full_disk_small_writes_may_pass(journal: SqliteJournal, gate: Gate) -> None:
    """What does not fit fails alone, also when it was to share a commit."""
    jobs = await records(journal, 3)
    await journal._writer.run("", lambda db: db.execute("PRAGMA max_page_count = 30"))
    async with gate.closed(journal):
        moves = [
            asyncio.create_task(journal.note(job, now=NOW, note="x " * size))
            for job, size in zip(jobs, (10, 100_000, 10), strict=True)
        ]
    first, second, third = await asyncio.gather(*moves, return_exceptions=True)
    assert isinstance(second, JournalError)
    assert "full (free some space on its disk)" in str(second)
    assert [await journal.get(job.key) for job in jobs] == [first, jobs[1], third]


class Shut(Connection):
    """A connection on which no transaction can begin; the first try takes its time."""

    def __init__(self) -> None:
        super().__init__(":memory:", check_same_thread=False)
        self.tries: list[str] = []
        self.go = threading.Event()

    def execute(self, sql: str, _parameters: object = (), /) -> Any:  # noqa: ANN401 - a cursor
        """Fail."""
        self.tries.append(sql)
        self.go.wait(30)
        raise OSError(sql)


async def test_what_cannot_begin_is_tried_once(path: Path) -> None:
    """One wait for a busy file, not one for each of those who wait."""
    shut, writer = Shut(), GroupCommitWriter(path)
    await writer.open(lambda: shut)
    calls = [asyncio.create_task(writer.run("", lambda _db: None)) for _ in range(9)]
    await asyncio.sleep(0)
    shut.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {str(result) for result in results} == {"BEGIN IMMEDIATE"}
    assert len(shut.tries) <= 2  # the thread may have begun with the first call alone
    await writer.aclose()


async def test_a_tool_that_holds_the_file_fails_all_that_wait(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so, and later all is well."""
    monkeypatch.setattr("comet_async._journal.database._BUSY_TIMEOUT", 0.01)
    async with await SqliteJournal.open(path, hook=gate) as journal:
        tool = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        gate.then = lambda: tool.execute("BEGIN IMMEDIATE")
        async with gate.closed(journal):
            calls = [asyncio.create_task(planned(journal, number)) for number in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        tool.close()
        assert await journal.counts() == {}
    assert ["locked" in str(result) for result in results] == [True] * 3


async def test_after_company_the_thread_waits_for_as_many(
    journal: SqliteJournal, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that write at the same time again share the next commit again, whoever is first."""
    monkeypatch.setattr("comet_async._journal.group_commit._GATHER", 30.0)
    monkeypatch.setattr("comet_async._journal.group_commit._ENOUGH", 2)
    jobs = await records(journal, 3)
    async with gate.closed(journal):
        moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    jobs = list(await asyncio.gather(*moves))
    gate.seen.clear()
    notes = []
    for job in jobs:
        notes.append(asyncio.create_task(journal.note(job, now=NOW)))
        await asyncio.sleep(0.01)  # time in which a thread that does not wait would commit
    await asyncio.gather(*notes)
    assert gate.seen == ["before:note"] * 3 + ["after:note"] * 3


async def test_who_comes_after_a_pause_is_alone(
    journal: SqliteJournal, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread waits for company once after a commit for several, not before the next one."""
    jobs = await records(journal, 3)
    async with gate.closed(journal):
        moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    job, *_ = await asyncio.gather(*moves)
    while journal._writer._draining:  # noqa: ASYNC110 - nothing tells of a thread that rests
        await asyncio.sleep(0.001)
    monkeypatch.setattr("comet_async._journal.group_commit._GATHER", 3600.0)
    assert (await journal.note(job, now=NOW)).state is S.SENDING


async def test_closing_does_not_wait_for_company(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody comes any more; what is queued is written at once."""
    monkeypatch.setattr("comet_async._journal.group_commit._GATHER", 3600.0)
    journal = await SqliteJournal.open(path, hook=gate)
    jobs = await records(journal, 3)
    async with gate.closed(journal):
        moves = [asyncio.create_task(step(journal, job, S.SENDING)) for job in jobs]
    await asyncio.gather(*moves)
    note = asyncio.create_task(journal.note(await moves[0], now=NOW))
    await asyncio.sleep(0)
    await journal.aclose()
    assert (await note).state is S.SENDING
