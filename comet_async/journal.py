"""The journal on disk: one SQLite file with one owner.

`SqliteJournal` turns each call into one operation of `comet_async._journal.sql` and has it done
by a `comet_async._journal.group_commit.GroupCommitWriter`; `recover` gets out of a
damaged file what is readable.

Rule of this file: the only import of ``sqlite3``.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import shutil
import sqlite3
from collections.abc import Collection, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Self, Unpack, final

import attrs

from comet_async._fs import sync_folder
from comet_async._journal import repair as salvage, sql as statements
from comet_async._journal.group_commit import GroupCommitWriter, Hook
from comet_async._journal.lockfile import (
    FileLock,
    beside,
    make_file,
    make_folder,
    on_network,
    unused,
)
from comet_async._journal.records import (
    Changes,
    Destination,
    Event,
    JobRecord,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
)
from comet_async._journal.sql import APPLICATION_ID, MIGRATIONS
from comet_async._journal.states import JobState
from comet_async._journal.transitions import moved, new_boot, noted, sending
from comet_async._types import JSON
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import JournalCorruptError, JournalError
from comet_async.secret import redact

# How long a commit waits for a tool of the user's that holds the file, seconds. (SQLite's own
# tools hold it for milliseconds.)
_BUSY_TIMEOUT = 5.0
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRAGMAS = (
    # FULL: NORMAL survives a crash of the process, but a power cut may take the last commits,
    # and those are the record that something was paid. https://sqlite.org/pragma.html#pragma_synchronous
    "synchronous = FULL",
    # On macOS fsync leaves data in the drive's cache. https://sqlite.org/pragma.html#pragma_fullfsync
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
)


class _Connection(sqlite3.Connection):
    """A connection that may own the lock on its file."""

    lock: FileLock | None = None

    def close(self) -> None:
        super().close()
        if self.lock is not None:
            self.lock.release()


def _connect(database: str, *, uri: bool = False) -> _Connection:
    # isolation_level=None: transactions begin and end where we say so.
    db = sqlite3.connect(
        database, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=_Connection, uri=uri
    )
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _open(path: Path, boot: str, now: float) -> _Connection:
    """Make, lock and open the journal at *path*; what fails leaves nothing open."""
    make_folder(path.parent)
    lock = FileLock(path)
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release)
        make_file(path)
        try:
            db = undo.enter_context(contextlib.closing(_connect(str(path))))
            _prepare(db, path, boot, now)
        except sqlite3.Error as error:
            raise _translated(path, error) from error
        undo.pop_all()
        db.lock = lock
    return db


def _prepare(db: sqlite3.Connection, path: Path, boot: str, now: float) -> None:
    """Check that the file is a journal, bring it up to date, take over what was being sent."""
    _check(db, path)
    db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if on_network(path.parent) else 'WAL'}")
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    db.execute("BEGIN IMMEDIATE")
    _migrate(db)
    statements.lose_sending(db, boot, now)
    db.execute("COMMIT")


def _check(db: sqlite3.Connection, path: Path) -> None:
    version, (tables,) = _version(db), db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not version and not tables:
        return  # made a moment ago
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise JournalError(f"{path} is the database of another program, not a journal")
    if version > len(MIGRATIONS):
        raise JournalError(
            f"the journal {path} was written by a newer comet_async",
            hint="upgrade comet_async, or choose another output folder",
        )
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _corrupt(path, verdict)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _migrate(db: sqlite3.Connection) -> None:
    for step in MIGRATIONS[_version(db) :]:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _translated(path: Path, error: Exception) -> Exception:
    """Return what the caller sees of *error*."""
    if not isinstance(error, sqlite3.Error):
        return error
    # The lowest byte is the primary code. https://sqlite.org/rescode.html
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:
        seen: JournalError = _corrupt(path, str(error))
    else:
        passing = isinstance(error, sqlite3.OperationalError)
        seen = JournalError(f"the journal {path} can't be used: {error}", retryable=passing)
    seen.__cause__ = error
    return seen


def _corrupt(path: Path, what: str) -> JournalCorruptError:
    return JournalCorruptError(
        f"the journal {path} is damaged: {what}",
        hint=statements.RECOVER,
    )


@final
@attrs.define(eq=False, kw_only=True)
class SqliteJournal:
    """A `Journal` on disk; made by `SqliteJournal.open`.

    Attributes:
        path: The file.
        boot: A random name of this opening.
    """

    path: Path
    boot: str
    _writer: GroupCommitWriter = attrs.field(repr=False, alias="writer")

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock = SYSTEM_CLOCK,
        boot: str | None = None,
        hook: Hook | None = None,
    ) -> Self:
        """Open the journal at *path*, or begin one there.

        Jobs that another opening left in ``sending`` become ``unknown`` (T6).

        Args:
            path: The file. It, and its folder if that is new, are for its user alone.
            clock: Tells when.
            boot: A name for this opening; random by default.
            hook: For tests: called in the writing thread with "before:T2", "after:T2" and the
                like around the commit of each write. It may end the process; not raise.

        Raises:
            JournalBusyError: Another process, or another place in this one, has it open.
            JournalCorruptError: It is damaged; `recover` copies what can be read.
            JournalError: It can't be made or read, is of a newer version, or is something
                else.

        Warns:
            ResourceWarning: when it is never closed.
        """
        place, boot = _absolute(path), boot or new_boot()
        writer = GroupCommitWriter(place, partial(_translated, place), hook)
        await writer.open(partial(_open, place, boot, clock.time()))
        return cls(path=place, boot=boot, writer=writer)

    async def __aenter__(self) -> Self:
        """Return the journal itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    async def plan(self, jobs: Sequence[NewJob], *, now: float) -> list[JobRecord]:
        """Write *jobs* down, or find those that are known; see `Journal.plan`."""
        return await self._writer.run("T1", partial(statements.plan, jobs=jobs, now=now))

    async def get(self, key: str) -> JobRecord | None:
        """Return the job of this key."""
        return await self._writer.run("", partial(statements.get, key=key))

    async def find(
        self, states: Collection[JobState] | None = None, *, after: str = "", limit: int = 500
    ) -> list[JobRecord]:
        """Return a page of jobs; see `Journal.find`."""
        work = partial(statements.find, states=states, after=after, limit=limit)
        return await self._writer.run("", work)

    async def by_task(self, task_id: str) -> JobRecord | None:
        """Return the job that the server knows by *task_id*."""
        return await self._writer.run("", partial(statements.by_task, task_id=task_id))

    async def move(
        self,
        record: JobRecord,
        new: JobState,
        *,
        now: float,
        why: str = "",
        place: Destination | None = None,
        **changes: Unpack[Changes],
    ) -> JobRecord:
        """Move a job to another state; see `Journal.move`."""
        move, after = moved(record, new, now=now, changes=changes)
        work = partial(
            statements.move,
            before=record,
            after=after,
            why=redact(why),
            unpaid=move.unpaid,
            place=place,
        )
        await self._writer.run(move.tag if place is None else f"file {move.tag}", work)
        return after

    async def send(
        self, record: JobRecord, *, now: float, post_deadline: float, limits: Limits, run: str
    ) -> JobRecord | Refusal:
        """Enter ``sending`` if the limits let it; see `Journal.send`."""
        after = sending(record, now=now, post_deadline=post_deadline, boot=self.boot, run=run)
        work = partial(statements.send, before=record, after=after, run=run, limits=limits)
        return await self._writer.run("T2", work) or after

    async def note(self, record: JobRecord, *, now: float, **changes: Unpack[Changes]) -> JobRecord:
        """Write details of a job that stays in its state; see `Journal.note`."""
        after = noted(record, now=now, changes=changes)
        await self._writer.run("note", partial(statements.swap, before=record, after=after))
        return after

    async def destinations(self, key: str) -> tuple[Destination, ...]:
        """Return where the job's images belong."""
        return await self._writer.run("", partial(statements.destinations, key=key))

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Write down a file at a destination; see `Journal.save_file`."""
        work = partial(statements.save_file, key=key, dest=dest, file=file)
        await self._writer.run("file", work)

    async def owner_of(self, name: str) -> str | None:
        """Return the key of the job that saved a file as *name*."""
        return await self._writer.run("", partial(statements.owner_of, name=name))

    async def in_flight(self) -> int:
        """Return how many images are in flight, those of crashed runs included."""
        return await self._writer.run("", statements.in_flight)

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that has any."""
        return await self._writer.run("", statements.counts)

    async def events(self, key: str | None = None) -> list[Event]:
        """Return what happened to a job (or to all), oldest first."""
        return await self._writer.run("", partial(statements.events, key=key))

    async def read_meta(self, name: str) -> JSON:
        """Return what was written under *name*, or None."""
        return await self._writer.run("", partial(statements.read_meta, name=name))

    async def write_meta(self, name: str, value: JSON) -> None:
        """Keep a fact about the account or the gateway. Never a key."""
        work = partial(statements.write_meta, name=name, text=json.dumps(value))
        await self._writer.run("meta", work)

    async def aclose(self) -> None:
        """Finish all writes and close. May be called again."""
        await self._writer.aclose()


@attrs.frozen(kw_only=True)
class Recovered:
    """What came out of a damaged journal.

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
        clock: Tells when.

    Raises:
        JournalBusyError: It is in use.
        JournalError: It is not there, or the copy can't be written.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _recover, _absolute(path), clock.time())


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).absolute()  # a later change of the working folder must not matter


def _recover(path: Path, now: float) -> Recovered:
    if not path.is_file():
        raise JournalError(f"there is no journal {path}")
    lock = FileLock(path)
    try:
        return _rebuild(path, now)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal {path} can't be recovered: {error}") from error
    finally:
        lock.release()


def _rebuild(path: Path, now: float) -> Recovered:
    fresh, damaged = path.with_name(f"{path.name}.new"), unused(path)
    fresh.unlink(missing_ok=True)  # of a recovery that was cut off
    for ending in ("", "-wal"):
        if beside(path, ending).exists():
            make_file(beside(damaged, ending))
            shutil.copyfile(beside(path, ending), beside(damaged, ending))
    make_file(fresh)
    with contextlib.closing(_connect(str(fresh))) as db:
        db.execute("BEGIN IMMEDIATE")
        _migrate(db)
        with _reading(damaged) as old:
            jobs = salvage.copy_rows(old, db, sqlite3.Error)
        # Earlier copies too: one may hold what a recovery that was cut off left out.
        keys = salvage.find_keys(path.parent.glob(f"{glob.escape(path.name)}*"))
        lost = salvage.add_lost(db, keys, now)
        salvage.distrust(db, now)
        db.execute("COMMIT")
    for ending in ("-wal", "-shm"):  # they must never be read with the new file
        beside(path, ending).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)
    return Recovered(jobs=jobs, lost=lost, damaged=damaged)


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """Open *path* so that it stays what it is."""
    with contextlib.closing(_connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        yield db
    beside(path, "-shm").unlink(missing_ok=True)
    wal = beside(path, "-wal")
    if wal.exists() and not wal.stat().st_size:  # SQLite made it just now
        wal.unlink()
