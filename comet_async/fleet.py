"""A fleet of workers on PostgreSQL: a queue of jobs by PGQueuer, next to the journal.

Needs the extra ``fleet``: ``pip install 'comet-async[fleet]'``.

Theory of operation
-------------------

The journal (`comet_async.postgres`) knows all about a job. The queue only says which jobs are to
be worked on next, so an entry holds the job's key and nothing else. It is PGQueuer's, in the same
schema; its tables, priorities and retries are PGQueuer's own.

* **Enqueueing** plans jobs and queues their keys in one transaction: neither is there without the
  other. A key that is queued already is not queued again.
* **A worker** takes keys and calls `CometSession.run_job` with each. A key that reaches two workers
  does no harm: the journal lets one of them work on the job, and nothing is bought twice.
* **What can't succeed** by trying again stays in the queue as failed, with its reason, until its
  image is enqueued again. Whatever may succeed later goes back to the queue, with a pause.
* **What every job would meet**, such as an account without credit or a budget that is used up,
  stops the worker, and the jobs go back to the queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast, final

import attrs

try:
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
    from pgqueuer.adapters.persistence.qb import (
        QueryBuilderEnvironment,
        QueryQueueBuilder,
        QuerySchedulerBuilder,
    )
    from pgqueuer.adapters.persistence.queries import Queries, SyncQueries
    from pgqueuer.core.qm import QueueManager
    from pgqueuer.domain.errors import RetryRequested
    from pgqueuer.domain.models import Job as Entry
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.domain.types import Channel
    from pgqueuer.ports.driver import SyncDriver
except ImportError as _error:
    from comet_async.errors import MissingExtraError

    raise MissingExtraError("a fleet needs PGQueuer", extra="fleet") from _error

from comet_async._images.load import url_scheme
from comet_async._jobs.batch import Batch, Item, Planned
from comet_async._journal.records import JobRecord, NewJob
from comet_async._journal.states import WITHOUT_RESULT, JobState
from comet_async._validation import (
    check_number,
    check_offers,
    check_path,
    check_several,
)
from comet_async.errors import (
    BudgetExceededError,
    CometError,
    ConfigError,
    InputError,
    JournalRequiredError,
    SessionClosedError,
)
from comet_async.outcomes import Outcome, OutcomeStatus, from_error, from_record
from comet_async.postgres import PostgresConnection, PostgresJournal, WorkerLease
from comet_async.requests import EXPAND, TaskRequest
from comet_async.runs import (
    CONCURRENCY,
    POSTGRES,
    Budget,
    Run,
    RunOptions,
    check_options,
    opened,
    planned,
)

if TYPE_CHECKING:
    import psycopg

    from comet_async.geometry import MarginRule
    from comet_async.session import CometSession

__all__ = [
    "Enqueued",
    "FleetStatus",
    "FleetWorker",
    "WorkerLease",
    "enqueue_folder",
    "enqueue_many",
    "fleet_status",
]

GRACE = 30.0
"""Seconds that a worker which was told to stop lets its jobs continue."""

_PAGE = 200  # jobs that are planned and queued in one transaction
_MOST_HELD = 100_000  # failed entries that are looked at
_LONGEST_PAUSE = 300.0  # seconds before a job is tried again
_MOST_ATTEMPTS = 20
_RECENT = 600.0  # seconds that say how fast the fleet is
_LEAST, _MOST = -(2**31), 2**31 - 1  # priorities
_BATCH = 50  # entries that a worker takes at a time
_IDLE = 30.0  # seconds after which a worker looks even if nobody called it

_ENDED = WITHOUT_RESULT | {JobState.ABANDONED}


# Enqueueing -----------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Enqueued:
    """What became of one image that was to be enqueued.

    Attributes:
        source: The image as it was named; a path is absolute.
        key: The key of its job, or None if it has none.
        queued: True if it is queued now and was not before.
        outcome: Its outcome, if there is nothing to do for a worker: it is finished, it failed
            earlier, it already had the wanted shape, or it can't be used. Otherwise None.
    """

    source: str
    key: str | None = None
    queued: bool = False
    outcome: Outcome | None = None


async def enqueue_folder(  # noqa: PLR0913 - as the session's; all but three by keyword
    comet: CometSession,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    margins: MarginRule | str,
    *,
    prompt: str | None = None,
    n: int = 1,
    watermark: bool = False,
    priority: int = 0,
    **options: Unpack[RunOptions],
) -> AsyncGenerator[Enqueued, None]:
    """Queue all images of a folder for the workers of a fleet; yields what became of each.

    Nothing is sent and nothing is paid here. Workers read the images and save the results where
    they are named here, so both must be on a disk that all machines share, or in a store. An image
    that already has the wanted shape needs no worker: it is refused, since only a run on this
    machine copies images.

    Args:
        comet: A session with a journal in PostgreSQL, and with the key that the workers have.
        source: As for `CometSession.expand_folder`.
        out: Where to save the images, as for `CometSession.expand_folder`.
        margins: `Margins`, a rule, or text such as ``"16:9"``.
        prompt: What to draw in the new area; at most 2500 characters.
        n: How many variants of each, 1 to 9.
        watermark: Get a watermarked version of each variant as well.
        priority: Jobs with a higher number are taken first. 0 by default.
        **options: See `RunOptions`; those that are about sending are the worker's.

    Raises:
        InputError: An argument can't be used.
        JournalRequiredError: The session's journal is not in PostgreSQL.
        JournalError: The journal can't be used.
    """
    several = (source,) if isinstance(source, str | os.PathLike) else source
    check_several("source", several, "a folder, a file, a URL, or several of them")
    sources = list(several)
    for each in sources:
        check_path("source", each)
    _check_session(comet)
    check_number("priority", priority, whole=True, least=_LEAST, most=_MOST)
    run = comet.expand_folder(
        [_absolute(os.fspath(each)) for each in sources],
        out,
        margins,
        prompt=prompt,
        n=n,
        watermark=watermark,
        **options,
    )
    async with aclosing(_enqueue(comet, run, priority)) as enqueued:
        async for one in enqueued:
            yield one


async def enqueue_many(
    comet: CometSession,
    requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest],
    *,
    out: str | os.PathLike[str] | None = None,
    priority: int = 0,
    **options: Unpack[RunOptions],
) -> AsyncGenerator[Enqueued, None]:
    """Queue many requests for the workers of a fleet; yields what became of each.

    Args:
        comet: A session with a journal in PostgreSQL, and with the key that the workers have.
        requests: Any iterable, also an endless or async one. Images in memory are refused: a
            worker could not read them.
        out: Where to save the images, as for `enqueue_folder`; by default they are not saved.
        priority: Jobs with a higher number are taken first. 0 by default.
        **options: See `RunOptions`; those that are about sending are the worker's.

    Raises:
        InputError: An argument can't be used.
        JournalRequiredError: The session's journal is not in PostgreSQL.
        JournalError: The journal can't be used.
    """
    _check_session(comet)
    check_number("priority", priority, whole=True, least=_LEAST, most=_MOST)
    run = comet.expand_many(requests, out=out, **options)
    async with aclosing(_enqueue(comet, run, priority)) as enqueued:
        async for one in enqueued:
            yield one


def _absolute(source: str) -> str:
    return source if url_scheme(source) or source == "-" else os.path.abspath(source)  # noqa: PTH100


async def _enqueue(comet: CometSession, run: Run, priority: int) -> AsyncGenerator[Enqueued, None]:
    async with opened(run) as (batch, items):
        queue = await Queue.open(await _journal_of(comet))
        page: list[NewJob] = []
        async with aclosing(planned(batch, items)) as plans:
            async for item, plan in plans:
                outcome = await _outcome_of(batch, item, plan)
                if outcome is None and isinstance(plan, Planned):
                    job = batch.as_job(plan)
                    page.append(attrs.evolve(job, source=_absolute(job.source)))
                elif outcome is not None:
                    yield Enqueued(
                        source=outcome.source, key=outcome.external_task_id, outcome=outcome
                    )
                if len(page) >= _PAGE:
                    for each in await queue.put(page, priority):
                        yield each
                    page = []
        for each in await queue.put(page, priority):
            yield each


async def _outcome_of(batch: Batch, item: Item, plan: Planned | CometError) -> Outcome | None:
    """Return the outcome of an image that no worker is needed for, or None."""
    if item.outcome is not None:
        return item.outcome
    try:
        if isinstance(plan, CometError):
            raise plan
        if plan.already_satisfied:
            return await batch.copy(plan)
        if item.source.startswith("<") or len(plan.images) > 1:
            raise InputError(
                "a worker can't read images in memory, or several images",
                field="image",
                value=item.source,
                limit="one image: a file, a URL, or an address in a store",
            )
    except CometError as error:
        return from_error(item.source, error)
    if plan.record is not None and plan.record.state in _ENDED:
        return from_record(item.source, plan.record)
    return None


def _check_session(comet: CometSession) -> None:
    """Refuse a session whose journal is no fleet's.

    Raises:
        InputError: It is not a session.
        JournalRequiredError: Its journal is not in PostgreSQL.
    """
    check_offers("comet", comet, ("run_job", "expand_folder"), "a CometSession")
    given = comet._runs.given  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if isinstance(given, str) and given.startswith(POSTGRES):
        return
    if not isinstance(given, PostgresJournal):
        raise JournalRequiredError(
            "a fleet needs a session with a journal in PostgreSQL",
            hint="pass journal='postgresql://host/database' to CometSession",
        )


async def _journal_of(comet: CometSession) -> PostgresJournal:
    active = await comet._runs.own()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return cast("PostgresJournal", active.journal)  # as `_check_session` has seen


# The queue ------------------------------------------------------------------------------


def entry_point(account: str) -> str:
    """Return what the queue calls the jobs of *account*: workers take those of their own only."""
    return f"comet_async.{account}"


def _settings(journal: PostgresJournal) -> DBSettings:
    """Return where PGQueuer's tables are: next to the journal's."""
    return DBSettings(
        db_schema=journal.schema,
        # Channels belong to the whole database. A name has 63 bytes at most.
        channel=Channel(f"pgqueuer_{hashlib.sha256(journal.schema.encode()).hexdigest()[:16]}"),
    )


@attrs.frozen
class _Driver(SyncDriver):
    """PGQueuer's statements in a transaction of the journal's."""

    db: PostgresConnection

    def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement, and return its rows."""
        return self.db.fetch(query, *args)


@attrs.frozen(kw_only=True)
class Queue:
    """The queue next to a journal, as those who enqueue use it.

    Attributes:
        journal: The journal.
        settings: Where the queue is.
        held: The entries that failed and are kept, by key.
    """

    journal: PostgresJournal
    settings: DBSettings
    held: dict[str, int] = attrs.field(factory=dict)

    @classmethod
    async def open(cls, journal: PostgresJournal) -> Self:
        """Open the queue of *journal*; its tables are made if they are not there.

        Raises:
            JournalError: It can't be used.
        """
        queue = cls(journal=journal, settings=_settings(journal))
        return attrs.evolve(queue, held=await journal.transaction(queue._begin))

    def _begin(self, db: PostgresConnection) -> dict[str, int]:
        """Make the tables if they are not there; return the entries that failed, by key."""
        schema = QueryBuilderEnvironment(self.settings)
        if not _is_there(db, self.settings):
            # One at a time, also when many begin at once.
            db.rows("SELECT pg_advisory_xact_lock(hashtext(%s))", self.settings.channel)
            if not _is_there(db, self.settings):
                db.fetch(schema.build_install_query(create_schema=False))
        rows = db.fetch(self._statements.build_list_failed_jobs_query(), _MOST_HELD)
        return {str(row["dedupe_key"]): int(str(row["id"])) for row in rows}

    def queries(self, driver: PsycopgDriver) -> Queries:
        """Return the queue as a worker uses it."""
        return Queries(
            driver,
            qbe=QueryBuilderEnvironment(self.settings),
            qbq=self._statements,
            qbs=QuerySchedulerBuilder(self.settings),
        )

    def sizes(self, db: PostgresConnection) -> Counter[str]:
        """Return how many entries there are, by status; none if there is no queue."""
        found: Counter[str] = Counter()
        if _is_there(db, self.settings):
            for each in SyncQueries(_Driver(db), qbq=self._statements).queue_size():
                found[each.status] += each.count
        return found

    @property
    def _statements(self) -> QueryQueueBuilder:
        return QueryQueueBuilder(self.settings)

    async def put(self, jobs: Sequence[NewJob], priority: int) -> list[Enqueued]:
        """Plan *jobs* and queue their keys, both or neither.

        Raises:
            CometError: One of them contradicts what the journal knows, or it can't be used.
        """
        queued: set[str] = set()

        def also(db: PostgresConnection, records: list[JobRecord]) -> None:
            queued.clear()  # the transaction may be repeated
            queued.update(self._enqueue(db, records, priority))

        await self.journal.plan_with(jobs, also, now=time.time())
        return [Enqueued(source=job.source, key=job.key, queued=job.key in queued) for job in jobs]

    def _enqueue(
        self, db: PostgresConnection, records: Sequence[JobRecord], priority: int
    ) -> set[str]:
        """Queue the keys of *records*, if they are not queued; return those that were not."""
        accounts = {record.key: record.account for record in records}
        keys = [key for key in accounts if key not in self.held]
        queries = SyncQueries(_Driver(db), qbq=self._statements)
        ids = queries.enqueue(
            [entry_point(accounts[key]) for key in keys],
            [key.encode() for key in keys],
            [priority] * len(keys),
            dedupe_key=list[str | None](keys),
            on_conflict="skip",
        )
        new = {key for key, entry in zip(keys, ids, strict=True) if entry is not None}
        return new | self._requeue(db, accounts.keys() & self.held.keys())

    def _requeue(self, db: PostgresConnection, keys: Collection[str]) -> set[str]:
        """Queue again those of *keys* that failed, if they are not queued under another entry."""
        if not keys:
            return set()
        rows = db.rows(
            f"SELECT dedupe_key FROM {self.settings.queue_table}"  # noqa: S608 - not a value
            " WHERE dedupe_key = ANY(%s::text[]) AND status IN ('queued', 'picked')",
            list(keys),
        )
        again = set(keys) - {row[0] for row in rows}
        db.fetch(self._statements.build_requeue_jobs_query(), [self.held[key] for key in again])
        return again


def _is_there(db: PostgresConnection, settings: DBSettings) -> bool:
    name = f"{settings.db_schema}.{settings.queue_table}"
    return db.row("SELECT to_regclass(%s) IS NOT NULL", name) == (True,)


# Working --------------------------------------------------------------------------------


class _WorkerDriver(PsycopgDriver):
    """PGQueuer's driver with a connection of its own for statements.

    On one connection each of them would wait until the listener lets go, up to a second.
    """

    def __init__(self, listener: psycopg.AsyncConnection[Any], statements: PsycopgDriver) -> None:
        super().__init__(listener)
        self._statements = statements

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement, and return its rows."""
        return await self._statements.fetch(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement, and return its status."""
        return await self._statements.execute(query, *args)


@final
@attrs.define(eq=False, init=False)
class FleetWorker:
    """Works on the jobs of a fleet's queue, in this process.

    Example:
        >>> async def main() -> None:
        ...     async with CometSession(journal="postgresql://db/images", concurrency=20) as comet:
        ...         await FleetWorker(comet).run()

    It takes the jobs of its session's account and gateway only. Images that were converted when
    they were enqueued (``prepare=True``) need a session with ``prepare=True`` here, too.

    Attributes:
        comet: The session.
        at_once: Most jobs that it works on at a time.
        grace: Seconds that its jobs may continue after `stop`.
        stopped: What made it stop by itself, or None.
        done: How many jobs it has brought to an end with a result.
        failed: How many it gave up.
    """

    comet: CometSession
    at_once: int
    grace: float
    stopped: CometError | None
    done: int
    failed: int
    _budget: Budget
    _manager: QueueManager | None
    _running: dict[int, asyncio.Future[Outcome]]
    _keys: dict[int, str]
    _stopping: bool
    _leaving: asyncio.Task[None] | None

    def __init__(
        self,
        comet: CometSession,
        *,
        at_once: int = 2 * CONCURRENCY,
        grace: float = GRACE,
        **budget: Unpack[Budget],
    ) -> None:
        """Make a worker; it begins with `run`.

        Args:
            comet: A session with a journal in PostgreSQL. Its ``concurrency`` is how many images
                all workers together have in flight.
            at_once: Most jobs that this worker works on at a time, at least 2. While half of them
                are in flight, the others read images and save results. 32 by default.
            grace: Seconds that its jobs may continue after `stop`; then they go back to the queue.
                30 by default.
            **budget: What may be bought under one name; see `RunOptions`.

        Raises:
            InputError: An argument can't be used.
            JournalRequiredError: The session's journal is not in PostgreSQL.
        """
        _check_session(comet)
        check_number("at_once", at_once, least=2, whole=True)
        check_number("grace", grace, least=0)
        check_options(budget)
        self.comet = comet
        self.at_once = at_once
        self.grace = grace
        self.stopped = None
        self.done = self.failed = 0
        self._budget = budget
        self._manager = None
        self._running, self._keys = {}, {}
        self._stopping = False
        self._leaving = None

    async def run(self) -> None:
        """Work until `stop` is called.

        Raises:
            AccountError: Every other job would meet the same error. The jobs are queued again;
                likewise for all errors that are ``account_wide``.
            BudgetExceededError: The budget is used up; the jobs are queued again.
            ConfigError: The session can't be used for these jobs; they are queued again.
            JournalError: The database was lost. Others take over what this worker had.
        """
        journal = await _journal_of(self.comet)
        queue = await Queue.open(journal)
        account = self.comet._runs.services.account  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        try:
            async with journal.connection() as db, journal.connection() as listener:
                driver = _WorkerDriver(listener, PsycopgDriver(db))
                manager = QueueManager(queue.queries(driver), channel=queue.settings.channel)
                manager.entrypoint(entry_point(account), on_failure="hold")(self._work)
                self._manager = manager
                if self._stopping:
                    return
                await manager.run(
                    dequeue_timeout=timedelta(seconds=_IDLE),
                    batch_size=min(_BATCH, self.at_once // 2),
                    max_concurrent_tasks=self.at_once,
                    heartbeat_timeout=timedelta(seconds=2 * journal.heartbeat),
                )
        finally:
            if self._leaving is not None:
                await self._leaving
        if self.stopped is not None:
            raise self.stopped

    def stop(self) -> None:
        """Take no more jobs, and have `run` return soon. May be called again.

        Jobs that were not sent go back to the queue at once; the others have `grace` seconds to
        end. Then they go back, too: their tasks continue at the server, and any worker takes them
        up again.
        """
        if self._stopping:
            return
        self._stopping = True
        if self._manager is not None:
            self._manager.shutdown.set()
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        journal = await _journal_of(self.comet)
        for entry, task in list(self._running.items()):
            try:
                record = await journal.get(self._keys[entry])
            except (CometError, KeyError):  # it has ended meanwhile, or the database is lost
                continue
            if record is not None and record.state is JobState.PLANNED:
                task.cancel()
        tasks = set(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=self.grace)
        for task in tasks:
            task.cancel()

    async def _work(self, entry: Entry) -> None:
        """Work on one job.

        Raises:
            RetryRequested: It is to be tried again.
            CometError: Trying again would not help.
        """
        if self._stopping:
            raise RetryRequested(reason="the worker stops")
        key = (entry.payload or b"").decode()
        task = asyncio.ensure_future(self.comet.run_job(key, timeout=None, **self._budget))
        self._running[entry.id], self._keys[entry.id] = task, key
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            del self._running[entry.id], self._keys[entry.id]
        if task.cancelled():
            raise RetryRequested(reason="the worker stops")
        error = task.exception() or _problem(task.result())
        if error is None:
            self.done += 1
            return
        if isinstance(error, CometError):
            self._give_back(entry, error)
        self.failed += 1
        raise error

    def _give_back(self, entry: Entry, error: CometError) -> None:
        """Have the queue keep a job for later, if that may help.

        Raises:
            RetryRequested: It may.
        """
        if error.account_wide or isinstance(error, _STOPPING):
            self.stopped = self.stopped or error
            self.stop()
            raise RetryRequested(reason=error.message) from error
        if error.retryable and entry.attempts < _MOST_ATTEMPTS:
            pause = error.retry_after or min(_LONGEST_PAUSE, 2.0**entry.attempts)
            raise RetryRequested(timedelta(seconds=pause), reason=error.message) from error


_STOPPING = (BudgetExceededError, ConfigError, SessionClosedError)
"""What every other job of this worker would meet, too."""


def _problem(outcome: Outcome) -> CometError | None:
    """Return why a job did not come to a result, or None if it did.

    One that is pending or uncertain is looked at again later, free of charge.
    """
    if outcome.done:
        return None
    error = outcome.error or CometError(
        "it has not ended", external_task_id=outcome.external_task_id
    )
    if outcome.status in {OutcomeStatus.PENDING, OutcomeStatus.UNCERTAIN}:
        error.retryable = True
    return error


# Watching -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class FleetStatus:
    """What a fleet is doing.

    Attributes:
        workers: The processes that have the journal open.
        queued: Jobs that wait for a worker.
        running: Jobs that a worker has taken.
        held: Jobs that failed and stay in the queue until their images are enqueued again.
        jobs: How many jobs of the journal are in each state.
        in_flight: Images that the server is working on.
        finished: Images that were finished in the last ten minutes.
        images_left: Images of jobs that have not come to their end.
        billed: Images of all jobs that the server accepted and that did not fail.
        cost: What these cost in USD, by the price; an estimate, never a bill.
        per_hour: Images per hour, as in the last ten minutes.
        seconds_left: Seconds until nothing is left at this rate; None if nothing was finished.
    """

    workers: tuple[WorkerLease, ...]
    queued: int
    running: int
    held: int
    jobs: Mapping[str, int]
    in_flight: int
    finished: int
    images_left: int
    billed: int
    cost: Decimal
    per_hour: float
    seconds_left: float | None


async def fleet_status(
    journal: PostgresJournal, *, price: Decimal | float | str | None = None
) -> FleetStatus:
    """Return what the fleet of a journal is doing. It needs no key.

    Args:
        journal: The journal.
        price: USD for one image; the list price by default.

    Raises:
        InputError: The price is not one.
        JournalError: The journal can't be used.
    """
    check_options({"price": price})
    each = Decimal(str(EXPAND.price or 0 if price is None else price))
    queue = Queue(journal=journal, settings=_settings(journal))
    entries = await journal.transaction(queue.sizes)
    activity = await journal.activity(_RECENT)
    rate = activity.finished / _RECENT
    left = None if activity.left and not rate else activity.left / (rate or 1)
    return FleetStatus(
        workers=activity.workers,
        queued=entries.get("queued", 0),
        running=entries.get("picked", 0),
        held=entries.get("failed", 0),
        jobs=MappingProxyType({str(k): many for k, many in (await journal.counts()).items()}),
        in_flight=activity.in_flight,
        finished=activity.finished,
        images_left=activity.left,
        billed=activity.billed,
        cost=each * activity.billed,
        per_hour=3600 * rate,
        seconds_left=left,
    )
