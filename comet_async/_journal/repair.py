"""Getting out of a damaged journal what can still be read.

A job whose row is lost, or may be older than the truth, must never be sent again on the
journal's word alone. So every key that is found anywhere in the damaged file becomes a job,
and everything that could lead to a paid request becomes ``unknown``: it is looked up on the
server first, which costs nothing.

Rule of this file: ``sqlite3`` is not imported; its errors are handed in.
"""

# ruff: noqa: S608  (what is put into SQL text are names of our own tables and columns)

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from comet_async._idempotency import PATTERN
from comet_async._journal.sql import TABLES, Database, Row, get
from comet_async._journal.states import JobState
from comet_async.errors import JournalCorruptError

# After that many unreadable row numbers in a row the rest is taken for lost. One damaged page
# hides a few rows, a damaged inner page some thousands.
_LONGEST_GAP = 20_000

_Errors = type[Exception]


def copy_rows(old: Database, fresh: Database, broken: _Errors) -> int:
    """Copy all that is readable and return how many jobs that are.

    Args:
        old: The damaged journal.
        fresh: A new one, with an open transaction.
        broken: What *old* raises where it is damaged and *fresh* where a row does not fit.
    """
    for table in TABLES:
        for columns, row in _readable(old, fresh, table, broken):
            _insert(fresh, table, columns, row, broken)
        if table == "job":
            _drop_unreadable(fresh, broken)
            fresh.execute("DELETE FROM event")  # what the triggers wrote while copying
    fresh.execute("DELETE FROM event WHERE job NOT IN (SELECT id FROM job)")
    ((number,),) = fresh.execute("SELECT count(*) FROM job")
    return int(number)


def add_lost(fresh: Database, keys: Iterable[str], now: float) -> int:
    """Add a job for each of *keys* that is not there, and return how many those are.

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


def distrust(fresh: Database, now: float) -> None:
    """Have everything looked up that could otherwise be sent: its row may be an old one."""
    fresh.execute(
        "UPDATE job SET state = ?, fence = fence + 1, absent = 0, updated_at = ?, why = ?,"
        # A search of the server's list goes back to sent_at: better too far than too short.
        " sent_at = coalesce(sent_at, created_at), post_deadline = ?"
        " WHERE state IN (?, ?)",
        (
            JobState.UNKNOWN.value,
            now,
            "recovered from a damaged journal",
            now,
            JobState.PLANNED.value,
            JobState.SENDING.value,
        ),
    )


def find_keys(files: Iterable[Path]) -> set[str]:
    """Return every key of ours that stands anywhere in *files*, whatever else they hold."""
    pattern = re.compile(PATTERN.encode("ascii"))
    keys: set[str] = set()
    for file in files:
        with file.open("rb") as handle:
            if file.stat().st_size:
                with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    keys.update(found.group().decode("ascii") for found in pattern.finditer(data))
    return keys


def _columns(db: Database, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _readable(
    old: Database, fresh: Database, table: str, broken: _Errors
) -> Iterator[tuple[list[str], Row]]:
    """Yield the rows of *table* that can be read, stepping over those that can't."""
    try:
        there = set(_columns(old, table))
    except broken:
        return  # not even the names of the tables
    columns = [name for name in _columns(fresh, table) if name in there]
    sql = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid"
    last, gap = 0, 0
    while columns and gap < _LONGEST_GAP:
        try:
            for number, *row in old.execute(sql, (last,)):
                last, gap = number, 0
                yield columns, tuple(row)
        except broken:
            last, gap = last + 1, gap + 1
        else:
            return


def _insert(fresh: Database, table: str, columns: list[str], row: Row, broken: _Errors) -> None:
    marks = ", ".join("?" * len(columns))
    try:
        fresh.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
    except broken:
        return  # damaged, or it belongs to a job that is lost


def _drop_unreadable(fresh: Database, broken: _Errors) -> None:
    """Drop jobs whose rows came over but make no sense."""
    for (key,) in list(fresh.execute("SELECT key FROM job")):
        try:
            get(fresh, key)
        except (JournalCorruptError, TypeError, broken):
            fresh.execute("DELETE FROM job WHERE key = ?", (key,))
