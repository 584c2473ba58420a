"""The journal of an output folder, as commands need it."""

# ruff: noqa: PLC0415 - imported when a command runs: `--help` must be there at once

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from comet_async._journal.states import JobState
from comet_async.errors import ConfigError, InputError, JournalBusyError, JournalError

if TYPE_CHECKING:
    from comet_async._journal.records import JobRecord, Journal

_PURPOSE = "sandbox"  # the fact in the journal that says whether its images were for practice
_NOTHING_MADE = frozenset({JobState.PLANNED, JobState.REJECTED})
_ENDED = "its sandbox has ended"
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_MAGIC = b"SQLite format 3\0"


def place_of(text: str) -> Path | str:
    """Return where the journal is: of the folder *text*, that file, or that database.

    Raises:
        InputError: There is none, or it can't be used.
    """
    from comet_async._runs.journals import POSTGRES
    from comet_async.cli.expand.options import database

    if text.startswith(POSTGRES):
        return database(text)
    path = Path(text)
    if not os.path.isfile(path):  # noqa: PTH113 - one that can't be looked at is none
        return path_of(path)
    if path.with_name(f"{path.name}.lock").exists() or _is_sqlite(path):
        return path
    raise InputError(  # before a lock file appears beside it
        f"{path} is not a journal",
        field="folder",
        value=text,
        hint="name the folder that was given as --out, or the file that was given as --journal",
    )


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return True  # opening it says why


def path_of(folder: Path) -> Path:
    """Return where the journal of *folder* is.

    Raises:
        InputError: There is none, or it can't be looked at.
    """
    from comet_async._runs.journals import JOURNAL_NAME

    path = folder / JOURNAL_NAME
    try:
        there = path.is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error
    if there:
        return path
    raise InputError(
        f"{folder} has no journal",
        field="folder",
        value=str(folder),
        hint="name the folder that was given as --out; its first run creates the journal",
    )


def _unreadable(folder: Path, error: OSError) -> InputError:
    from comet_async.cli.console import describe_os_error

    return InputError(
        f"the journal of {folder} can't be read: {describe_os_error(error)}",
        field="folder",
        value=str(folder),
        hint="only the user whose runs made the folder can read its journal",
    )


@asynccontextmanager
async def reading(path: Path | str) -> AsyncGenerator[tuple[Journal, bool], None]:
    """Open the journal at *path* to read it; also gives whether it is in use.

    One that is in use is read from a copy, as it stood a moment ago, and so is one that may not be
    written, not even its lock. One in a database is read as it is.
    """
    from comet_async.journal import SqliteJournal

    if isinstance(path, str):
        async with _looked_at(path) as shared:
            yield shared, False
        return
    try:
        # Nothing is sent from here, so an older copy of a journal does no harm.
        journal = await SqliteJournal.open(path, verify_remote=True)
    except JournalError as error:
        busy, why = isinstance(error, JournalBusyError), error.__cause__
        locked_out = isinstance(why, OSError) and why.errno in _READ_ONLY
        if not busy and not (locked_out and os.access(path, os.R_OK)):
            raise
        async with copied(path) as copy:
            yield copy, busy
        return
    async with journal:
        yield journal, False


@asynccontextmanager
async def opened(place: Path | str, *, verify_remote: bool) -> AsyncGenerator[Journal, None]:
    """Open the journal in a file, or in the database whose address *place* is."""
    if isinstance(place, str):
        from comet_async.postgres import PostgresJournal

        async with await PostgresJournal.open(place, verify_remote=verify_remote) as shared:
            yield shared
        return
    from comet_async.journal import SqliteJournal

    async with await SqliteJournal.open(place, verify_remote=verify_remote) as journal:
        yield journal


@asynccontextmanager
async def _looked_at(url: str) -> AsyncGenerator[Journal, None]:
    """Open the journal in a database to read it; an empty one if its tables are not there."""
    from comet_async._journal.memory import MemoryJournal
    from comet_async._postgres.schema import NotMigratedError
    from comet_async.postgres import PostgresJournal

    try:
        shared = await PostgresJournal.open(url, read_only=True)
    except NotMigratedError:
        yield MemoryJournal()
        return
    async with shared:
        yield shared


@asynccontextmanager
async def copied(path: Path | str) -> AsyncGenerator[Journal, None]:
    """Open a copy of the journal at *path*; an empty one if there is none. Changes nothing.

    One in a database is used as it is.
    """
    from comet_async._journal.memory import MemoryJournal
    from comet_async.journal import SqliteJournal

    if isinstance(path, str):
        async with _looked_at(path) as shared:
            yield shared
        return
    try:
        there = await asyncio.get_running_loop().run_in_executor(None, path.exists)
    except OSError as error:
        raise _unreadable(path.parent.parent, error) from error
    if not there:
        yield MemoryJournal()
        return
    with tempfile.TemporaryDirectory(prefix="comet-async-") as folder:
        copy = Path(folder) / path.name
        await asyncio.get_running_loop().run_in_executor(None, _copy, path, copy)
        async with await SqliteJournal.open(copy) as journal:
            # What its jobs call their files is relative to where the journal really is.
            journal.path = path
            yield journal


def _copy(path: Path, copy: Path) -> None:
    shutil.copyfile(path, copy)
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():  # what was committed last
        shutil.copyfile(wal, copy.with_name(f"{copy.name}-wal"))


async def all_jobs(
    journal: Journal, states: Collection[JobState] | None = None
) -> AsyncGenerator[JobRecord, None]:
    """Yield every job, or those in *states*, in the order in which they were planned."""
    after = ""
    while page := await journal.find(states, after=after):
        for record in page:
            yield record
        after = page[-1].key


async def check_purpose(journal: Journal, *, sandbox: bool, write: bool = True) -> None:
    """Refuse to mix practice with bought images in one folder.

    Both have the same names, and in the journal an image that the sandbox painted is done: the
    real one would never be bought. A folder in which nothing was made yet can become either.

    Args:
        journal: The folder's.
        sandbox: What is wanted now.
        write: Whether an unmarked journal is marked.

    Raises:
        ConfigError: The folder is for the other purpose.
    """
    marked = await journal.read_meta(_PURPOSE)
    used = marked is not None and not _NOTHING_MADE.issuperset(await journal.counts())
    if not used and write and marked is not sandbox:
        await journal.write_meta(_PURPOSE, sandbox)
    if used and marked is not sandbox:
        has, wants = ("the sandbox's", "real") if marked else ("real", "the sandbox's")
        raise ConfigError(
            f"the output folder holds {has} images, and this run would make {wants}",
            hint="choose another folder with --out",
        )


async def abandon_ended_sandbox_jobs(journal: Journal, *, now: float) -> None:
    """Give up what sandboxes that have ended were working on: it was free, and is lost.

    Jobs that were under way become ``failed``, so that ``retry_failed`` paints them again.
    """
    ways = {
        JobState.UNKNOWN: (JobState.PLANNED,),
        JobState.UNCERTAIN: (JobState.PLANNED,),
        JobState.SUBMITTED: (JobState.FAILED,),
        JobState.STRANDED: (JobState.SUBMITTED, JobState.FAILED),
        JobState.SUCCEEDED: (JobState.EXPIRED,),
    }
    async for found in all_jobs(journal, ways.keys()):
        record = found
        for state in ways[record.state]:
            record = await journal.move(record, state, now=now, why=_ENDED)
        if record.state in {JobState.FAILED, JobState.EXPIRED} and record is not found:
            await journal.note(record, now=now, note=f"{_ENDED}: painted again by the next run")
