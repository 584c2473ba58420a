"""The journals: the suite for both, and what only the one on disk can do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import comet_async.journal
from comet_async._journal import database, sql as statements
from comet_async._journal.keys import content_key
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import JobRecord, Limits, Refusal
from comet_async._journal.rows import FIELDS
from comet_async._journal.states import JobState
from comet_async.errors import (
    ForkedSessionError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
)
from comet_async.journal import SqliteJournal
from tests.support.journal_contract import (
    NOW,
    JournalSuite,
    image,
    new_job,
    planned,
    saved,
    step,
    walked,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from comet_async._journal.records import Journal
    from comet_async.testing import VirtualClock

S = JobState


class TestMemoryJournal(JournalSuite):
    """The suite in memory."""

    @pytest.fixture
    async def journal(self) -> AsyncIterator[Journal]:
        """Return an empty journal."""
        async with MemoryJournal() as journal:
            yield journal


class TestSqliteJournal(JournalSuite):
    """The suite on disk."""

    @pytest.fixture
    async def journal(self, path: Path) -> AsyncIterator[Journal]:
        """Return an empty journal."""
        async with await SqliteJournal.open(path) as journal:
            yield journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a journal may be, in a folder that is not there yet."""
    return tmp_path / "out" / ".comet-async" / "journal.sqlite3"


def sql(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run one statement on the file from outside, as a tool of the user's would."""
    db = sqlite3.connect(path)
    with db:
        rows = db.execute(statement, values).fetchall()
    db.close()
    return rows


def modes(folder: Path) -> dict[str, str]:
    """Return the permissions of all that lies in *folder*, in octal."""
    return {file.name: f"{file.stat().st_mode & 0o777:o}" for file in folder.iterdir()}


def share(path: Path) -> None:
    """Make an empty file that everybody may read."""
    path.parent.mkdir(parents=True, mode=0o755)
    path.touch(mode=0o644)


def content(path: Path) -> bytes:
    """Return the file's bytes; a folder has none."""
    return path.read_bytes() if path.is_file() else b""


# Opening ------------------------------------------------------------------------------------


async def test_everything_is_there_after_opening_again(path: Path) -> None:
    """What one process wrote, the next one reads."""
    async with await SqliteJournal.open(path) as journal:
        record = await walked(journal, S.SUCCEEDED)
        record = await journal.note(record, now=NOW, images=(image(),), task_id="t")
        await journal.save_file(record.key, "photos/0", saved())
        await journal.write_meta("fact", 1)
    async with await SqliteJournal.open(path) as journal:
        assert await journal.get(record.key) == record
        assert (await journal.destinations(record.key))[0].files == (saved(),)
        assert await journal.read_meta("fact") == 1


async def test_what_another_opening_was_sending_is_unknown(path: Path, clock: VirtualClock) -> None:
    """A request whose process ended may have been accepted (T6)."""
    async with await SqliteJournal.open(path, clock=clock) as journal:
        sent = await walked(journal, S.SENDING)
    async with await SqliteJournal.open(path, clock=clock) as journal:
        record = await journal.get(sent.key)
        assert record is not None
        assert (record.state, record.fence) == (S.UNKNOWN, sent.fence + 1)
        event = (await journal.events(sent.key))[-1]
        assert (event.old, event.new, event.at) == ("sending", "unknown", record.updated_at)


async def test_what_the_same_opening_is_sending_stays(path: Path) -> None:
    """An opening that is continued under its name still knows its requests."""
    async with await SqliteJournal.open(path, boot="b") as journal:
        sent = await walked(journal, S.SENDING)
    async with await SqliteJournal.open(path, boot="b") as journal:
        assert await journal.get(sent.key) == sent


async def test_a_path_is_kept_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the folder that it was given in."""
    monkeypatch.chdir(tmp_path)
    async with await SqliteJournal.open("journal.sqlite3") as journal:
        assert journal.path == tmp_path / "journal.sqlite3"


async def test_only_the_user_can_read_it(path: Path) -> None:
    """Folder and files, also those that SQLite makes, are private."""
    async with await SqliteJournal.open(path) as journal:
        await planned(journal)
        assert set(modes(path.parent).values()) == {"600"}
        assert {"journal.sqlite3-wal", "journal.sqlite3-shm"} < modes(path.parent).keys()
    assert modes(path.parent.parent) == {".comet-async": "700"}


async def test_a_journal_that_others_could_read_is_closed_to_them(path: Path) -> None:
    """A copy made with wider permissions is narrowed; a folder of the user's is left alone."""
    share(path)
    async with await SqliteJournal.open(path):
        assert modes(path.parent)[path.name] == "600"
    assert modes(path.parent.parent) == {".comet-async": "755"}


async def test_commits_survive_a_power_cut(path: Path) -> None:
    """Each commit is synced to the disk: WAL with synchronous=FULL (2)."""
    seen = []

    def look(name: str) -> None:
        if name == "after:meta":
            seen.append(sql(path, "PRAGMA journal_mode"))

    async with await SqliteJournal.open(path, hook=look) as journal:
        await journal.write_meta("fact", 1)
        writer = journal._writer
        level = await writer.run("", lambda db: list(db.execute("PRAGMA synchronous")))
    assert seen == [[("wal",)]]
    assert level == [(2,)]


async def test_on_a_network_disk_it_does_without_shared_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAL can't work there, so the older way of SQLite is used."""
    monkeypatch.setattr(database, "on_network", lambda _folder: True)
    async with await SqliteJournal.open(path) as journal:
        record = await planned(journal)
        assert "journal.sqlite3-shm" not in modes(path.parent)
        assert sql(path, "SELECT key FROM job") == [(record.key,)]


async def test_a_journal_of_an_earlier_version_is_migrated(path: Path) -> None:
    """Its jobs are kept, and what it sent is counted from now on."""
    async with await SqliteJournal.open(path) as journal:
        record = await walked(journal, S.SUBMITTED)
        await planned(journal, 1)
    path.with_name(f"{path.name}.lock").unlink()
    for statement in (
        "DROP TRIGGER job_sent",
        "DROP TABLE mark",
        "DROP TABLE source",
        "DROP TABLE outcome",
        "PRAGMA user_version = 1",
    ):
        sql(path, statement)
    async with await SqliteJournal.open(path) as journal:
        assert await journal.get(record.key) == record
        assert sql(path, "SELECT sends FROM mark") == [(1,)]
        await walked(journal, S.SENDING, 2)
        assert sql(path, "SELECT sends FROM mark") == [(2,)]


# Not opening --------------------------------------------------------------------------------

HOLDER = """
import asyncio, sys
from comet_async.journal import SqliteJournal

async def main():
    async with await SqliteJournal.open(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


async def test_another_process_has_it(path: Path) -> None:
    """The error names the process; when that is killed, the journal is free."""
    root = Path(comet_async.journal.__file__).parent.parent
    child = subprocess.Popen(  # noqa: ASYNC220 - the wait for its word is the test
        [sys.executable, "-c", HOLDER, str(path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(JournalBusyError, match=f"process {child.pid}") as caught:
            await SqliteJournal.open(path)
        child.kill()
    assert caught.value.pid == child.pid
    await (await SqliteJournal.open(path)).aclose()


async def test_this_process_has_it(path: Path) -> None:
    """Two openings in one process would not see each other's counts either."""
    async with await SqliteJournal.open(path):
        with pytest.raises(JournalBusyError, match="this process") as caught:
            await SqliteJournal.open(path)
    assert caught.value.pid == os.getpid()


def other_program(path: Path) -> None:
    """Make a database that is no journal."""
    sql(path, "CREATE TABLE bookmarks (url)")


def newer_version(path: Path) -> None:
    """Make a journal as a later release might."""
    sql(path, "CREATE TABLE job (key)")
    sql(path, f"PRAGMA application_id = {0x63653161}")
    sql(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 99), JournalCorruptError, "recover"),
        (other_program, JournalError, "another program"),
        (newer_version, JournalError, "upgrade comet_async"),
        (Path.mkdir, JournalError, "Is a directory"),
    ],
    ids=["garbage", "other program", "newer", "folder"],
)
async def test_what_is_no_journal_is_left_alone(
    path: Path, make: Callable[[Path], None], error: type[JournalError], text: str
) -> None:
    """What can't be read for sure is not touched, and the lock is given back."""
    path.parent.mkdir(parents=True)
    make(path)
    before = content(path)
    for _ in range(2):
        with pytest.raises(error, match=text):
            await SqliteJournal.open(path)
    assert content(path) == before


async def test_an_open_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    """The lock is free for the next one."""
    task = asyncio.create_task(SqliteJournal.open(path))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await (await SqliteJournal.open(path)).aclose()


async def test_a_row_that_makes_no_sense_is_an_error(path: Path) -> None:
    """A word that no version wrote is damage, not a state."""
    async with await SqliteJournal.open(path) as journal:
        record = await planned(journal)
    sql(path, "UPDATE job SET state = 'blue'")
    async with await SqliteJournal.open(path) as journal:
        with pytest.raises(JournalCorruptError, match=f"{record.key}.*recover"):
            await journal.get(record.key)


@pytest.mark.parametrize("where", range(2), ids=["in one place", "in the other"])
async def test_a_flipped_bit_in_a_key_is_found(path: Path, where: int) -> None:
    """A key stands in a row and in the index; if they differ, a paid job could seem new."""
    async with await SqliteJournal.open(path) as journal:
        key = (await walked(journal, S.SUBMITTED, 3)).key.encode()
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data.startswith(key, i)]
    assert len(places) == 2
    data[places[where] + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorruptError, match=r"recover"):
        await SqliteJournal.open(path)


def bytes_read() -> int:
    """Return how many bytes this process has read, from files and sockets."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is read as Linux does")
async def test_a_small_journal_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check at the opening has read is there when the jobs are looked up."""
    keys = [content_key("expand", {"image": str(number)}, {}) for number in range(1000)]
    async with await SqliteJournal.open(path) as journal:
        await journal.plan([new_job(key=key) for key in keys], now=NOW)
    monkeypatch.setattr(database, "_CACHE", 65_536)
    before = bytes_read()
    async with await SqliteJournal.open(path) as journal:
        for first in range(0, 1000, 50):
            await journal.saved(keys[first : first + 50])
    assert path.stat().st_size > 400_000
    assert bytes_read() - before < 1.2 * path.stat().st_size


async def test_events_are_kept_for_a_year(path: Path) -> None:
    """At an opening those that are a year older than the newest one are dropped; jobs stay."""
    year = 365 * 86400.0
    async with await SqliteJournal.open(path) as journal:
        for number, now in enumerate((NOW, NOW + 18, NOW + year + 9)):
            await journal.plan([new_job(number)], now=now)
        assert len(await journal.events()) == 3
    async with await SqliteJournal.open(path) as journal:
        assert [event.at for event in await journal.events()] == [NOW + 18, NOW + year + 9]
        assert await journal.counts() == {S.PLANNED: 3}


async def test_a_file_that_is_kept_stays_in_its_row(path: Path) -> None:
    """Rows that moved would leave half of the table's pages empty."""
    async with await SqliteJournal.open(path) as journal:
        for number in range(3):
            await planned(journal, number)
        for kept in (False, True):
            for number in range(3):
                file = saved(f"photos/{number}.png", kept=kept)
                await journal.save_file(new_job(number).key, f"photos/{number}", file)
        rows = sql(path, "SELECT rowid, name, kept FROM file ORDER BY rowid")
        assert rows == [(number + 1, f"photos/{number}.png", 1) for number in range(3)]


# Using --------------------------------------------------------------------------------------


def test_one_journal_in_two_loops(path: Path) -> None:
    """Nothing in it belongs to a loop: it may be opened in one and used in the next."""
    journal = asyncio.run(SqliteJournal.open(path))
    record = asyncio.run(planned(journal))
    sent = asyncio.run(step(journal, record, S.SENDING))
    asyncio.run(journal.aclose())
    assert sent.state is S.SENDING


async def test_a_loop_in_another_thread(path: Path) -> None:
    """Two loops at once share it: each gets its own answers."""
    async with await SqliteJournal.open(path) as journal:
        here = [planned(journal, number) for number in range(10)]
        there = asyncio.to_thread(asyncio.run, journal.plan([new_job(20)], now=NOW))
        *_, other = await asyncio.gather(*here, there)
        assert other == [await journal.get(new_job(20).key)]
        assert sum((await journal.counts()).values()) == 11


async def test_a_forked_process_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread and the locks stayed with the parent; closing there is none of its business."""
    async with await SqliteJournal.open(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ForkedSessionError, match="opened by process"):
                await journal.counts()
            await journal.aclose()
        with pytest.raises(JournalBusyError):
            await SqliteJournal.open(path)


async def test_no_column_for_a_key_or_an_image(path: Path) -> None:
    """What is in a journal is a short list, and every addition must be thought about."""
    await (await SqliteJournal.open(path)).aclose()
    columns = sql(
        path,
        "SELECT t.name, group_concat(c.name, ' ') FROM sqlite_master t, pragma_table_info(t.name) c"
        " WHERE t.type = 'table' GROUP BY t.name",
    )
    assert dict(columns) == {
        "job": "id key kind account state fence boot run attempt absent sent_at post_deadline"
        " params n source image_sha task_id images images_seen_at message units status code"
        " request_id note created_at updated_at why",
        "destination": "job dest source",
        "file": "job dest number name sha256 size kept",
        "run": "id jobs images",
        "meta": "name value",
        "event": "id job at old new why",
        "mark": "journal sends",
        "source": "path variant size mtime_ns ctime_ns inode read_at_ns facts",
        "outcome": "source outcome key files reason hint notes copied billed at",
    }


async def test_no_file_holds_a_key(path: Path) -> None:
    """A key that a server repeats in its words is in none of the files."""
    async with await SqliteJournal.open(path) as journal:
        record = await walked(journal, S.SENDING)
        for text in ("sk-canary12345", "Bearer canary12345", "https://x/?sign=canary12345"):
            record = await journal.note(record, now=NOW, message=text, note=text)
        await journal.move(record, S.UNKNOWN, now=NOW, why="sk-canary12345")
        files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert len(files) == 4
    assert not [name for name, data in files.items() if b"canary" in data]


async def test_pages_bound_the_memory(path: Path) -> None:
    """Walking through many jobs holds one page at a time."""
    number = 3_000
    async with await SqliteJournal.open(path) as journal:
        for first in range(0, number, 500):
            page = range(first, first + 500)
            jobs = [
                new_job(key=f"user-{i}", dest=f"{i}", params={"prompt": "x" * 500}) for i in page
            ]
            await journal.plan(jobs, now=NOW)
        tracemalloc.start()
        seen, after = 0, ""
        while records := await journal.find(after=after, limit=100):
            seen, after = seen + len(records), records[-1].key
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seen == number
    assert peak < 1_000_000  # all at once are above 10 MB


async def test_old_events_are_dropped_while_it_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may run for years: what is older than one is dropped on the way."""
    monkeypatch.setattr(database, "_ROWS_BETWEEN", 20)
    async with await SqliteJournal.open(path) as journal:
        old = await planned(journal)
        for number in range(1, 21):
            await journal.plan([new_job(number)], now=NOW + 366 * 86400.0)
        assert await journal.events(old.key) == []
        assert len(await journal.events(new_job(20).key)) == 1
        assert await journal.get(old.key) == old


async def test_few_writes_drop_no_events(path: Path) -> None:
    """Old events are looked for once in ten thousand rows."""
    async with await SqliteJournal.open(path) as journal:
        old = await planned(journal)
        await journal.plan([new_job(1)], now=NOW + 366 * 86400.0)
        assert len(await journal.events(old.key)) == 1


async def test_threads_do_not_share_the_last_job_of_a_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit is checked and counted in one step: nobody comes between."""
    journal = MemoryJournal()
    records = [await planned(journal, number) for number in range(2)]
    checked, sent = threading.Event(), threading.Event()
    refusal = Limits.refusal

    def slow(self: Limits, n: int, **counts: int) -> Refusal | None:
        found = refusal(self, n, **counts)
        if not checked.is_set():
            checked.set()
            sent.wait(0.2)
        return found

    def send(record: JobRecord) -> JobRecord | Refusal:
        limits = Limits(jobs=1)
        found = asyncio.run(
            journal.send(record, now=NOW, post_deadline=60.0, limits=limits, run="r")
        )
        sent.set()
        return found

    monkeypatch.setattr(Limits, "refusal", slow)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        first = threads.submit(send, records[0])
        assert await asyncio.to_thread(checked.wait, 10)
        second = threads.submit(send, records[1])
        assert await asyncio.to_thread(second.result, 10) is Refusal.JOBS
        assert isinstance(first.result(10), JobRecord)
    assert await journal.in_flight() == 1


@pytest.mark.parametrize("on_disk", [True, False])
async def test_the_newest_job_of_an_account_is_found(path: Path, *, on_disk: bool) -> None:
    """The last that was planned: of its kind, in one of the states, and with a task."""
    journal = await SqliteJournal.open(path) if on_disk else MemoryJournal()
    wanted = {S.SUBMITTED, S.DONE}
    async with journal:
        assert await journal.newest(wanted, account="5f1e", kind="expand") is None
        await step(journal, await walked(journal, S.SENDING, 0), S.SUBMITTED, task_id="a")
        newer = await step(journal, await walked(journal, S.SENDING, 1), S.SUBMITTED, task_id="b")
        await walked(journal, S.SUBMITTED, 2)  # without the id of its task
        await planned(journal, 3)
        for number, changes in ((4, {"account": "other"}), (5, {"kind": "try-on"})):
            sending = await walked(journal, S.SENDING, number, **changes)
            await step(journal, sending, S.SUBMITTED, task_id=f"c{number}")
        failed = await step(journal, await walked(journal, S.SENDING, 6), S.SUBMITTED, task_id="d")
        await step(journal, failed, S.FAILED)
        assert await journal.newest(wanted, account="5f1e", kind="expand") == newer


async def test_asking_for_done_jobs_takes_no_longer_among_many(path: Path) -> None:
    """A run over finished work asks for each page of it: among 2,000 jobs as among 20."""
    async with await SqliteJournal.open(path) as journal:
        done = await walked(journal, S.DONE)
    fields = ["absent", *(name for name in FIELDS if name not in {"key", "task_id"})]
    page = [done.key, *(f"new{number}" for number in range(31))]
    steps: list[int] = []

    def counted(db: sqlite3.Connection) -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        db.set_progress_handler(step, 1)
        assert list(statements.saved(db, page)) == [done.key]
        db.set_progress_handler(None, 1)
        return count

    with contextlib.closing(sqlite3.connect(path)) as db:
        for number in range(2000):
            if number in {20, 1999}:
                steps.append(counted(db))
            db.execute(
                f"INSERT INTO job (key, {', '.join(fields)})"  # noqa: S608 - the columns
                f" SELECT 'k{number}', {', '.join(fields)} FROM job WHERE key = ?",
                (done.key,),
            )
    assert steps[0] == steps[1]


def test_no_space_for_the_index_of_the_log_is_a_full_disk(path: Path) -> None:
    """SQLite calls it an I/O error, which says nothing about what to do."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert "free some space" in str(database.translated(path, error))
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert "free some space" not in str(database.translated(path, error))
