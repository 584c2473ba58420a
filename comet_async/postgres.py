"""A journal in PostgreSQL, for any number of processes on any number of machines.

Needs the extra ``postgres``.

Theory of operation
-------------------

It keeps the same promises as the journal on disk (`comet_async.journal`), with the same states and
moves. One process and one file lock become many workers and leases:

* **Who works on a job** is in its row. A worker *claims* a job before it works on it, and
  *releases* it afterwards. Another one that wants it waits until then.
* **Until when** is in the worker's own row: one lease for all its jobs, renewed by a thread
  twice per heartbeat, by the database's clock. Jobs of a worker whose lease has ended are free for
  the others; what it was sending becomes ``unknown``, and is looked up like every request whose
  answer was lost.
* **The fence** keeps out a worker that was stopped and wakes up. Each row has a number that grows
  with every change, takeovers included, and each write names the number that it is based on.
* **The last look**: a worker sends no byte of a paid request's body once the lease that it was
  recorded under may have ended, counted from before its last renewal. So whoever takes over may
  rely on the settle time, which begins when the lease has ended.
* **The quota** is counted in the transaction that starts a request, under a lock: images in flight
  of the account at this gateway, over all workers.

Each process has two connections, however many tasks it has: one writes, and commits once for all
tasks that wait, as the journal on disk does; the other one belongs to the lease, and listens.
"""

from __future__ import annotations

import asyncio
import json
import re
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, final

import attrs

from comet_async._journal.group_commit import GroupCommitWriter, Hook
from comet_async._journal.records import (
    Changes,
    Destination,
    JobRecord,
    JournalEvent,
    KnownSource,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    SavedJob,
    SourceOutcome,
)
from comet_async._journal.states import JobState
from comet_async._journal.transitions import is_refunded, moved, noted, sending
from comet_async._postgres import sql
from comet_async._postgres.connection import (
    PostgresConnection,
    Target,
    check_address,
    check_identity,
    remember_identity,
)
from comet_async._postgres.schema import check_version, migrate
from comet_async._postgres.sql import Activity, WorkerLease
from comet_async._postgres.worker import Signal, Worker
from comet_async._validation import check_flag, check_number
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import CometError, InputError, StaleRecordError
from comet_async.models import JSON
from comet_async.secret import redact

if TYPE_CHECKING:
    import psycopg

__all__ = ["Activity", "PostgresConnection", "PostgresJournal", "WorkerLease"]

T = TypeVar("T")

HEARTBEAT = 10.0
"""Seconds. A worker that dies is replaced after twice as long at most."""

PATIENCE = 60.0
"""Seconds that an operation waits for a server that can't be reached: longer than a restart."""

_EVENTS_KEPT = 365 * 86400.0  # seconds
_MARKS_KEPT = 86400.0  # seconds; far longer than anybody asks what became of a commit
_LEAVING = 5.0  # seconds that closing waits for an answer of the server
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@final
@attrs.define(eq=False, kw_only=True)
class PostgresJournal:
    """A `Journal` in PostgreSQL; made by `PostgresJournal.open`.

    Attributes:
        heartbeat: Seconds; a lost worker's jobs are free after twice as long at most.
    """

    heartbeat: float
    _target: Target = attrs.field(repr=False, alias="target")
    _worker: Worker = attrs.field(repr=False, alias="worker")
    _writer: GroupCommitWriter[PostgresConnection] = attrs.field(repr=False, alias="writer")
    _connection: PostgresConnection = attrs.field(repr=False, alias="connection")
    _hint_handlers: list[Callable[[str, str], object]] = attrs.field(
        factory=list, init=False, repr=False
    )
    _closed: bool = attrs.field(default=False, init=False, repr=False)

    @classmethod
    async def open(  # noqa: PLR0913 - how it is reached, and how it behaves; all but one by keyword
        cls,
        url: str,
        *,
        schema: str = "comet_async",
        heartbeat: float = HEARTBEAT,
        patience: float = PATIENCE,
        migrate: bool = True,
        read_only: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        verify_remote: bool = False,
        hook: Hook | None = None,
    ) -> Self:
        """Open the journal in the database *url*, or begin one there.

        Args:
            url: A connection string of libpq's, such as ``postgresql://host/database``. A password
                belongs in ``PGPASSFILE`` or ``PGPASSWORD`` rather than here.
            schema: The schema that its tables are in; ``comet_async`` by default.
            heartbeat: Seconds; a lost worker's jobs are free after twice as long at most. All
                workers should have the same. 10 by default.
            patience: Seconds that each operation waits for a server that can't be reached. 60 by
                default, which is longer than a restart takes.
            migrate: Make missing tables, or bring them up to date. False for a role that must not.
            read_only: For a role that may only read the tables. Nothing is migrated, no worker is
                registered, and whatever would write raises `JournalError`. A database that was
                restored is opened all the same.
            clock: The machine's clock. Where it differs from the database's, that one counts.
            verify_remote: Open it although the database was restored. Then each new job must be
                looked up on the server before it is sent, until `trust` is called.
            hook: For tests; see `comet_async.journal.SqliteJournal.open`.

        Raises:
            JournalLostError: The database was restored from a backup, or a replica took over, so
                that jobs which were sent may be missing.
            JournalError: It can't be reached or used, or is of a newer version.
            InputError: A value can't be used.
            MissingExtraError: psycopg is not installed.

        Warns:
            ResourceWarning: when it is never closed.
        """
        check_number("heartbeat", heartbeat, above=0)
        check_number("patience", patience, above=0)
        if not _SCHEMA.fullmatch(schema):
            raise InputError(
                f"schema={schema!r} is not the plain name of a schema",
                field="schema",
                value=schema,
                limit="small letters, digits and '_', at most 63",
            )
        check_flag("read_only", read_only)
        check_address(url)
        target = Target(
            url=url, schema=schema, patience=patience, stall=heartbeat, read_only=read_only
        )
        worker = Worker(target, heartbeat)
        connection = PostgresConnection(target, clock, verify_remote)
        writer = GroupCommitWriter[PostgresConnection](target, hook)
        await writer.open(lambda: connection)
        journal = cls(
            heartbeat=heartbeat,
            target=target,
            worker=worker,
            writer=writer,
            connection=connection,
        )
        worker.on_hint = weakref.WeakMethod(journal._on_hint)
        try:
            if read_only:
                await writer.run("", check_version)
                return journal
            await writer.run("open", partial(_begin, worker=worker, migrated=migrate))
        except BaseException:
            connection.hurry()  # a caller that gives up does not wait for a server
            await _close(writer, connection)
            raise
        worker.start()
        try:
            await asyncio.get_running_loop().run_in_executor(None, worker.wait_until_it_listens)
        except BaseException:  # a cancelled caller
            await journal.aclose()
            raise
        return journal

    def __del__(self) -> None:
        self._worker.stop_soon()

    async def __aenter__(self) -> Self:
        """Return the journal itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    @property
    def boot(self) -> str:
        """A random name of this opening; another one after its lease was lost."""
        return self._worker.boot

    @property
    def lease_left(self) -> float:
        """Seconds until this worker's lease ends at the earliest; negative if it has none."""
        return self._worker.left

    @property
    def patience(self) -> float:
        """Seconds that each operation waits for a server that can't be reached."""
        return self._target.patience

    @property
    def schema(self) -> str:
        """The schema that its tables are in."""
        return self._target.schema

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection[Any], None]:
        """Yield another connection to its database, for a queue's driver.

        Raises:
            JournalError: It can't be reached, or the connection was lost meanwhile.
        """
        problem: Exception | None = None
        try:
            async with await self._target.connect_async() as db:
                yield db
        except Exception as error:
            problem = self._connection.translated(error)
            if problem is error:
                raise
        if problem is not None:
            raise problem

    # Jobs -------------------------------------------------------------------------------

    async def plan(self, jobs: Sequence[NewJob], *, now: float) -> list[JobRecord]:
        """Record *jobs*, or find those that are known; see `Journal.plan`."""
        return await self._run("T1", partial(sql.plan, jobs=jobs, now=self._time(now)))

    async def plan_with(
        self,
        jobs: Sequence[NewJob],
        also: Callable[[PostgresConnection, list[JobRecord]], object],
        *,
        now: float,
    ) -> list[JobRecord]:
        """Record *jobs* as `plan` does, and do something else in the same transaction.

        Args:
            jobs: The jobs.
            also: Called with the connection and the records, in the writing thread, perhaps
                several times if the transaction has to be repeated: what a queue's own statements
                add is there if, and only if, the jobs are.
            now: Seconds since 1970.

        Raises:
            IdempotencyConflictError: A key is known for another request.
        """
        at = self._time(now)

        def work(db: PostgresConnection) -> list[JobRecord]:
            records = sql.plan(db, jobs, at)
            also(db, records)
            return records

        return await self._run("T1", work)

    async def transaction(self, work: Callable[[PostgresConnection], T]) -> T:
        """Do *work* in a transaction of the journal's, and return what it returns.

        Args:
            work: Called with the connection in the writing thread, perhaps several times if the
                transaction has to be repeated.
        """
        return await self._run("other", work)

    async def get(self, key: str) -> JobRecord | None:
        """Return the job of this key."""
        return await self._run("", partial(sql.get, key=key))

    async def find(
        self, states: Collection[JobState] | None = None, *, after: str = "", limit: int = 500
    ) -> list[JobRecord]:
        """Return a page of jobs; see `Journal.find`."""
        return await self._run("", partial(sql.find, states=states, after=after, limit=limit))

    async def by_task(self, task_id: str) -> JobRecord | None:
        """Return the job that the server knows by *task_id*."""
        return await self._run("", partial(sql.by_task, task_id=task_id))

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
        move, after = moved(record, new, now=self._time(now), changes=changes)
        work = partial(
            sql.move,
            before=record,
            after=after,
            why=redact(why),
            unpaid=is_refunded(move, record, after),
            place=place,
        )
        await self._run(move.tag if place is None else f"file {move.tag}", work)
        return after

    async def send(
        self, record: JobRecord, *, now: float, post_deadline: float, limits: Limits, run: str
    ) -> JobRecord | Refusal:
        """Enter ``sending`` if the limits let it; see `Journal.send`.

        ``limits.in_flight`` counts the images of the record's account, over all workers. If the
        server takes fewer, as `shrink` recorded, that many count.
        """
        after = sending(
            record,
            now=self._time(now),
            post_deadline=self._time(post_deadline),
            boot=self.boot,
            run=run,
        )
        queued = self._worker.listens(sql.slot_topic(record.account))
        work = partial(sql.send, before=record, after=after, run=run, limits=limits, queued=queued)
        return await self._run("T2", work) or after

    async def note(self, record: JobRecord, *, now: float, **changes: Unpack[Changes]) -> JobRecord:
        """Write details of a job that stays in its state; see `Journal.note`."""
        after = noted(record, now=self._time(now), changes=changes)
        await self._run("note", partial(sql.swap, before=record, after=after))
        return after

    async def destinations(self, key: str) -> tuple[Destination, ...]:
        """Return where the job's images belong."""
        return await self._run("", partial(sql.destinations, key=key))

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Record a file at a destination; see `Journal.save_file`.

        Raises:
            StaleRecordError: Another worker has the job.
            JournalError: The job has no such destination.
        """
        work = partial(sql.save_file, key=key, dest=dest, file=file, boot=self.boot)
        owner = await self._run("file", work)
        if owner is not None:
            raise StaleRecordError(
                f"job {key} belongs to another worker now ({owner})", external_task_id=key
            )

    async def owner_of(self, name: str) -> str | None:
        """Return the key of the job that saved a file as *name*."""
        return await self._run("", partial(sql.owner_of, name=name))

    async def saved(self, keys: Collection[str]) -> dict[str, SavedJob]:
        """Return those of the jobs *keys* that are done, with their destinations."""
        return await self._run("", partial(sql.saved, keys=tuple(keys)))

    async def known_sources(
        self, paths: Collection[str], *, variant: str = ""
    ) -> dict[str, KnownSource]:
        """Return what is known of the files *paths*, by path."""
        work = partial(sql.known_sources, paths=tuple(paths), variant=variant)
        return await self._run("", work)

    async def remember_sources(self, sources: Sequence[KnownSource]) -> None:
        """Keep what was found in source files; see `Journal.remember_sources`."""
        await self._run("source", partial(sql.remember_sources, sources=sources))

    async def in_flight(self) -> int:
        """Return how many images are in flight, over all accounts and workers."""
        return await self._run("", sql.in_flight)

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that has any."""
        return await self._run("", sql.counts)

    async def activity(self, seconds: float) -> Activity:
        """Return who works on its jobs, and what was finished in the last *seconds*."""
        return await self._run("", partial(sql.activity, seconds=seconds, reader=self.boot))

    async def events(self, key: str | None = None) -> list[JournalEvent]:
        """Return what happened to a job (or to all), oldest first."""
        return await self._run("", partial(sql.events, key=key))

    async def save_outcomes(self, outcomes: Sequence[SourceOutcome]) -> None:
        """Record how sources ended; see `Journal.save_outcomes`."""
        await self._run("outcomes", partial(sql.save_outcomes, outcomes=outcomes))

    async def outcomes(self, *, after: str = "", limit: int = 500) -> list[SourceOutcome]:
        """Return a page of the last outcomes of sources; see `Journal.outcomes`."""
        return await self._run("", partial(sql.outcomes, after=after, limit=limit))

    async def read_meta(self, name: str) -> JSON:
        """Return what was written under *name*, or None."""
        return await self._run("", partial(sql.read_meta, name=name))

    async def write_meta(self, name: str, value: JSON) -> None:
        """Keep a fact about the account or the gateway. Never a key."""
        await self._run("meta", partial(sql.write_meta, name=name, text=json.dumps(value)))

    async def trust(self) -> None:
        """Declare that nothing is missing: a database that was restored is complete again.

        To be called after a run with ``verify_remote`` went through all images whose jobs may
        have been lost, or after a replica that had everything took over.
        """
        await self._run("trust", remember_identity)

    async def aclose(self) -> None:
        """Finish all writes, release all jobs, and close. May be called again."""
        if self._closed:
            await self._writer.aclose()
            return
        self._closed = True
        self._connection.hurry()
        self._worker.stop_soon()
        try:
            if not self._target.read_only:
                async with asyncio.timeout(_LEAVING):
                    await self._writer.run("leave", partial(sql.leave, boot=self.boot))
        except (CometError, TimeoutError):
            pass  # it can't be reached, or belongs to another process; a lease ends by itself
        finally:
            # Both at once: each may wait for a server that does not answer.
            stopping = asyncio.get_running_loop().run_in_executor(None, self._worker.stop)
            try:
                await _close(self._writer, self._connection)
            finally:
                await asyncio.shield(stopping)

    @contextmanager
    def impatient(self) -> Generator[None, None, None]:
        """Inside, no operation waits for a server that can't be reached, nor for a late answer."""
        self._connection.hurry()
        self._connection.interrupt()
        try:
            yield
        finally:
            self._connection.calm()

    # Working together -------------------------------------------------------------------

    async def claim(self, key: str) -> JobRecord | None:
        """Begin to work on a job: until `release`, or the end of the lease, nobody else does.

        Returns:
            The job as it is now; None while another worker has it, or if there is no such job.
        """
        self._worker.keep(key)
        work = partial(sql.claim, key=key, boot=self.boot)
        # The first attempt registers this worker for the job's release; a release between the two
        # is seen by the second.
        return await self._run("claim", work) or await self._run("claim", work)

    async def release(self, key: str) -> None:
        """Release a job, and wake those who wait for it in other processes.

        If that fails, it is done as soon as the database can be reached.
        """
        try:
            await self._run("release", partial(sql.release, key=key, boot=self.boot))
        except BaseException:  # a caller that is cancelled does not see whether it fails
            self._worker.owe(key)
            raise

    async def unclaimed(self, account: str, *, limit: int) -> list[JobRecord]:
        """Return jobs of *account* that may be running at the server and that no worker has."""
        return await self._run("", partial(sql.unclaimed, account=account, limit=limit))

    def listening_for_job(self, key: str) -> AbstractContextManager[Signal]:
        """Yield a signal that is set when another worker releases a job."""
        return self._worker.listening(sql.job_topic(key))

    def listening_for_slot(self, account: str) -> AbstractContextManager[Signal]:
        """Yield a signal that is set when it is this worker's turn to request a slot."""
        return self._worker.listening(sql.slot_topic(account))

    async def queue_for_slot(self, account: str) -> int:
        """Queue this worker for a slot; return how many others wait.

        Each free slot is offered to one worker, the one that has waited longest. A worker
        that requests it and gets none keeps its place when it queues again.
        """
        work = partial(sql.queue_for_slot, account=account, boot=self.boot)
        return await self._run("queue", work)

    async def unqueue_for_slot(self, account: str) -> None:
        """Leave the queue, so that slots are offered to others, unless this process still waits."""
        if not self._worker.listens(sql.slot_topic(account)):
            work = partial(sql.unqueue_for_slot, account=account, boot=self.boot)
            await self._run("queue", work)

    async def shrink(self, account: str) -> int:
        """Record that the server takes no more images of *account* at present; return how many."""
        return await self._run("quota", partial(sql.shrink_quota, account=account))

    async def grow(self, account: str, most: int, clean: int) -> int | None:
        """Count an accepted request while the server takes fewer than *most* images.

        Args:
            account: The account.
            most: The configured limit.
            clean: How many accepted requests in a row allow one image more.

        Returns:
            How many may be in flight; None when nothing limits them any more.
        """
        work = partial(sql.grow_quota, account=account, most=most, clean=clean)
        return await self._run("quota", work)

    async def quota(self, account: str) -> int | None:
        """Return how many images of *account* the server takes; None if it never refused one."""
        return await self._run("", partial(sql.read_quota, account=account))

    async def send_hint(self, task_id: str, key: str) -> None:
        """Tell all workers that a task may have changed, as a callback says."""
        text = json.dumps([self.boot, task_id, key])
        await self._run("hint", partial(sql.notify, text=f"hint {text}"))

    def on_hint(self, handler: Callable[[str, str], object]) -> Callable[[], None]:
        """Call *handler*, in a thread, with task id and key when another worker sends a hint.

        Returns:
            What ends that.
        """
        self._hint_handlers.append(handler)
        return partial(self._hint_handlers.remove, handler)

    def _on_hint(self, text: str) -> None:
        try:
            sender, task_id, key = json.loads(text)
        except (ValueError, TypeError):
            return  # not one of ours
        if sender != self.boot:
            for handler in list(self._hint_handlers):
                handler(str(task_id), str(key))

    def _time(self, now: float) -> float:
        """Return *now* by the database's clock, if this machine's is wrong."""
        return now + self._connection.shift

    async def _run(self, tag: str, work: Callable[[PostgresConnection], T]) -> T:
        return await self._writer.run(tag, work)


async def _close(
    writer: GroupCommitWriter[PostgresConnection], connection: PostgresConnection
) -> None:
    """Finish what is queued and close, without waiting long for the server."""
    loop, cancelled = asyncio.get_running_loop(), False
    closing, due = asyncio.ensure_future(writer.aclose()), loop.time() + _LEAVING
    while not closing.done():
        try:
            await asyncio.wait({closing}, timeout=max(0.0, due - loop.time()))
        except asyncio.CancelledError:  # left alone, the thread would wait as long as it is patient
            cancelled = True
        if not closing.done() and loop.time() >= due:
            connection.interrupt()
            due = loop.time() + 1.0
    if cancelled:
        raise asyncio.CancelledError
    closing.result()


def _begin(db: PostgresConnection, worker: Worker, *, migrated: bool) -> None:
    """Check the database, and register as a worker.

    Raises:
        JournalError: It can't be used; the subclass says why.
    """
    if migrated:
        migrate(db)
    else:
        check_version(db)
    check_identity(db, verify_remote=db.verify_remote)
    sql.drop_events(db, kept=_EVENTS_KEPT)
    db.drop_marks(kept=_MARKS_KEPT)
    worker.register(db)
    db.opened = True
