"""Recovery of a damaged journal: copying what can still be read into a new one.

A job whose row is lost, or may be older than the truth, must never be sent again on the
journal's word alone. So every key that is found anywhere in the damaged file becomes a job,
and everything that could lead to a paid request becomes ``unknown``: it is looked up on the
server first, which costs nothing.
"""

# ruff: noqa: S608  (what is put into SQL text are names of our own tables and columns)

from __future__ import annotations

import asyncio
import contextlib
import glob
import mmap
import os
import re
import shutil
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import attrs

from comet_async._fs import sync_folder
from comet_async._journal.database import connect, migrate
from comet_async._journal.keys import PATTERN
from comet_async._journal.lockfile import FileLock, Mark, absolute, beside, make_file, unused
from comet_async._journal.rows import Row
from comet_async._journal.sql import TABLES, get, read_mark, write_mark
from comet_async._journal.states import JobState
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import JournalCorruptError, JournalError

# After this many unreadable row numbers in a row the rest is considered lost. One damaged page
# hides a few rows, a damaged inner page a few thousand.
_LONGEST_GAP = 20_000


@attrs.frozen(kw_only=True)
class Recovered:
    """What was recovered from a damaged journal.

    Attributes:
        jobs: Jobs whose rows were readable.
        lost: Jobs of which only the key was readable.
        damaged: Where the damaged file is kept.
    """

    jobs: int
    lost: int
    damaged: Path


async def recover(path: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK) -> Recovered:
    """Replace a damaged journal by one with all that can still be read of it.

    The damaged file is kept beside it. Whatever could be sent by the recovered journal is
    ``unknown`` in it, so that it is looked up on the server before anything is paid.

    Args:
        path: The damaged journal.
        clock: The source of time.

    Raises:
        JournalBusyError: It is in use.
        JournalError: It is not there, or the copy can't be written.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _recover, absolute(path), clock.time())


def _recover(path: Path, now: float) -> Recovered:
    if not path.is_file():
        raise JournalError(f"there is no journal {path}")
    lock = FileLock(path)
    try:
        return _rebuild(path, now, lock.mark)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal {path} can't be recovered: {error}") from error
    finally:
        lock.release()


def _rebuild(path: Path, now: float, mark: Mark | None) -> Recovered:
    fresh, damaged = path.with_name(f"{path.name}.new"), unused(path)
    fresh.unlink(missing_ok=True)  # of a recovery that was cut off
    for ending in ("", "-wal"):
        if beside(path, ending).exists():
            make_file(beside(damaged, ending))
            shutil.copyfile(beside(path, ending), beside(damaged, ending))
    make_file(fresh)
    with contextlib.closing(connect(str(fresh))) as db:
        db.execute("BEGIN IMMEDIATE")
        migrate(db)
        with _reading(damaged) as old:
            jobs = copy_rows(old, db)
            _copy_mark(old, db, mark)
        # Earlier copies too: one may hold what a recovery that was cut off left out.
        copies = path.parent.glob(f"{glob.escape(path.name)}*")
        keys = find_keys(copy for copy in copies if copy.is_file())
        lost = add_lost(db, keys, now)
        distrust(db, now)
        db.execute("COMMIT")
    for ending in ("-wal", "-shm"):  # they must never be read with the new file
        beside(path, ending).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)
    return Recovered(jobs=jobs, lost=lost, damaged=damaged)


def _copy_mark(old: sqlite3.Connection, fresh: sqlite3.Connection, mark: Mark | None) -> None:
    """Let the new journal count as the damaged one did."""
    with contextlib.suppress(sqlite3.Error, ValueError):
        mark = read_mark(old)  # it may be an older copy, and then the new one is, too
    if mark is not None:
        write_mark(fresh, mark)


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """Open *path* without changing it."""
    with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        yield db
    beside(path, "-shm").unlink(missing_ok=True)
    wal = beside(path, "-wal")
    if wal.exists() and not wal.stat().st_size:  # SQLite made it just now
        wal.unlink()


def copy_rows(old: sqlite3.Connection, fresh: sqlite3.Connection) -> int:
    """Copy all that is readable of *old* and return how many jobs that is."""
    for table in TABLES:
        for columns, row in _readable(old, fresh, table):
            _insert(fresh, table, columns, row)
        if table == "job":
            _drop_unreadable(fresh)
            fresh.execute("DELETE FROM event")  # what the triggers wrote while copying
    fresh.execute("DELETE FROM event WHERE job NOT IN (SELECT id FROM job)")
    ((number,),) = fresh.execute("SELECT count(*) FROM job")
    return int(number)


def add_lost(fresh: sqlite3.Connection, keys: Iterable[str], now: float) -> int:
    """Add a job for each of *keys* that is missing, and return how many that is.

    No more than the key is known; planning the same image again completes the record.
    """
    lost = sorted(key for key in keys if get(fresh, key) is None)
    for key in lost:
        fresh.execute(
            "INSERT INTO job (key, kind, account, state, fence, attempt, absent, sent_at,"
            " post_deadline, params, n, source, image_sha, images, message, note,"
            " created_at, updated_at, why)"
            " VALUES (?, '', '', ?, 0, 1, 0, 0, ?, '{}', 1, '', '', '[]', '', '', ?, ?, ?)",
            (key, JobState.UNKNOWN.value, now, now, now, "only its key was readable"),
        )
    return len(lost)


def distrust(fresh: sqlite3.Connection, now: float) -> None:
    """Mark as ``unknown`` all that could otherwise be sent: its row may be an old one."""
    fresh.execute(
        "UPDATE job SET state = ?, fence = fence + 1, updated_at = ?, why = ?,"
        # A search of the server's list goes back to sent_at: better too far than too short.
        " sent_at = coalesce(sent_at, created_at), post_deadline = ?"
        " WHERE state IN (?, ?, ?)",
        (
            JobState.UNKNOWN.value,
            now,
            "recovered from a damaged journal",
            now,
            JobState.PLANNED.value,
            JobState.SENDING.value,
            JobState.REJECTED.value,  # the next run sends it again
        ),
    )


def find_keys(files: Iterable[Path]) -> set[str]:
    """Return every key of ours that occurs in *files*, whatever else they hold."""
    pattern = re.compile(PATTERN.encode("ascii"))
    keys: set[str] = set()
    for file in files:
        with file.open("rb") as handle:
            if file.stat().st_size:
                with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    keys.update(found.group().decode("ascii") for found in pattern.finditer(data))
    return keys


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _readable(
    old: sqlite3.Connection, fresh: sqlite3.Connection, table: str
) -> Iterator[tuple[list[str], Row]]:
    """Yield the rows of *table* that can be read, stepping over those that can't."""
    try:
        there = set(_columns(old, table))
    except sqlite3.Error:
        return  # not even the names of the tables
    columns = [name for name in _columns(fresh, table) if name in there]
    sql = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid"
    last, gap = 0, 0
    while columns and gap < _LONGEST_GAP:
        try:
            for number, *row in old.execute(sql, (last,)):
                last, gap = number, 0
                yield columns, tuple(row)
        except sqlite3.Error:
            last, gap = last + 1, gap + 1
        else:
            return


def _insert(fresh: sqlite3.Connection, table: str, columns: list[str], row: Row) -> None:
    marks = ", ".join("?" * len(columns))
    try:
        fresh.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
    except sqlite3.Error:
        return  # damaged, or it belongs to a job that is lost


def _drop_unreadable(fresh: sqlite3.Connection) -> None:
    """Drop jobs whose rows came over but make no sense."""
    for (key,) in list(fresh.execute("SELECT key FROM job")):
        try:
            get(fresh, key)
        except (JournalCorruptError, TypeError):
            fresh.execute("DELETE FROM job WHERE key = ?", (key,))
