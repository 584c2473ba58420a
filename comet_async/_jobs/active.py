"""The jobs of one open journal, as this process works on them."""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs

from comet_async._jobs.concurrency_limit import ConcurrencyLimiter
from comet_async._jobs.keyed_lock import KeyedLock
from comet_async._jobs.loops import cancel, finished
from comet_async._jobs.notification_relay import NotificationRelay
from comet_async._jobs.reconcile import Reconciler, TaskLookup
from comet_async._jobs.services import Services
from comet_async._jobs.shared_slots import SharedSlots
from comet_async._journal.memory import ForgettingJournal
from comet_async._journal.records import Changes, JobRecord, Journal, NewJob, StoredImage
from comet_async._journal.shared import SharedJournal
from comet_async._journal.states import ON_SERVER, JobState
from comet_async._journal.transitions import check_task_of
from comet_async.errors import (
    CometError,
    ConcurrencyLimitError,
    JournalError,
    NotFoundError,
    StaleRecordError,
    TaskFailedError,
)
from comet_async.events import JobEvent, SlotAwaited
from comet_async.models import ResultImage, Task
from comet_async.requests import kind_named

logger = logging.getLogger("comet_async")

SLOT_PATIENCE = 5.0
"""Seconds of waiting for a slot after which the log says who holds them."""

RECHECK = 5.0
"""Seconds after which a worker tries to claim a job again if no message about it came."""

ENDING = 5.0
"""Seconds for recording what is cut off, or reading it, before a database is given up."""

UNDECIDED = 300.0
"""Seconds after which a request without a worker is looked up again that no lookup could settle."""

_RECORD_TRIES = 5
_POLLED = 20  # jobs without a worker that are polled while a caller waits for a slot
_NAMED = 5  # jobs that a log line names


@attrs.frozen
class Job:
    """A job as this process knows it.

    Attributes:
        record: What the journal says.
        task: The newest snapshot of its task that this process has seen, if any.
    """

    record: JobRecord
    task: Task | None = None


def _nothing() -> None:
    """Do nothing."""


def readable(task: Task, n: int) -> tuple[ResultImage, ...]:
    """Return the images of *task* that can be fetched, at most the *n* that were asked for."""
    return tuple([image for image in task.images if image.url][:n])


@attrs.define(eq=False)
class _LoopWatch:
    """One event loop's polls for running jobs without a caller."""

    callers: int = 0
    tasks: dict[str, asyncio.Task[None]] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _SharedWork:
    """The work on one journal in this process, shared by all sessions that use it."""

    locks: KeyedLock = attrs.field(factory=KeyedLock)
    sends: dict[str, asyncio.Task[Job]] = attrs.field(factory=dict)
    abandoned: weakref.WeakSet[asyncio.Task[Job]] = attrs.field(factory=weakref.WeakSet)
    names: dict[str, Counter[str]] = attrs.field(factory=dict)
    owned: dict[str, str] = attrs.field(factory=dict)


_by_journal: weakref.WeakKeyDictionary[Journal, _SharedWork] = weakref.WeakKeyDictionary()


def _shared_work(journal: Journal) -> _SharedWork:
    try:
        return _by_journal.setdefault(journal, _SharedWork())
    except TypeError:  # the user's own class, whose objects can't be keys
        return _SharedWork()


@attrs.define(eq=False)
class ActiveJobs:
    """What this process knows of one journal's jobs apart from their records.

    All calls and runs of a session over one journal share it, so that they never work on the
    same job at once and count slots together. Sessions that were given the same journal share
    `locks`, `sends` and `names`. A job holds its slots from before its request is sent until any
    poll shows that its task has ended.

    Attributes:
        journal: The journal.
        slots: Images in flight.
        services: What the session shares.
        locks: One caller at a time works on a job.
        sends: The asyncio tasks that send requests, by key.
        abandoned: Those that others no longer wait for, because their loop is stopped or closed:
            they must not send any more.
        names: Which jobs callers work on that want a result under a name, and how many callers.
        duplicates: Keys that the server knew from an earlier request, until their task is found.
        reconciler: Finds out what became of requests whose answers were lost.
        shared: The journal, if several processes use it.
        shared_slots: Images in flight over all of them, in that case.
    """

    journal: Journal
    slots: ConcurrencyLimiter
    services: Services
    locks: KeyedLock = attrs.field(init=False)
    sends: dict[str, asyncio.Task[Job]] = attrs.field(init=False)
    abandoned: weakref.WeakSet[asyncio.Task[Job]] = attrs.field(init=False)
    names: dict[str, Counter[str]] = attrs.field(init=False)
    duplicates: set[str] = attrs.field(factory=set, init=False)
    reconciler: Reconciler = attrs.field(init=False)
    shared: SharedJournal | None = attrs.field(init=False, default=None)
    shared_slots: SharedSlots | None = attrs.field(init=False, default=None)
    # By task id: jobs whose task has not been seen to end. The keys of the same jobs.
    _running: dict[str, JobRecord] = attrs.field(factory=dict, init=False)
    _running_keys: set[str] = attrs.field(factory=set, init=False)
    # Locked while a caller of this session works on a job, or waits to do so. Any other running job
    # is polled here when its slot is wanted, even if another session works on it.
    _callers: KeyedLock = attrs.field(factory=KeyedLock, init=False)
    # Jobs of a shared journal that a caller of this process works on, or is claiming, and under
    # which lease.
    _owned: dict[str, str] = attrs.field(init=False)
    _releases: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    # Jobs without a worker whose answers were lost, while they are looked up here.
    _resolving: dict[str, asyncio.Task[None]] = attrs.field(factory=dict, init=False)
    # Until when those are left alone that no lookup could settle, by the monotonic clock.
    _undecided: dict[str, float] = attrs.field(factory=dict, init=False)
    # Those of `sends` that are this session's.
    _own_sends: set[asyncio.Task[Job]] = attrs.field(factory=set, init=False)
    _unsubscribe: Callable[[], None] = attrs.field(default=_nothing, init=False)
    # Callers that wait for a slot, and whether the log says so.
    _waiting: int = attrs.field(default=0, init=False)
    _wait_logged: bool = attrs.field(default=False, init=False)
    # Ends that were seen while a runner has the job: it takes them from here.
    _ended: dict[str, Job] = attrs.field(factory=dict, init=False)
    _watches: dict[asyncio.AbstractEventLoop, _LoopWatch] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        work = _shared_work(self.journal)
        self.locks, self.sends, self.names = work.locks, work.sends, work.names
        self.abandoned, self._owned = work.abandoned, work.owned
        if isinstance(self.journal, SharedJournal):
            self.shared = self.journal
            self.shared_slots = SharedSlots(
                journal=self.journal,
                clock=self.services.clock,
                account=self.services.account,
                most=self.slots.most,
            )
        self.reconciler = Reconciler(
            lookup=TaskLookup(self.services.api, self.services.callbacks),
            journal=self.journal,
            clock=self.services.clock,
        )

    def share_notifications(self) -> None:
        """Pass callbacks on to the journal's other workers, and take theirs."""
        receiver = self.services.callbacks
        if self.shared is None or receiver is None:
            return
        relay = NotificationRelay(self.shared, receiver)
        self._unsubscribe = relay.start()

    async def seed(self) -> None:
        """Count the jobs that earlier sessions left running."""
        after = ""
        # In a shared journal they may be another process's; the journal counts them itself.
        while self.shared is None and (
            page := await self.journal.find({JobState.SUBMITTED}, after=after)
        ):
            for record in page:
                if record.account == self.services.account:
                    self.slots.hold(record.key, record.n)
                    self._run(record)
            after = page[-1].key
        known = await self.journal.find(ON_SERVER)
        if any(record.account == self.services.account for record in known):
            self.services.health.trust()

    # Working on a job ---------------------------------------------------------------------

    @asynccontextmanager
    async def planned(self, job: NewJob) -> AsyncGenerator[JobRecord, None]:
        """Record *job* in the journal, and work on it as in `alone`.

        Raises:
            IdempotencyConflictError: Its key is known for another request.
        """
        if self.locks.taken(job.key):
            # The other caller may take long: a crash meanwhile must not lose this destination.
            await self.journal.plan([job], now=self.services.clock.time())
        loop = await self._acquire(job.key)
        try:
            (record,) = await self.journal.plan([job], now=self.services.clock.time())
            yield await self._own(record)
        finally:
            await self._let_go(job.key, loop)

    @asynccontextmanager
    async def alone(self, record: JobRecord) -> AsyncGenerator[JobRecord, None]:
        """Work on a job alone; a second caller waits, then sees the result.

        Yields:
            The record as it is then.
        """
        loop = await self._acquire(record.key)
        try:
            if self.shared is None:
                record = await self.journal.get(record.key) or record
            yield await self._own(record)
        finally:
            await self._let_go(record.key, loop)

    async def _acquire(self, key: str) -> asyncio.AbstractEventLoop:
        """Wait until no other caller works on a job, in this session or another one."""
        loop = await self._callers.acquire(key)
        try:
            return await self.locks.acquire(key)
        except BaseException:
            self._callers.release(key, loop)
            self._tidy(key)
            raise

    async def _own(self, record: JobRecord) -> JobRecord:
        """Own a job among the workers of a shared journal; return its record as it is then."""
        if self.shared is None:
            return record
        key = record.key
        with self.shared.listening_for_job(key) as released:
            while True:
                # Before the claim: if the caller is cancelled then, it takes place all the same.
                self._owned[key] = boot = self.shared.boot
                current = await self.shared.claim(key)
                if current is None:
                    await released.wait(RECHECK)
                elif boot == self.shared.boot:
                    return current

    async def _let_go(self, key: str, loop: asyncio.AbstractEventLoop) -> None:
        """Undo `_own` and `_acquire`."""
        if not self.locks.held_by(loop, key):  # it was closed, and another caller has the job now
            self._callers.release(key, loop)
            return
        try:
            if key in self._owned:
                del self._owned[key]
                if self.shared is not None and key not in self.sends:
                    await self.shared.release(key)  # else when its answer has been recorded
        finally:
            self._ended.pop(key, None)
            self._give_back(key)
            self.locks.release(key, loop)
            self._callers.release(key, loop)
            self._tidy(key)  # also after a timeout: another caller may wait for this job's slot

    def _give_back(self, key: str) -> None:
        """Release the slots of a job that is neither being sent nor running."""
        if key not in self.sends and key not in self._running_keys:
            self.slots.release(key)

    def _tidy(self, key: str) -> None:
        """Clean up after the last caller of a job."""
        if self._callers.taken(key):
            return
        if key in self._running_keys:
            self._watch_running()
        elif key not in self.sends and isinstance(self.journal, ForgettingJournal):
            self.journal.forget(key)

    @contextmanager
    def naming(self, name: str, key: str) -> Generator[bool, None, None]:
        """Work on a job whose result is to be called *name*, in one spelling for each file.

        Yields:
            True if a caller here works on another job that wants the same name.
        """
        keys = self.names.setdefault(name, Counter())
        wanted = bool(keys.keys() - {key})
        keys[key] += 1
        try:
            yield wanted
        finally:
            keys[key] -= 1
            if not keys[key]:
                del keys[key]
            if not keys and self.names.get(name) is keys:
                del self.names[name]

    # Slots --------------------------------------------------------------------------------

    async def acquire(self, record: JobRecord, *, wait: bool, single: bool) -> None:
        """Take the slots of a job.

        While a caller waits, running jobs without a caller are polled: they may have ended long
        ago.

        Args:
            record: The job.
            wait: False to raise an error if there is no free slot.
            single: True for a program's own call: a long wait is logged as a warning, once for
                jobs that wait. Not with a shared journal, whose workers may take more jobs than
                there are slots.

        Raises:
            ConcurrencyLimitError: There is no free slot.
        """
        if self.slots.try_acquire(record.key, record.n):
            return
        if not wait:
            raise ConcurrencyLimitError(
                f"{self.slots.used} of {self.slots.limit} slots are in use; nothing was sent",
                hint="try again later, or wait for a slot",
                sent=False,
                external_task_id=record.key,
            )
        level = logging.WARNING if single and self.shared is None else logging.INFO
        loop = asyncio.get_running_loop()
        timer = loop.call_later(SLOT_PATIENCE, self._log_holders, record, level)
        self._waiting += 1
        try:
            with self._watching(loop):
                await self.slots.acquire(record.key, record.n)
        finally:
            timer.cancel()
            self._waiting -= 1
            if not self._waiting:
                self._wait_logged = False

    def _log_holders(self, record: JobRecord, level: int) -> None:
        tasks = {running.key: task_id for task_id, running in list(self._running.items())}
        holders = self.slots.holders
        names = tuple(
            f"{key} (task {tasks[key]})" if key in tasks else f"{key} (being sent or looked up)"
            for key in holders[:_NAMED]
        )
        event = SlotAwaited(
            key=record.key,
            kind=record.kind,
            seconds=SLOT_PATIENCE,
            used=self.slots.used,
            limit=self.slots.limit,
            holders=names,
        )
        if self._wait_logged:
            level = logging.DEBUG  # one line for all that wait
        self._wait_logged = True
        self.services.events.emit(event, level=level)

    @contextmanager
    def _watching(self, loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
        watch = self._watches.setdefault(loop, _LoopWatch())
        watch.callers += 1
        self._watch_running()
        try:
            yield
        finally:
            watch.callers -= 1
            if not watch.callers:
                self._watches.pop(loop, None)
                for task in watch.tasks.values():
                    task.cancel()

    def _watch_running(self) -> None:
        """Poll running jobs without a caller, if a caller in this loop waits for a slot."""
        watch = self._watches.get(asyncio.get_running_loop())
        if watch is None:
            return
        for task_id, record in list(self._running.items()):
            if task_id not in watch.tasks and not self._callers.taken(record.key):
                watch.tasks[task_id] = task = asyncio.create_task(self._find_end(record))
                task.add_done_callback(functools.partial(_remove, watch.tasks, task_id))

    async def _find_end(self, record: JobRecord) -> None:
        task_id = record.task_id or ""
        try:
            task = await self.services.waiter.wait(
                task_id, kind=record.kind, n=record.n, timeout=None
            )
        except TaskFailedError as error:
            task = error.task
        except CometError as error:
            # It may still be running. If it is, the server refuses one image too many.
            logger.warning("task %s no longer counts as in flight: %s", task_id, error.message)
            self.stop_running(record)
            return
        if record.key in self._running_keys:  # else it was recorded when the poll came
            await self.ended(record, task)

    async def poll_unclaimed(self, resolve: Callable[[Job], Awaitable[Job]]) -> None:
        """Poll running jobs without a worker once: they may have ended, and still hold slots.

        Those whose answers were lost are looked up, which takes longer. All workers may be full of
        jobs that wait for their slots.

        Args:
            resolve: Finds out what became of a job.
        """
        if self.shared is None:
            return
        now = self.services.clock.monotonic()
        self._undecided = {key: until for key, until in self._undecided.items() if until > now}
        for record in await self.shared.unclaimed(self.services.account, limit=_POLLED):
            if self.locks.taken(record.key) or record.key in self._resolving:
                continue
            if record.state is JobState.UNKNOWN:
                if record.key in self._undecided:
                    continue
                work = self._resolve_unclaimed(self.shared, record.key, resolve)
                self._resolving[record.key] = task = asyncio.create_task(work)
                task.add_done_callback(functools.partial(_remove, self._resolving, record.key))
                continue
            async with self.locks.of(record.key):
                claimed = await self.shared.claim(record.key)
                if claimed is None:
                    continue
                try:
                    await _quietly(self._poll_once(claimed))
                finally:
                    await self.shared.release(record.key)

    async def _resolve_unclaimed(
        self, shared: SharedJournal, key: str, resolve: Callable[[Job], Awaitable[Job]]
    ) -> None:
        async with self.locks.of(key):
            claimed = await shared.claim(key)
            if claimed is None:
                return
            job = Job(claimed)
            try:
                if claimed.state is JobState.UNKNOWN:
                    job = await resolve(job)
            except CometError as error:
                logger.info("%s could not be looked up: %s", key, error.message)
            finally:
                if job.record.state is JobState.UNKNOWN:
                    self._undecided[key] = self.services.clock.monotonic() + UNDECIDED
                self.stop_running(job.record)  # no caller here waits for it; the journal counts it
                await shared.release(key)

    async def _poll_once(self, record: JobRecord) -> None:
        if record.state is not JobState.SUBMITTED or record.task_id is None:
            return
        try:
            task = await self.services.api.get(record.task_id, kind=kind_named(record.kind))
            check_task_of(record, task)
        except NotFoundError as error:
            await self.strand(record, error)
        except CometError as error:
            logger.info("task %s could not be polled: %s", record.task_id, error.message)
        else:
            if task.done:
                await self.ended(record, task)

    async def refused_for_concurrency(self) -> None:
        """Allow fewer images in flight: the server has just refused one."""
        if self.shared_slots is None:
            self.slots.shrink()
        else:
            await _quietly(self.shared_slots.shrink())

    async def accepted(self) -> None:
        """Count an accepted request; enough of them allow one more image in flight."""
        if self.shared_slots is None:
            self.slots.accepted()
        else:
            await _quietly(self.shared_slots.accepted())

    # Sending ------------------------------------------------------------------------------

    def send(self, record: JobRecord, task: asyncio.Task[Job]) -> None:
        """Remember the request that *task* sends until its outcome has been recorded."""
        self.sends[record.key] = task
        self._own_sends.add(task)
        task.add_done_callback(functools.partial(self._sent, record.key))

    async def join(self, key: str) -> None:
        """Wait for the request of a job that is being sent, as long as its loop runs."""
        if (task := self.sends.get(key)) is None:
            return
        await finished([task])
        if not task.done():
            self.abandoned.add(task)
            self._forget(key, task)

    def _forget(self, key: str, task: asyncio.Task[Job]) -> None:
        self._own_sends.discard(task)
        if self.sends.get(key) is task:
            del self.sends[key]

    def _sent(self, key: str, task: asyncio.Task[Job]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never retrieves it
        if task in self.abandoned:
            return
        if not self._callers.taken(key):
            self._give_back(key)
            self._tidy(key)
        if self.shared is not None and key not in self._owned:
            release = asyncio.ensure_future(self._release(self.shared, key))
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)

    async def _release(self, journal: SharedJournal, key: str) -> None:
        try:
            await journal.release(key)
        except JournalError as error:  # its lease ends by itself
            logger.warning("%s could not be released: %s", key, error.message)

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until every request that is being sent has been answered and recorded.

        Args:
            timeout: Seconds; those that are not answered by then are recorded as unknown. With
                None, none is cut off: other callers may begin to send meanwhile.
        """
        await finished(self._own_sends, timeout)
        if timeout is None:
            await finished(self._releases)
            return
        cut_off = list(self._own_sends)
        for task in cut_off:
            cancel(task)
        if self.shared is None:
            await finished(cut_off)
            return
        await finished([*cut_off, *self._releases], ENDING)
        left = [task for task in (*cut_off, *self._releases) if not task.done()]
        if left:
            with self.shared.impatient():
                await finished(left, ENDING)

    async def aclose(self, timeout: float | None = None) -> None:
        """Drain, and stop polling."""
        self._unsubscribe()
        await self.drain(timeout)
        watch = self._watches.pop(asyncio.get_running_loop(), _LoopWatch())
        for task in list(watch.tasks.values()):
            task.cancel()
        resolving = list(self._resolving.values())
        for task in resolving:
            cancel(task)
        await finished(resolving, ENDING)

    # Recording ----------------------------------------------------------------------------

    async def current(self, record: JobRecord) -> JobRecord:
        """Return a job's record as the journal has it now.

        Raises:
            StaleRecordError: Another worker has taken the job over; this one may not change it.
        """
        key = record.key
        if self.shared is not None and (boot := self._owned.get(key)) is not None:
            current = await self.shared.claim(key) if boot == self.shared.boot else None
            if current is None or boot != self.shared.boot:
                raise StaleRecordError(f"another worker has taken {key} over", external_task_id=key)
            return current
        current = await self.journal.get(key)
        if current is None:
            raise JournalError(f"the journal lost {key}", external_task_id=key)
        return current

    async def move(
        self,
        record: JobRecord,
        state: JobState,
        why: str,
        error: CometError | None = None,
        *,
        refund: bool = False,
    ) -> JobRecord:
        """Move a job to another state, with what *error* says about it.

        Args:
            record: The job.
            state: The state to enter.
            why: The reason, for the journal.
            error: What details come from.
            refund: Take it out of the count of its run.
        """
        details: Changes = {}
        if error is not None:
            details = {
                "status": error.status,
                "code": None if error.code is None else str(error.code),
                "request_id": error.request_id,
                "message": error.message,
            }
        if refund:
            details["run"] = None
        now = self.services.clock.time()
        return await self.journal.move(record, state, now=now, why=why, **details)

    async def adopt(
        self, record: JobRecord, task: Task, why: str, make: type[JobEvent], **facts: Any
    ) -> Job:
        """Record the task that a request made, and report both ids.

        Args:
            record: The job.
            task: Its task.
            why: For the journal.
            make: The event that reports it.
            **facts: The event's own fields.
        """
        self.services.health.accepted()
        moved = await self._record_task(record, task, why)
        self.emit(make, moved, **facts)
        self.reconciler.acknowledged(record, task)
        self._run(moved)
        return Job(moved, task)

    async def _record_task(self, record: JobRecord, task: Task, why: str) -> JobRecord:
        """Record a job's task. If the disk refuses, keep trying: the id is worth money."""
        for attempt in range(_RECORD_TRIES):
            try:
                return await self.journal.move(
                    record,
                    JobState.SUBMITTED,
                    now=self.services.clock.time(),
                    why=why,
                    task_id=task.id,
                    request_id=task.request_id,
                )
            except StaleRecordError as error:
                # Another worker took the job over and looks its task up; this tells it the id.
                _set_billed(error, task, record)
                logger.warning(
                    "task %s of %s is billed; another worker has it", task.id, record.key
                )
                if self.shared is not None:
                    await self.shared.send_hint(task.id, record.key)
                raise
            except JournalError as error:
                last = attempt == _RECORD_TRIES - 1
                if last or attempt == 0:
                    logger.error(  # noqa: TRY400 - the traceback says nothing; the id must be seen
                        "task %s of %s is billed and could not be recorded%s: %s",
                        task.id,
                        record.key,
                        "" if last else ", trying again",
                        error,
                    )
                if last:
                    _set_billed(error, task, record)
                    raise
            await self.services.clock.sleep(2.0**attempt)
        raise AssertionError

    def emit(
        self, make: type[JobEvent], record: JobRecord, level: int | None = None, /, **facts: Any
    ) -> None:
        """Report an event of a job, logged at *level* if that is not the event's usual one."""
        event = make(key=record.key, kind=record.kind, task_id=record.task_id, **facts)
        self.services.events.emit(event, level=level)

    def _run(self, record: JobRecord) -> None:
        if record.task_id is not None:
            self._running[record.task_id] = record
            self._running_keys.add(record.key)

    def stop_running(self, record: JobRecord) -> None:
        """Release the slots of a job that no longer runs at the server, or may not."""
        self._running.pop(record.task_id or "", None)
        self._running_keys.discard(record.key)
        self.slots.release(record.key)

    def running(self, task_id: str) -> JobRecord | None:
        """Return the job of a task whose end has not been seen."""
        return self._running.get(task_id)

    async def observe(self, task: Task) -> None:
        """Record the end of a job's task, if *task* shows it; any poll may be the first to."""
        record = self._running.get(task.id)
        if record is None or not task.done:
            return
        if not task.failed and len(readable(task, record.n)) < record.n:
            return  # more may still appear; the caller that waits for it decides
        try:
            await self.ended(record, task)
        except JournalError as error:
            logger.warning("the end of task %s could not be recorded: %s", task.id, error.message)

    async def ended(self, record: JobRecord, task: Task) -> Job:
        """Record the end of a job's task, unless that has been done; return the job."""
        known = self._ended.pop(record.key, None)
        if known is not None:
            return known
        self.stop_running(record)
        images = tuple(map(StoredImage.of, readable(task, record.n)))
        if task.succeeded and len(images) < record.n:
            logger.warning("task %s made %d of %d images", task.id, len(images), record.n)
        now = self.services.clock.time()
        try:
            moved = await self.journal.move(
                record,
                JobState.SUCCEEDED if task.succeeded else JobState.FAILED,
                now=now,
                why=task.message or str(task.status),
                images=images,
                images_seen_at=now,
                message=task.message,
                units=None if task.units is None else str(task.units),
            )
        except StaleRecordError:  # another poll saw it at the same time
            moved = await self.current(record)
        job = Job(moved, task)
        if self._callers.taken(record.key):
            self._ended[record.key] = job
        else:
            self._tidy(record.key)
        return job

    async def strand(self, record: JobRecord, error: CometError) -> JobRecord:
        """Record that the server no longer knows a job's task."""
        self.stop_running(record)
        why = "the server no longer knows the task"
        return await self.move(record, JobState.STRANDED, why, error)

    def resume_running(self, record: JobRecord) -> None:
        """Count a job that is running at the server, whatever the limit says."""
        self.slots.hold(record.key, record.n)
        self._run(record)


def _set_billed(error: JournalError, task: Task, record: JobRecord) -> None:
    """Let *error* say that *task* was accepted."""
    error.task_id, error.external_task_id, error.sent = task.id, record.key, True


async def _quietly(work: Awaitable[object]) -> None:
    """Await *work*; only log it if the journal fails, because no paid job depends on it."""
    try:
        await work
    except JournalError as error:
        logger.info("the journal could not be used: %s", error.message)


def _remove(tasks: dict[str, asyncio.Task[None]], task_id: str, task: asyncio.Task[None]) -> None:
    del tasks[task_id]
    if not task.cancelled():
        task.exception()
