"""One scheduler for all tasks that a waiter watches in one event loop.

A task that waits is an entry in a heap and nothing else: no coroutine, no timer of its own.
One timer of the loop wakes the scheduler when the earliest entry is due, and workers exist
only while there are questions to ask. When nobody waits any more nothing is left in the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Protocol

import attrs

from comet_async._polling.completion import finished, missing_result, next_result_poll
from comet_async._polling.failures import (
    FailurePolicy,
    RetryQueue,
    closed_error,
    concerns_account,
    deadline_error,
    is_ours,
    parting_error,
)
from comet_async._polling.timing import PollTiming
from comet_async._polling.watch import (
    NEVER,
    TimerHeap,
    Watch,
    WatchedTask,
    WatchIndex,
    rank_of,
    slim,
)
from comet_async._wire.decode import Notification
from comet_async.clock import Clock
from comet_async.events import Changed, EventSink, Notified, Polled, Retried
from comet_async.models import Task, TaskPage, TaskStatus
from comet_async.schedules import ScheduleLike


class TaskSource(Protocol):
    """What a waiter asks; `CometSession` is one."""

    @property
    def clock(self) -> Clock:
        """The clock that deadlines and ages are measured with."""
        ...

    @property
    def schedule(self) -> ScheduleLike:
        """When to ask, for waiters that are not told."""
        ...

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Ask once for a task, without trying again.

        Args:
            task_id: The task.
            kind: Its kind.
            timeout: Seconds for the exchange; the session's own limit when None.

        Raises:
            CometError: There was no good answer.
        """
        ...

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Ask once for a page of the list, without trying again.

        Raises:
            CometError: There was no good answer.
        """
        ...


class Shortcut(Protocol):
    """Another way to learn about tasks of one kind than asking about each."""

    def takes(self, entry: WatchedTask, now: float) -> bool:
        """Take a due task over; False to have it asked about by itself."""
        ...

    def pace(self, entry: WatchedTask) -> float:
        """Return how many times denser than one by one the questions about it should be."""
        ...

    def asked(self, entry: WatchedTask, task: Task) -> None:
        """Compare the answer about one task with what the shortcut showed before."""
        ...

    def cancel(self) -> None:
        """Stop: nobody waits any more."""
        ...


@attrs.define(eq=False)
class Counters:
    """What a waiter has done so far; `TaskWaiter` describes each."""

    polls: int = 0
    list_calls: int = 0
    notifications: int = 0
    retries: int = 0
    finished: int = 0
    delay_total: float = 0.0
    delay_longest: float = 0.0


@attrs.define(eq=False, kw_only=True)
class Shared:
    """What the pollers of one waiter have in common, whatever loop they run in.

    Attributes:
        source: What is asked.
        timing: When.
        patience: What is borne.
        sink: Who is told.
        concurrency: Questions at a time in one loop.
        named: True to find tasks by external id too.
        counters: What was done.
    """

    source: TaskSource
    timing: PollTiming
    patience: FailurePolicy
    sink: EventSink
    concurrency: int
    named: bool
    counters: Counters = attrs.field(factory=Counters)


# Somebody who cancels all tasks of a loop, ours too, may be closing it.
AFTERMATH = 1.0
"""Seconds until polling continues after a worker was cancelled from outside."""


class WorkerPool:
    """A bounded pool of poll workers; it shrinks to zero when idle.

    Args:
        poller: Whose polls.
        size: Most polls at a time.
    """

    def __init__(self, poller: Poller, size: int) -> None:
        self._poller = poller
        self._size = size
        self._queue: deque[WatchedTask] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._running = 0

    def add(self, entry: WatchedTask) -> None:
        """Queue a poll; `start_workers` starts a worker for it if one is free."""
        self._queue.append(entry)

    def clear(self) -> None:
        """Drop all queued polls."""
        self._queue.clear()

    def start_workers(self) -> None:
        """Start workers for queued polls, up to the limit.

        If the loop can't start one, the waits for what is queued end with that error.
        """
        poller = self._poller
        while self._queue and self._running < self._size:
            # Counted before: an eager worker may come back here before its start returns.
            self._running += 1
            try:
                worker = poller.start_task(self._work())
            except Exception as error:  # noqa: BLE001  # whatever the user's task factory raises
                self._running -= 1
                while (entry := self._next()) is not None:
                    poller.give_up(entry, error)
                return
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    async def finish(self) -> None:
        """Wait until the polls on their way are answered or cancelled."""
        workers = self._workers - {asyncio.current_task()}
        if workers:
            await asyncio.wait(workers)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._running -= 1
        if worker.cancelled():
            poller = self._poller
            poller.loop.call_later(AFTERMATH, self.start_workers, context=poller.context)
            return
        worker.result()
        self.start_workers()

    def _next(self) -> WatchedTask | None:
        while self._queue:
            entry = self._queue.popleft()
            if not entry.gone:
                return entry
        return None

    async def _work(self) -> None:
        me = asyncio.current_task()
        while (entry := self._next()) is not None:
            entry.worker = me
            try:
                answer = await self._poller.poll(entry)
            except asyncio.CancelledError:
                # Either nobody waits for this answer any more, or somebody else cancels us.
                if not entry.gone or me is None or me.uncancel():
                    raise
                continue
            finally:
                entry.worker = None
            self._poller.on_poll_result(entry, answer)


# A timer may fire a moment early, and what is due within a moment shares its wake-up.
_MOMENT = 0.001
# So many entries a turn of the loop, so that others get theirs.
_BATCH = 500
# What was learned is applied to waiting tasks as long as that takes a few milliseconds.
_REPLANNED = 1000
# A deadline this near cuts the exchange short; a far one leaves it to the session's limit.
_NEAR = 20.0


class Poller:
    """Asks about all tasks that are waited for in the running loop.

    Args:
        shared: What it shares with the pollers in other loops.
        shortcut: Makes its shortcut, if it has one.
    """

    def __init__(
        self, shared: Shared, shortcut: Callable[[Poller], Shortcut] | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.shared = shared
        self._clock = shared.timing.clock
        self.register = WatchIndex()
        # Not that of whoever happened to wait first: its tracing span is not ours.
        self.context = contextvars.Context()
        self._timers = TimerHeap()
        self._parking = RetryQueue(shared.patience, self._timers)
        self._pool = WorkerPool(self, shared.concurrency)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._version = shared.timing.version
        self._shortcut = shortcut(self) if shortcut is not None else None

    def now(self) -> float:
        """Return the monotonic clock."""
        return self._clock.monotonic()

    def start_task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start *work* in the loop.

        It runs in a copy of the poller's context: an eager task (Python 3.12 and newer) enters
        its context at once, and the caller may be running in that very context.

        Raises:
            Exception: The loop's task factory can't start it.
        """
        try:
            return self.loop.create_task(work, context=self.context.copy())
        except BaseException:
            work.close()
            raise

    # ------------------------------------------------------------------ who waits

    def watch(self, watch: Watch, task: Task | str, kind: str, n: int) -> None:
        """Let *watch* wait for a task, given as a snapshot or an id."""
        now = self.now()
        task_id, snapshot = (task, None) if isinstance(task, str) else (task.id, task)
        entries = self.register.of_kind(kind)
        entry = entries.get(task_id)
        if watch.timeout is not None:
            watch.deadline = now + max(0.0, watch.timeout)
        if entry is None:
            entry = entries[task_id] = WatchedTask(task_id, kind, n, now)
            entry.add(watch)
            if snapshot is not None:
                # A success without images is not a state to report: its result is polled for.
                entry.status = None if snapshot.succeeded else snapshot.status
                entry.task = snapshot
                self.register.name(entry)
            self._begin(entry, snapshot, now)
        else:
            self._join(entry, watch, now)
        self._arm()

    def _join(self, entry: WatchedTask, watch: Watch, now: float) -> None:
        """Let *watch* wait for a task that somebody waits for already."""
        entry.add(watch)
        when = entry.due
        if watch.follows and entry.status is not None:
            if entry.task is not None and entry.task.status == entry.status:
                watch.changed(entry.task)
            else:  # nobody followed so far: the state is known, its snapshot was not kept
                entry.status = None
                when = min(when, now)
        self._plan(entry, now, when if entry.due != NEVER else NEVER)

    def _begin(self, entry: WatchedTask, snapshot: Task | None, now: float) -> None:
        try:
            when = self.shared.timing.first(entry, snapshot, now, len(self.register))
            if snapshot is not None and snapshot.succeeded:
                when = now
        except BaseException:  # a schedule of the user's own may raise
            self._forget(entry)
            raise
        self._plan(entry, now, when)

    def leave(self, watch: Watch) -> None:
        """Let *watch* go; a task that nobody else waits for is not asked about any more."""
        entry = watch.entry
        if entry is not None and entry.remove(watch):
            self._forget(entry)
            self._rest()
            self._arm()

    def hint(self, notification: Notification) -> None:
        """Move a task's next poll to now, because a callback may be about it."""
        timing = self.shared.timing
        entry = self.register.find(notification.task_id, notification.external_task_id)
        if entry is None or not timing.worth_asking(entry, notification.status):
            return
        now = self.now()
        when = timing.hinted(entry, now)
        self.shared.counters.notifications += 1
        self.shared.sink.emit(Notified(task_id=entry.id))
        if entry.due != NEVER:  # else it is being asked about, and asked again at once
            self._plan(entry, now, min(entry.due, when))
            self._arm()

    def _forget(self, entry: WatchedTask) -> None:
        entry.gone = True
        self._timers.drop(entry)
        self.register.remove(entry)
        if entry.worker is not None:
            entry.worker.cancel()
        if entry.trouble is not None and entry.trouble.parked:
            self._parking.call_next(self.now())

    def _rest(self) -> None:
        """Leave nothing in the loop when nobody waits."""
        if self.register:
            return
        self._pool.clear()
        self._parking.clear()
        if self._shortcut is not None:
            self._shortcut.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, NEVER

    def dismiss(self) -> None:
        """End all waits; the tasks go on."""
        for entry in self.register:
            for watch in entry.all:
                self.leave(watch)
                watch.failed(closed_error(entry))

    async def stop(self) -> None:
        """End all waits, and the questions on their way."""
        self.dismiss()
        await self._pool.finish()
        await asyncio.sleep(0)  # a list call that was cancelled leaves, too

    # ------------------------------------------------------------------ when

    def _plan(self, entry: WatchedTask, now: float, when: float) -> None:
        if entry.deadline <= when:
            when = self.shared.timing.last_look(entry, now, when)
        entry.due = when
        self._timers.put(entry)

    def catch_up(self) -> None:
        """Do what is to be done after each answer."""
        version = self.shared.timing.version
        if version != self._version:
            self._version = version
            self._replan()
        self._rest()
        self._arm()

    def _replan(self) -> None:
        """Apply what was learned to the tasks that wait already."""
        timing = self.shared.timing
        if len(self.register) > _REPLANNED:
            return
        now = self.now()
        for entry in self.register:
            if entry.due != NEVER and entry.seen and not entry.trouble:
                if self._pace(entry) > 1.0:
                    continue
                self._plan(entry, now, timing.again(entry, now))

    def _pace(self, entry: WatchedTask) -> float:
        return self._shortcut.pace(entry) if self._shortcut is not None else 1.0

    def _arm(self) -> None:
        """Set the loop's timer to the earliest entry."""
        when = self._timers.earliest()
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, when - self.now())
        self._timer = self.loop.call_later(wait, self._wake, context=self.context)
        self._timer_at = when

    def _wake(self) -> None:
        self._timer, self._timer_at = None, NEVER
        now = self.now()
        for _ in range(_BATCH):
            entry = self._timers.take(now + _MOMENT)
            if entry is None:
                break
            self._wake_entry(entry, now + _MOMENT)
        self._pool.start_workers()
        self._rest()
        self._arm()

    def _wake_entry(self, entry: WatchedTask, now: float) -> None:
        if entry.deadline <= now:
            self._expire(entry, now)
        if entry.gone:
            return
        trouble = entry.trouble
        if entry.due > now:
            self._timers.put(entry)
        elif trouble is not None and self._parking.hopeless(trouble, now):
            self.give_up(entry, trouble.error)
        elif trouble is not None and not self._parking.admits(entry, trouble, now):
            self._timers.put(entry)
        else:
            entry.due = NEVER
            self._timers.put(entry)  # its deadline holds while it is asked about, too
            if self._shortcut is None or not self._shortcut.takes(entry, now):
                self._pool.add(entry)

    def ask_singly(self, entry: WatchedTask) -> None:
        """Ask about a task by itself, as soon as a worker is free."""
        entry.due = NEVER
        self._pool.add(entry)
        self._pool.start_workers()

    def ask_later(self, entry: WatchedTask) -> None:
        """Ask about a task a moment later: whoever had it in hand was cancelled."""
        if not entry.gone:
            now = self.now()
            self._plan(entry, now, now + AFTERMATH)
            self._arm()

    # ------------------------------------------------------------------ asking

    async def poll(self, entry: WatchedTask) -> Task | Exception:
        """Poll a task once; return its snapshot, or the error."""
        shared = self.shared
        sent = self.now()
        shared.timing.asking(entry, sent)
        shared.counters.polls += 1
        timeout = None
        if entry.deadline - sent < _NEAR:  # the nearest of them; the farthest decides
            left = max((watch.deadline for watch in entry.all), default=NEVER) - sent
            timeout = max(_MOMENT, left) if left < _NEAR else None
        try:
            return await shared.source.poll(entry.id, kind=entry.kind, timeout=timeout)
        except asyncio.CancelledError:
            self.ask_later(entry)
            raise
        except Exception as error:  # noqa: BLE001  # whoever waits gets it, sooner or later
            return error

    def on_poll_result(self, entry: WatchedTask, answer: Task | Exception) -> None:
        """Apply what `poll` returned, and plan what follows."""
        if entry.gone:
            return
        now = self.now()
        if isinstance(answer, Task):
            self._note(entry, answer, now)
            self._take(entry, answer, entry.asked, now)
        else:
            self._failed(entry, answer, now)
        self.catch_up()

    def _note(self, entry: WatchedTask, task: Task, now: float) -> None:
        sent, shared = entry.asked, self.shared
        took = now - sent
        shared.timing.round_trip += 0.2 * (took - shared.timing.round_trip)
        if self._shortcut is not None:
            self._shortcut.asked(entry, task)
        if shared.sink.listening:
            event = Polled(
                task_id=entry.id,
                kind=entry.kind,
                status=task.status,
                age=sent - entry.born,
                seconds=took,
            )
            shared.sink.emit(event)

    # ------------------------------------------------------------------ answers

    def heard(self, entry: WatchedTask, task: Task, sent: float) -> None:
        """Take what a list tells about a task, asked for at the moment *sent*."""
        self._take(entry, task, sent, self.now())
        self._arm()  # there is no worker that would do it

    def _take(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        if entry.gone:
            return
        try:
            self._heard(entry, task, sent, now)
        except Exception as error:  # noqa: BLE001  # a schedule of the user's own may raise
            if not entry.gone:
                self.give_up(entry, error)

    def _heard(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        timing = self.shared.timing
        self._parking.good(now)
        if isinstance(task.status, TaskStatus):
            entry.trouble = None
        elif strange := self.shared.patience.strange(entry, task.status, now):
            self.give_up(entry, strange)
            return
        timing.told(entry, task, sent, now)
        previous = entry.status
        changed = task.status != previous and rank_of(task.status) >= entry.rank
        final = finished(entry, task, now)
        hinted = entry.notifications is not None and timing.judge_hint(
            entry, now, changed=changed, done=final is not None
        )
        if final is not None:
            delay = timing.ended(entry, final, now, hinted=hinted)
            self._finish(entry, final, previous, delay)
        elif task.succeeded:
            self._await_result(entry, task, now)
        else:
            timing.lived(entry, sent)
            if changed:
                self._change(entry, task, previous)
            if not entry.gone:  # a hook may have left
                self._plan_next(entry, now)

    def _plan_next(self, entry: WatchedTask, now: float) -> None:
        when = self.shared.timing.next(entry, now, self._pace(entry))
        if entry.trouble is not None:
            when = min(when, max(now, self.shared.patience.end(entry.trouble)))
        if entry.result_check is not None:
            when = min(when, next_result_poll(entry.result_check, now))
        self._plan(entry, now, when)

    def _await_result(self, entry: WatchedTask, task: Task, now: float) -> None:
        """Poll a task that succeeded without its images again, for a while."""
        error = missing_result(entry, task, now)
        if error is not None:
            self.give_up(entry, error)
        elif entry.result_check is not None:
            self._plan(entry, now, next_result_poll(entry.result_check, now))

    def _change(self, entry: WatchedTask, task: Task, previous: TaskStatus | str | None) -> None:
        entry.status = task.status
        if self.shared.named or entry.followed:
            entry.task = slim(task)
            self.register.name(entry)
        if self.shared.sink.listening:
            self.shared.sink.emit(Changed(task_id=entry.id, task=task, previous=previous))
        for watch in entry.all:
            if watch.follows:
                watch.changed(task)

    def _finish(
        self, entry: WatchedTask, task: Task, previous: TaskStatus | str | None, delay: float
    ) -> None:
        counters = self.shared.counters
        counters.finished += 1
        counters.delay_total += delay
        counters.delay_longest = max(counters.delay_longest, delay)
        if self.shared.sink.listening:
            event = Changed(task_id=entry.id, task=task, previous=previous, delay=delay)
            self.shared.sink.emit(event)
        self._forget(entry)
        for watch in entry.dismiss():
            watch.ended(task)

    def _failed(self, entry: WatchedTask, error: Exception, now: float) -> None:
        if concerns_account(error):
            for other in self.register:
                self.give_up(other, error)
            return
        when = None if is_ours(error) else self.shared.patience.failed(entry, error, now)
        if when is None:
            self.give_up(entry, error)
            return
        self.shared.counters.retries += 1
        event = Retried(
            task_id=entry.id,
            kind=entry.kind,
            error=type(error).__name__,
            failures=entry.trouble.count if entry.trouble else 0,
            wait=when - now,
        )
        self.shared.sink.emit(event)
        if not entry.gone:
            self._plan(entry, now, when)

    def give_up(self, entry: WatchedTask, error: Exception) -> None:
        """End everybody's wait for *entry* with *error*."""
        self._forget(entry)
        for watch in entry.dismiss():
            watch.failed(parting_error(entry, error))

    def _expire(self, entry: WatchedTask, now: float) -> None:
        """End the waits for *entry* whose deadline has come."""
        for watch in entry.all:
            if watch.deadline <= now:
                error = deadline_error(entry, watch)
                self.leave(watch)
                watch.failed(error)
