"""A fleet of workers on PostgreSQL: a queue of jobs by PGQueuer, next to the journal.

Needs the extra ``fleet``.

Theory of operation
-------------------

The journal (`comet_async.postgres`) holds everything about a job. The queue only decides which
jobs are worked on next, so an entry holds a job's key and nothing else. The queue is PGQueuer's, in
the same schema, with PGQueuer's own tables, priorities and retries.

* **Enqueueing** plans jobs and queues their keys in one transaction, so that neither exists without
  the other. A key that is in the queue is not queued again.
* **A worker** takes keys and calls `CometSession.run_job` with each. A key that reaches two workers
  does no harm: the journal lets one of them work on the job, and nothing is bought twice.
* **A job that can't succeed** stays in the queue as failed, with its reason, until its image is
  enqueued again. A job that may succeed later goes back to the queue, with a pause.
* **An error that all jobs would meet**, such as an account without credit or a budget that is used
  up, stops the worker, and its jobs go back to the queue.
* **A worker that dies** leaves its entries in the queue: PGQueuer gives them to the others when
  their heartbeats have stopped, and the journal frees their jobs when the worker's lease has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack, cast, final

import attrs

from comet_async._fleet.consumer import Consumer, PutBackError
from comet_async._fleet.queue import Queue
from comet_async._journal.records import JobRecord, NewJob
from comet_async._journal.states import JobState
from comet_async._runs.journals import POSTGRES
from comet_async._runs.options import CONCURRENCY, check_options
from comet_async._runs.recording import RecordedJob, absolute, recorded
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
    JournalLostError,
    JournalRequiredError,
    SaveError,
    SessionClosedError,
    StaleRecordError,
)
from comet_async.outcomes import Outcome, OutcomeStatus
from comet_async.postgres import PostgresJournal, WorkerLease
from comet_async.requests import EXPAND, TaskRequest
from comet_async.runs import Budget, Run, RunOptions, opened

if TYPE_CHECKING:
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

_logger = logging.getLogger("comet_async")

GRACE = 30.0
"""Seconds that the jobs of a worker may continue after it was stopped."""

_LONGEST_PAUSE = 300.0  # seconds before a job is tried again
_MOST_ATTEMPTS = 20
_ENDING = 10.0  # seconds for jobs to go back to the queue before giving up on the database
_GIVEN_UP = 15  # seconds after that, longer than an attempt to connect
_STALE_PAUSE = 1.0  # seconds
_RECENT = 600.0  # seconds over which the rate of a fleet is measured
_LEAST, _MOST = -(2**31), 2**31 - 1  # priorities

# Enqueueing -----------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Enqueued(RecordedJob):
    """One image that was to be enqueued, and what was done with it.

    Attributes:
        source: The image as it was named; a path is absolute.
        key: The key of its job, or None if it has none.
        queued: True if it was queued now, False if it was in the queue before or needs no worker.
        outcome: Its outcome if it needs no worker: it is finished, its task failed earlier, it
            already had the wanted shape, or it can't be used. Otherwise None.
    """

    queued: bool = False


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
    """Queue all images of a folder for the workers of a fleet; yields each of them.

    Nothing is sent and nothing is paid here. Workers read the images and save the results at the
    same paths and addresses, so both must be on a disk that all machines share, or in a store. An
    image that already has the wanted shape needs no worker: it is copied here.

    Args:
        comet: A session with a journal in PostgreSQL, and with the key that the workers have.
        source: As for `CometSession.expand_folder`.
        out: Where to save the images, as for `CometSession.expand_folder`.
        margins: `Margins`, a rule, or text such as ``"16:9"``.
        prompt: What to draw in the new area; at most 2500 characters.
        n: How many variants of each, 1 to 9.
        watermark: Get a watermarked version of each variant as well.
        priority: Jobs with a higher number are taken first. 0 by default.
        **options: See `RunOptions`. How jobs are sent is decided by the worker's options instead.

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
        [absolute(os.fspath(each)) for each in sources],
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
    """Queue many requests for the workers of a fleet; yields each of them.

    Args:
        comet: A session with a journal in PostgreSQL, and with the key that the workers have.
        requests: Any iterable, even an endless or async one. Images in memory are refused: a
            worker can't read them.
        out: Where to save the images, as for `enqueue_folder`; by default they are not saved.
        priority: Jobs with a higher number are taken first. 0 by default.
        **options: See `RunOptions`. How jobs are sent is decided by the worker's options instead.

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


async def _enqueue(comet: CometSession, run: Run, priority: int) -> AsyncGenerator[Enqueued, None]:
    queued: set[str] = set()

    async def record(jobs: Sequence[NewJob]) -> list[JobRecord]:
        records, fresh = await queue.put(jobs, priority)
        queued.update(fresh)
        return records

    async with opened(run) as (batch, items):
        queue = await Queue.open(await _journal_of(comet))
        async with aclosing(recorded(batch, items, record)) as jobs:
            async for job in jobs:
                yield Enqueued(
                    source=job.source,
                    key=job.key,
                    queued=job.outcome is None and job.key in queued,
                    outcome=job.outcome,
                )


def _check_session(comet: CometSession) -> None:
    """Refuse a session whose journal is not in PostgreSQL.

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


# Working --------------------------------------------------------------------------------


@final
@attrs.define(eq=False, init=False)
class FleetWorker:
    """Works on the jobs of a fleet's queue, in this process.

    It takes the jobs of its session's account and gateway only. Images that were converted when
    they were enqueued (``prepare=True``) need a session with ``prepare=True`` here, too.

    Example:
        >>> async def main() -> None:
        ...     async with CometSession(journal="postgresql://db/images", concurrency=20) as comet:
        ...         await FleetWorker(comet).run()

    Attributes:
        comet: The session.
        at_once: Maximum number of jobs that it works on at a time.
        grace: Seconds that its jobs may continue after `stop`.
        stopped: The error that stopped it, or None.
        done: Number of jobs that it finished with a result.
        failed: Number of jobs that it could not finish.
    """

    comet: CometSession
    at_once: int
    grace: float
    stopped: CometError | None
    done: int
    failed: int
    _budget: Budget
    _consumer: Consumer | None
    _running: dict[int, tuple[str, asyncio.Future[Outcome]]]
    _stopping: bool
    _leaving: asyncio.Task[None] | None
    _opening: asyncio.Task[Consumer] | None
    _consuming: asyncio.Task[None] | None

    def __init__(
        self,
        comet: CometSession,
        *,
        at_once: int = 2 * CONCURRENCY,
        grace: float = GRACE,
        **budget: Unpack[Budget],
    ) -> None:
        """Make a worker; it starts with `run`.

        Args:
            comet: A session with a journal in PostgreSQL. Its ``concurrency`` is the number of
                images that all workers together may have in flight.
            at_once: Maximum number of jobs that this worker works on at a time, at least 2. While
                half of them are in flight, the others read images and save results. 32 by default.
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
        self._consumer = None
        self._running = {}
        self._stopping = False
        self._leaving = None
        self._opening = None
        self._consuming = None

    async def run(self) -> None:
        """Work until `stop` is called; a `stop` before the start counts. May be called again.

        If it is cancelled, all its jobs go back to the queue at once, without `grace`. While the
        database can't be reached, it waits as long as the session's journal does.

        Raises:
            AccountError: Every other job would meet the same error. The jobs go back to the queue;
                likewise for all errors that are ``account_wide``.
            BudgetExceededError: The budget is used up; the jobs go back to the queue.
            ConfigError: The session can't be used for these jobs; they go back to the queue.
            JournalLostError: The database was restored, or a replica took over; the jobs go back to
                the queue.
            JournalError: The database can't be used, or was not reached for long. Other workers
                take over the jobs of this one.
        """
        self.stopped = None
        try:
            consumer = None if self._stopping else await self._opened()
            if consumer is not None and not self._stopping:
                self._consumer = consumer
                await self._consume(consumer)
        finally:
            try:
                if self._leaving is not None:
                    await self._leaving
            finally:
                self._consumer = self._consuming = self._leaving = None
                self._stopping = False
        if self.stopped is not None:
            raise self.stopped

    async def _opened(self) -> Consumer | None:
        """Open the queue; return None if `stop` was called meanwhile."""
        self._opening = opening = asyncio.create_task(self._open())
        try:
            return await opening
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling() or not self._stopping:
                raise
            return None
        finally:
            self._opening = None

    async def _open(self) -> Consumer:
        journal = await _journal_of(self.comet)
        return Consumer(
            queue=await Queue.open(journal),
            account=self.comet._services.account,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            at_once=self.at_once,
            work=self._work,
        )

    async def _consume(self, consumer: Consumer) -> None:
        """Work until *consumer* is stopped; if this is cancelled, put all jobs back."""
        # Of its own: a queue that is cancelled waits for its jobs, and then forgets them.
        self._consuming = consuming = asyncio.create_task(consumer.run())
        try:
            await asyncio.shield(consuming)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if consuming.cancelled() and (caller is None or not caller.cancelling()):
                return  # given up by `_end`, after `stop`
            self._stopping = True
            consumer.stop()
            ending = asyncio.create_task(self._end(consumer, consuming))
            while not ending.done():
                try:
                    await asyncio.wait({ending})
                except asyncio.CancelledError:  # once more: the database may be out of reach
                    ending.cancel()
            if not consuming.cancelled():
                consuming.exception()
            raise

    async def _end(self, consumer: Consumer, consuming: asyncio.Task[None]) -> None:
        """Cancel all jobs, and wait until they are back in the queue.

        A database that does not answer is not waited for: other workers take the jobs over when
        the lease of this one has ended.
        """
        try:
            self._cancel_all()
            await asyncio.wait({consuming}, timeout=_ENDING)
            if consuming.done():
                return
            _logger.warning("the database does not answer: other workers take the jobs over")
            journal = await _journal_of(self.comet)
            for _ in range(_GIVEN_UP):
                with journal.impatient():
                    consumer.abandon()
                    self._cancel_all()
                    await asyncio.wait({consuming}, timeout=1.0)
                if consuming.done():
                    return
        finally:
            consuming.cancel()

    def _cancel_all(self) -> None:
        for _, task in self._running.values():
            task.cancel()

    def stop(self) -> None:
        """Take no more jobs, and have `run` return soon. May be called again.

        Jobs that were not sent go back to the queue at once; the others have `grace` seconds to
        end. Then they go back, too: their tasks continue at the server, and the next worker that
        takes the job waits for its task.
        """
        if self._stopping:
            return
        self._stopping = True
        if self._opening is not None:
            self._opening.cancel()
        if self._consumer is not None and self._consuming is not None:
            self._consumer.stop()
            self._leaving = asyncio.create_task(self._leave(self._consumer, self._consuming))

    async def _leave(self, consumer: Consumer, consuming: asyncio.Task[None]) -> None:
        journal = await _journal_of(self.comet)
        # The database itself may be unreachable; the grace period runs in the meantime.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace):
                await self._put_back_unsent(journal)
                if self._running:
                    await asyncio.wait([task for _, task in self._running.values()])
        await self._end(consumer, consuming)

    async def _put_back_unsent(self, journal: PostgresJournal) -> None:
        for key, task in list(self._running.values()):
            try:
                record = await journal.get(key)
            except CometError:  # the others will not be found either
                return
            if record is not None and record.state is JobState.PLANNED:
                task.cancel()

    async def _work(self, entry: int, key: str, attempts: int) -> None:
        """Work on one job.

        Raises:
            PutBackError: It is to be tried again.
            CometError: Trying again would not help.
        """
        if self._stopping:
            raise PutBackError("the worker stops")
        task = asyncio.ensure_future(self.comet.run_job(key, timeout=None, **self._budget))
        self._running[entry] = key, task
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            del self._running[entry]
        if task.cancelled():
            raise PutBackError("the worker stops")
        error = task.exception() or _problem(task.result())
        if error is None:
            self.done += 1
            return
        if isinstance(error, CometError):
            self._put_back(key, error, attempts)
        self.failed += 1
        _logger.warning("job %s failed, and stays in the queue as failed: %s", key, error)
        with contextlib.suppress(CometError):  # only for people who look
            await self._note(key, str(error))
        raise error

    async def _note(self, key: str, reason: str) -> None:
        """Write into the journal why a job was not sent; it holds all other ends already."""
        journal = await _journal_of(self.comet)
        record = await journal.get(key)
        if record is not None and record.state is JobState.PLANNED:
            await journal.note(record, now=time.time(), message=reason)

    def _put_back(self, key: str, error: CometError, attempts: int) -> None:
        """Put a job back into the queue if another attempt may help.

        Raises:
            PutBackError: It may.
        """
        if error.account_wide or isinstance(error, _STOPPING):
            self.stopped = self.stopped or error
            self.stop()
            raise PutBackError(error.message) from error
        if isinstance(error, StaleRecordError):  # another worker has the job, or had it
            raise PutBackError(error.message, _STALE_PAUSE) from error
        # A result that could not be saved here is paid, and may be saved by another worker.
        retryable = error.retryable or isinstance(error, SaveError)
        if retryable and attempts < _MOST_ATTEMPTS:
            pause = min(_LONGEST_PAUSE, error.retry_after or 2.0**attempts)
            _logger.info("job %s is tried again after %.0f s: %s", key, pause, error)
            raise PutBackError(error.message, pause, attempt=True) from error


_STOPPING = (BudgetExceededError, ConfigError, JournalLostError, SessionClosedError)
"""Errors that every other job of this worker would meet, too."""


def _problem(outcome: Outcome) -> CometError | None:
    """Return why a job did not end with a result, or None if it did.

    A job that is pending or uncertain is tried again later, free of charge.
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
        queued: Number of jobs that wait for a worker.
        running: Number of jobs that a worker has taken.
        held: Number of jobs that failed and stay in the queue until they are enqueued again.
        jobs: Number of jobs of the journal by state.
        in_flight: Number of images that the server is working on.
        finished: Number of images that were finished in the last ten minutes.
        images_left: Number of images of unfinished jobs.
        billed: Number of images of all jobs that the server accepted and that did not fail.
        cost: Price of these in USD; an estimate, never a bill.
        per_hour: Images per hour, measured over the last ten minutes.
        seconds_left: Seconds until all jobs are finished at this rate; None if none was finished.
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
    entries = await Queue.of(journal).sizes()
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
