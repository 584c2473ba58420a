"""The journal on disk: one SQLite file with one owner.

Theory of operation
-------------------

A job is recorded before its paid request is sent, and again at each step, so that no crash
can lead to a second payment or lose what was paid. Five parts keep that promise:

* `comet_async._journal.states` is the protocol: the states of a job and the only moves between
  them. Only T2 leads to a payment, and only from ``planned``.
* `comet_async._journal.transitions` says what a record becomes by a move. Both journals, this one
  and `comet_async._journal.memory`, change records by these functions only.
* `comet_async._journal.sql` writes each operation as SQL inside a transaction that is open
  already. An operation checks before it writes, so that a refusal leaves nothing behind.
* `comet_async._journal.group_commit` runs the operations on one thread with one connection, and
  commits once for all that are queued. When an awaited call returns, its write is on the disk.
* `comet_async._journal.lockfile` keeps a second process out.

`SqliteJournal` only joins them: each method is one operation. `recover` copies what is readable out
of a damaged file; whatever could be sent from the copy is looked up on the server first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Self, Unpack, final

import attrs

from comet_async._journal import sql, transitions
from comet_async._journal.database import Connection, found_all, lacks_jobs, open_journal, trust
from comet_async._journal.group_commit import GroupCommitWriter
from comet_async._journal.lockfile import absolute
from comet_async._journal.records import (
    Changes,
    Destination,
    JobRecord,
    Journal,
    JournalEvent,
    KnownSource,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    SavedJob,
    SourceOutcome,
    StoredImage,
)
from comet_async._journal.repair import Recovered, recover
from comet_async._journal.states import JobState, Move
from comet_async._journal.transitions import is_refunded, moved, new_boot, noted, sending
from comet_async._validation import (
    check_call,
    check_clock,
    check_flag,
    check_journal_path,
    check_text,
)
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.models import JSON
from comet_async.secret import redact

__all__ = [
    "Changes",
    "Destination",
    "JobRecord",
    "JobState",
    "Journal",
    "JournalEvent",
    "KnownSource",
    "Limits",
    "Move",
    "NewJob",
    "Recovered",
    "Refusal",
    "SavedFile",
    "SavedJob",
    "SourceOutcome",
    "SqliteJournal",
    "StoredImage",
    "recover",
    "transitions",
]


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
    _writer: GroupCommitWriter[Connection] = attrs.field(repr=False, alias="writer")

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock = SYSTEM_CLOCK,
        verify_remote: bool = False,
        boot: str | None = None,
        hook: Callable[[str], None] | None = None,
    ) -> Self:
        """Open the journal at *path*, or begin one there.

        Jobs that another opening left in ``sending`` become ``unknown`` (T6).

        Args:
            path: The file. It, and its folder if that is new, are for its user alone.
            clock: The source of time.
            verify_remote: Open it although it is older than what was sent. Then each new job
                must be looked up on the server before it is sent, until `trust` is called.
            boot: A name for this opening; random by default.
            hook: For tests: called in the writing thread with "before:T2", "after:T2" and the
                like around the commit of each write. It may end the process, but must not raise.

        Raises:
            InputError: An argument can't be used.
            JournalBusyError: Another process, or another place in this one, has it open.
            JournalLostError: Jobs that were sent are missing: the file was removed, or replaced
                by an older copy.
            JournalCorruptError: It is damaged; `recover` copies what can be read.
            JournalError: It can't be made or read, is of a newer version, or is not a journal.

        Warns:
            ResourceWarning: when it is never closed.
        """
        check_journal_path("path", path)
        check_clock(clock)
        check_flag("verify_remote", verify_remote)
        check_call("hook", hook)
        if boot is not None:
            check_text("boot", boot)
        place, boot = absolute(path), boot or new_boot()
        writer = GroupCommitWriter[Connection](place, hook)
        await writer.open(
            partial(open_journal, place, boot, clock.time(), verify_remote=verify_remote)
        )
        return cls(path=place, boot=boot, writer=writer)

    async def __aenter__(self) -> Self:
        """Return the journal itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    async def plan(self, jobs: Sequence[NewJob], *, now: float) -> list[JobRecord]:
        """Record *jobs*, or find those that are known; see `Journal.plan`."""
        return await self._writer.run("T1", partial(sql.plan, jobs=jobs, now=now))

    async def get(self, key: str) -> JobRecord | None:
        """Return the job of this key."""
        return await self._writer.run("", partial(sql.get, key=key))

    async def find(
        self, states: Collection[JobState] | None = None, *, after: str = "", limit: int = 500
    ) -> list[JobRecord]:
        """Return a page of jobs; see `Journal.find`."""
        work = partial(sql.find, states=states, after=after, limit=limit)
        return await self._writer.run("", work)

    async def by_task(self, task_id: str) -> JobRecord | None:
        """Return the job that the server knows by *task_id*."""
        return await self._writer.run("", partial(sql.by_task, task_id=task_id))

    async def newest(
        self, states: Collection[JobState], *, account: str, kind: str
    ) -> JobRecord | None:
        """Return the job planned last that is in one of *states* and has a task, if any."""
        work = partial(sql.newest, states=tuple(states), account=account, kind=kind)
        return await self._writer.run("", work)

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
            sql.move,
            before=record,
            after=after,
            why=redact(why),
            unpaid=is_refunded(move, record, after),
            place=place,
        )
        await self._writer.run(move.tag if place is None else f"file {move.tag}", work)
        return after

    async def send(
        self, record: JobRecord, *, now: float, post_deadline: float, limits: Limits, run: str
    ) -> JobRecord | Refusal:
        """Enter ``sending`` if the limits let it; see `Journal.send`."""
        after = sending(record, now=now, post_deadline=post_deadline, boot=self.boot, run=run)

        def work(db: Connection) -> Refusal | None:
            db.check_complete()
            return sql.send(db, before=record, after=after, run=run, limits=limits)

        return await self._writer.run("T2", work) or after

    async def note(self, record: JobRecord, *, now: float, **changes: Unpack[Changes]) -> JobRecord:
        """Write details of a job that stays in its state; see `Journal.note`."""
        after = noted(record, now=now, changes=changes)
        await self._writer.run("note", partial(sql.swap, before=record, after=after))
        return after

    async def destinations(self, key: str) -> tuple[Destination, ...]:
        """Return where the job's images belong."""
        return await self._writer.run("", partial(sql.destinations, key=key))

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Record a file at a destination; see `Journal.save_file`."""
        work = partial(sql.save_file, key=key, dest=dest, file=file)
        await self._writer.run("file", work)

    async def owner_of(self, name: str) -> str | None:
        """Return the key of the job that saved a file as *name*."""
        return await self._writer.run("", partial(sql.owner_of, name=name))

    async def saved(self, keys: Collection[str]) -> dict[str, SavedJob]:
        """Return those of the jobs *keys* that are done, with their destinations."""
        return await self._writer.run("", partial(sql.saved, keys=tuple(keys)))

    async def known_sources(
        self, paths: Collection[str], *, variant: str = ""
    ) -> dict[str, KnownSource]:
        """Return what is known of the files *paths*, by path."""
        work = partial(sql.known_sources, paths=tuple(paths), variant=variant)
        return await self._writer.run("", work)

    async def remember_sources(self, sources: Sequence[KnownSource]) -> None:
        """Keep what was found in source files; see `Journal.remember_sources`."""
        await self._writer.run("source", partial(sql.remember_sources, sources=sources))

    async def in_flight(self) -> int:
        """Return how many images are in flight, those of crashed runs included."""
        return await self._writer.run("", sql.in_flight)

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that has any."""
        return await self._writer.run("", sql.counts)

    async def events(self, key: str | None = None) -> list[JournalEvent]:
        """Return what happened to a job (or to all), oldest first."""
        return await self._writer.run("", partial(sql.events, key=key))

    async def save_outcomes(self, outcomes: Sequence[SourceOutcome]) -> None:
        """Record how sources ended; see `Journal.save_outcomes`."""
        await self._writer.run("outcomes", partial(sql.save_outcomes, outcomes=outcomes))

    async def outcomes(self, *, after: str = "", limit: int = 500) -> list[SourceOutcome]:
        """Return a page of the last outcomes of sources; see `Journal.outcomes`."""
        return await self._writer.run("", partial(sql.outcomes, after=after, limit=limit))

    async def read_meta(self, name: str) -> JSON:
        """Return what was written under *name*, or None."""
        return await self._writer.run("", partial(sql.read_meta, name=name))

    async def write_meta(self, name: str, value: JSON) -> None:
        """Keep a fact about the account or the gateway. Never a key."""
        work = partial(sql.write_meta, name=name, text=json.dumps(value))
        await self._writer.run("meta", work)

    async def lacks_jobs(self) -> bool:
        """Return True if it is older than what was sent, and was not trusted since."""
        return await self._writer.run("", lacks_jobs)

    async def found_all(self) -> bool:
        """Return True if lookups found as many tasks as it lacks requests that were sent."""
        return await self._writer.run("", found_all)

    async def trust(self) -> None:
        """Declare that nothing is missing: an older copy of a journal is complete again.

        To be called after a run with ``verify_remote`` went through all images whose jobs may
        have been lost. Does nothing otherwise.
        """
        await self._writer.run("trust", trust)

    async def aclose(self) -> None:
        """Finish all writes and close. May be called again."""
        await self._writer.aclose()
