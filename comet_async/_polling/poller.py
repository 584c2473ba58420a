"""The poller: one scheduler for all tasks that a waiter watches in one event loop.

Theory of operation
-------------------

*Scheduler* (`Poller`). A waiting task is an entry in a heap and nothing else: no coroutine, no
timer of its own. One timer of the loop fires when the earliest entry is due; the entries that are
due then go to the list or to the workers, a few hundred in each turn of the loop. When no task is
waited for any more, nothing is left in the loop.

*Timing* (`timing.PollTiming`). Says when a task is polled first and next: by a schedule, which may
have learned how long tasks take, and by the task's age. The age of a task that this session
submitted is counted from our own request, by the monotonic clock; that of any other task comes
from the server's times, as `timing.ServerClock` translates them.

*Completion* (`completion`). An answer that says "succeeded" is not the end before it shows images.

*Failure policy* (`failures.FailurePolicy`). Errors of the account end all waits, errors of our own
end one, and all others are tolerated: each task has an error budget, counted from the first
failure in a row. Retries take turns by a budget that all tasks share (`failures.RetryQueue`), so
that a server that is down gets one probe a second, however many tasks wait.

*Workers* (`WorkerPool`). A bounded number of asyncio tasks makes the polls, one after the other.
They are started when there is something to poll, and end when there is not.

*List polling* (`list_polling.ListPolling`). Where a page of the server's list proves to show our
tasks, one call replaces many polls. What the list shows is applied as an answer is.

*Notifications* (`Poller.notify`). A callback makes a task due now. What it claims is never used.

Every answer takes the same path: `on_poll_result` or `apply_listed`, then `_apply_snapshot`, which
learns from it and finishes the task, reports a change, or schedules the next poll. Answers come in
any order and may be out of date: a status never goes back.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import TypeVar, TypeVarTuple, Unpack

import attrs

from comet_async._polling.completion import finished, missing_result, next_result_poll
from comet_async._polling.failures import (
    FailurePolicy,
    RetryQueue,
    closed_error,
    concerns_account,
    deadline_error,
    individual_error,
    is_our_own,
    session_closed_error,
)
from comet_async._polling.list_polling import ListPolling
from comet_async._polling.source import TaskSource, is_closed, submission_of
from comet_async._polling.timing import PollTiming
from comet_async._polling.watch import (
    NEVER,
    Reason,
    TimerHeap,
    Watch,
    WatchedTask,
    WatchIndex,
    rank_of,
    without_raw,
)
from comet_async._wire.decode import Notification
from comet_async.errors import SessionClosedError
from comet_async.events import Changed, EventSink, Notified, Polled, PollEvent, Retried
from comet_async.models import Task, TaskStatus

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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
        source: What is polled.
        timing: When.
        policy: Which failures are tolerated, and how long.
        sink: What events go to.
        concurrency: Most polls at a time in one loop.
        by_external_id: True to find tasks by their external id too.
        use_list: True to use the server's list where it works.
        counters: What was done.
    """

    source: TaskSource
    timing: PollTiming
    policy: FailurePolicy
    sink: EventSink
    concurrency: int
    by_external_id: bool
    use_list: bool
    counters: Counters = attrs.field(factory=Counters)


# A program that cancels all tasks of a loop, ours too, may be closing it.
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
        # Those of them that have taken nothing from the queue yet: no second one is started for
        # the same entry.
        self._starting: set[int] = set()
        self._numbers = itertools.count()

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
        while len(self._queue) > len(self._starting) and self._running < self._size:
            # Counted before: an eager worker may come back here before its start returns.
            self._running += 1
            self._starting.add(number := next(self._numbers))
            try:
                worker = self._poller.start_task(self._work(number))
            except Exception as error:  # noqa: BLE001  # whatever the user's task factory raises
                self._running -= 1
                self._starting.discard(number)
                while (entry := self._next()) is not None:
                    self._poller.give_up(entry, error)
                return
            self._workers.add(worker)
            worker.add_done_callback(functools.partial(self._worker_ended, number))

    async def finish(self) -> None:
        """Wait until the polls on their way are answered or cancelled."""
        workers = self._workers - {asyncio.current_task()}
        if workers:
            await asyncio.wait(workers)

    def _worker_ended(self, number: int, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._starting.discard(number)  # it was cancelled before it began
        self._running -= 1
        if worker.cancelled():
            self._poller.call_later(AFTERMATH, self.start_workers)
            return
        worker.result()
        self.start_workers()

    def _next(self) -> WatchedTask | None:
        while self._queue:
            entry = self._queue.popleft()
            if not entry.gone:
                return entry
        return None

    async def _work(self, number: int) -> None:
        me = asyncio.current_task()
        self._starting.discard(number)
        while (entry := self._next()) is not None:
            entry.worker = me
            try:
                answer = await self._poller.poll(entry)
            except asyncio.CancelledError:
                # Either no one waits for this answer any more, or we are cancelled from outside.
                if not entry.gone or me is None or me.uncancel():
                    raise
                continue
            finally:
                entry.worker = None
            self._poller.on_poll_result(entry, answer)


# A timer may fire a moment early, and what is due within a moment shares its wake-up.
_MOMENT = 0.001
# Entries handled in one turn of the loop, so that others get theirs.
_BATCH = 500
# What was learned is applied to waiting tasks as long as that takes a few milliseconds.
_RESCHEDULED = 1000
# Seconds: clocks that differ by less count as equal.
_CLOSE = 2.0
# A deadline this near cuts the exchange short; a far one leaves it to the session's limit.
_NEAR = 20.0


class Poller:
    """Polls all tasks that are waited for in the running loop.

    Args:
        shared: What it shares with the pollers in other loops.
    """

    def __init__(self, shared: Shared) -> None:
        self.loop = asyncio.get_running_loop()
        self.shared = shared
        self.index = WatchIndex()
        # Of those who wait, where their events go; empty while nothing listens.
        self._contexts: dict[WatchedTask, contextvars.Context] = {}
        self.now = shared.timing.clock.monotonic
        # An empty context, so that polls don't inherit the first waiter's tracing span.
        self._context = contextvars.Context()
        self._timers = TimerHeap()
        self._retries = RetryQueue(shared.policy, self._timers)
        self._pool = WorkerPool(self, shared.concurrency)
        self._list = ListPolling(self) if shared.use_list else None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._version = shared.timing.version
        self._stopping = False

    def call_later(
        self, seconds: float, function: Callable[[Unpack[Ts]], object], *args: *Ts
    ) -> asyncio.TimerHandle:
        """Call *function* in the loop after some *seconds*."""
        return self.loop.call_later(seconds, function, *args, context=self._context)

    def start_task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start *work* in the loop.

        It runs in a copy of the poller's context: an eager task (Python 3.12 and newer) enters
        its context at once, and the caller may be running in that very context.

        Raises:
            Exception: The loop's task factory can't start it.
        """
        try:
            return self.loop.create_task(work, context=self._context.copy())
        except BaseException:
            work.close()
            raise

    # ------------------------------------------------------------------ waits

    def watch(self, watch: Watch, task: Task | str, kind: str, n: int) -> None:
        """Add a wait for a task, given as a snapshot or an id."""
        now = self.now()
        task_id, snapshot = (task, None) if isinstance(task, str) else (task.id, task)
        entries = self.index.of_kind(kind)
        entry = entries.get(task_id)
        if watch.timeout is not None:
            watch.deadline = now + max(0.0, watch.timeout)
        if entry is None:
            entry = entries[task_id] = WatchedTask(task_id, kind, n, now)
            entry.add(watch)
            if self.shared.sink.listening:
                self._contexts[entry] = contextvars.copy_context()
            self._start_watching(entry, snapshot, now)
        else:
            entry.n = max(entry.n, n)  # the most images that a caller waits for
            self._join(entry, watch, now)
        self._arm_timer()
        if self._stopping:
            self.loop.call_soon(self._dismiss, entry, context=self._context)

    def _start_watching(self, entry: WatchedTask, snapshot: Task | None, now: float) -> None:
        if snapshot is not None:
            # A success without images is not a state to report: its result is polled for.
            entry.status = None if snapshot.succeeded else snapshot.status
            entry.task = snapshot
            self.index.add_external_id(entry)
        submission = submission_of(self.shared.source, entry.id)
        try:
            when = self.shared.timing.first(entry, snapshot, submission, now, len(self.index))
        except BaseException:  # a schedule of the user's own may raise
            self._forget(entry)
            raise
        if snapshot is not None and snapshot.succeeded:
            when = now
        self._schedule(entry, now, when)

    def _join(self, entry: WatchedTask, watch: Watch, now: float) -> None:
        """Add a wait for a task that is waited for already."""
        entry.add(watch)
        when = entry.due
        if watch.follows and entry.status is not None:
            if entry.task is not None and entry.task.status == entry.status:
                watch.changed(entry.task)
            else:  # nothing followed so far: the status is known, its snapshot was not kept
                entry.status = None
                when = min(when, now)
        self._schedule(entry, now, when if entry.due != NEVER else NEVER)

    def leave(self, watch: Watch) -> None:
        """End a wait; a task without another one is not polled any more."""
        entry = watch.entry
        if entry is not None and entry.remove(watch):
            self._forget(entry)
            self._stop_if_idle()
            self._arm_timer()

    def notify(self, notification: Notification) -> None:
        """Move a task's next poll to now, because a callback may be about it."""
        timing = self.shared.timing
        entry = self.index.find(notification.task_id, notification.external_task_id)
        if entry is None or not timing.worth_polling(entry, notification.status):
            return
        now = self.now()
        when = timing.on_callback(entry, now)
        self.shared.counters.notifications += 1
        self._emit(entry, Notified(task_id=entry.id))
        if entry.due != NEVER:  # otherwise a poll is on its way, and another follows at once
            self._schedule(entry, now, min(entry.due, when))
            self._arm_timer()

    def _forget(self, entry: WatchedTask) -> None:
        entry.gone = True
        self._timers.drop(entry)
        self.index.remove(entry)
        self._contexts.pop(entry, None)
        if entry.worker is not None:
            entry.worker.cancel()
        if entry.failures is not None and entry.failures.parked:
            self._retries.wake_next(self.now())

    def _emit(self, entry: WatchedTask, event: PollEvent) -> None:
        """Report an event in the context of the task's waiter."""
        self.shared.sink.emit(event, context=self._contexts.get(entry))

    def _stop_if_idle(self) -> None:
        """Leave nothing in the loop when no task is waited for."""
        if self.index:
            return
        self._pool.clear()
        self._retries.clear()
        if self._list is not None:
            self._list.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, NEVER

    def leave_all(self, watches: Iterable[Watch]) -> None:
        """End many waits, a few hundred in each turn of the loop."""
        self._in_turns(list(watches), self.leave)

    def dismiss(self) -> None:
        """End all waits, a few hundred in each turn of the loop; the tasks continue."""
        self._in_turns(self._taken_off(), self._dismiss)

    def _taken_off(self) -> list[WatchedTask]:
        """Return all tasks, taken off the timers: their waits are about to end."""
        self._timers.clear()
        return list(self.index)

    def _dismiss(self, entry: WatchedTask) -> None:
        reason = session_closed_error if is_closed(self.shared.source) else closed_error
        for watch in entry.all_watches:
            self.leave(watch)
            watch.failed(functools.partial(reason, entry))

    def _in_turns(self, items: list[T], function: Callable[[T], object]) -> None:
        """Empty *items*, handing a few hundred to *function* in each turn of the loop."""
        for item in items[-_BATCH:]:
            function(item)
        del items[-_BATCH:]
        if items:
            self.loop.call_soon(self._in_turns, items, function, context=self._context)

    async def stop(self) -> None:
        """End all waits, those that begin meanwhile too, and the polls on their way."""
        self._stopping = True
        try:
            entries = self._taken_off()
            self._in_turns(entries, self._dismiss)
            while entries:  # noqa: ASYNC110  # emptied in turns of the loop
                await asyncio.sleep(0)
            await self._pool.finish()
            await asyncio.sleep(0)  # a list call that was cancelled leaves, too
        finally:
            self._stopping = False

    # ------------------------------------------------------------------ when

    def _schedule(self, entry: WatchedTask, now: float, when: float) -> None:
        if entry.deadline <= when:
            when = self.shared.timing.last_look(entry, now, when)
        entry.due = when
        self._timers.put(entry)

    def after_poll(self) -> None:
        """Do what is to be done after each answer."""
        version = self.shared.timing.version
        if version != self._version:
            self._version = version
            self._reschedule_all()
        self._stop_if_idle()
        self._arm_timer()

    def _reschedule_all(self) -> None:
        """Apply what was learned to the tasks that wait already."""
        timing = self.shared.timing
        if len(self.index) > _RESCHEDULED:
            return
        now = self.now()
        for entry in self.index:
            if entry.due == NEVER or not entry.seen_alive or entry.failures or entry.result_check:
                continue
            if self._crowd(entry) == 1:
                self._schedule(entry, now, timing.reschedule(entry, now))

    def _crowd(self, entry: WatchedTask) -> int:
        return self._list.crowd(entry) if self._list is not None else 1

    def _arm_timer(self) -> None:
        """Set the loop's timer to the earliest entry."""
        when = self._timers.earliest()
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.call_later(max(0.0, when - self.now()), self._on_timer)
        self._timer_at = when

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        now = self.now()
        for _ in range(_BATCH):
            entry = self._timers.take(now + _MOMENT)
            if entry is None:
                break
            self._on_due(entry, now + _MOMENT)
        self._pool.start_workers()
        self._stop_if_idle()
        self._arm_timer()

    def _on_due(self, entry: WatchedTask, now: float) -> None:
        if entry.deadline <= now:
            self._expire(entry, now)
        if entry.gone:
            return
        streak = entry.failures
        if entry.due > now:
            self._timers.put(entry)
        elif streak is not None and self._retries.is_hopeless(streak, now):
            self.give_up(entry, streak.error)
        elif streak is not None and not self._retries.admits(entry, streak, now):
            self._timers.put(entry)
        else:
            entry.due = NEVER
            self._timers.put(entry)  # its deadline holds while it is polled, too
            if self._list is None or not self._list.takes(entry, now):
                self._pool.add(entry)

    def poll_now(self, entry: WatchedTask) -> None:
        """Poll a task by itself, as soon as a worker is free."""
        entry.due = NEVER
        self._pool.add(entry)
        self._pool.start_workers()

    def poll_later(self, entry: WatchedTask) -> None:
        """Reschedule a task whose worker was cancelled."""
        if not entry.gone:
            now = self.now()
            self._schedule(entry, now, now + AFTERMATH)
            self._arm_timer()

    # ------------------------------------------------------------------ polls

    async def poll(self, entry: WatchedTask) -> Task | Exception:
        """Poll a task once; return its snapshot, or the error."""
        shared = self.shared
        sent = self.now()
        shared.timing.on_poll_sent(entry, sent)
        shared.counters.polls += 1
        timeout = None
        if entry.deadline - sent < _NEAR:  # the nearest of them; the farthest decides
            left = max((watch.deadline for watch in entry.all_watches), default=NEVER) - sent
            timeout = max(_MOMENT, left) if left < _NEAR else None
        try:
            return await shared.source.poll(entry.id, kind=entry.kind, timeout=timeout)
        except asyncio.CancelledError:
            self.poll_later(entry)
            raise
        except Exception as error:  # noqa: BLE001  # those who wait get it, sooner or later
            return error

    def on_poll_result(self, entry: WatchedTask, answer: Task | Exception) -> None:
        """Apply what `poll` returned, and schedule what follows."""
        if entry.gone:
            return
        now = self.now()
        if isinstance(answer, Task):
            self._record_poll(entry, answer, now)
            self._apply_safely(entry, answer, entry.polled_at, now)
        else:
            self._on_failure(entry, answer, now)
        self.after_poll()

    def _record_poll(self, entry: WatchedTask, task: Task, now: float) -> None:
        sent, shared = entry.polled_at, self.shared
        took = now - sent
        shared.timing.round_trip += 0.2 * (took - shared.timing.round_trip)
        if self._list is not None:
            self._list.check_against(entry, task)
        if shared.sink.listening:
            event = Polled(
                task_id=entry.id,
                kind=entry.kind,
                status=task.status,
                age=sent - entry.created,
                seconds=took,
            )
            self._emit(entry, event)

    # ------------------------------------------------------------------ answers

    def apply_listed(self, entry: WatchedTask, task: Task, sent: float) -> None:
        """Apply what the list shows of a task; the page was requested at the moment *sent*."""
        self._apply_safely(entry, task, sent, self.now())
        self._arm_timer()  # there is no worker that would do it

    def _apply_safely(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        if entry.gone:
            return
        try:
            self._apply_snapshot(entry, task, sent, now)
        except Exception as error:  # noqa: BLE001  # a schedule of the user's own may raise
            if not entry.gone:
                self.give_up(entry, error)

    def _apply_snapshot(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        timing, previous = self.shared.timing, entry.status
        tolerated = self._tolerates_status(entry, task, now)
        self._retries.on_success(now)  # its own failures are over: the next parked task is woken
        if not tolerated:
            return
        timing.observe_server_time(entry, task, sent, now)
        changed = task.status != previous and rank_of(task.status) >= entry.rank
        final = finished(entry, task, now)
        notified = entry.notified is not None and timing.score_callback(
            entry, now, changed=changed, done=final is not None
        )
        if final is not None:
            delay = timing.observe_end(entry, final, now, notified=notified)
            self._finish(entry, final, previous, delay)
        elif task.succeeded:
            self._await_result(entry, task, now)
        else:
            timing.observe_alive(entry, sent)
            if changed:
                self._report_change(entry, task, previous)
            if not entry.gone:  # a hook may have left
                self._schedule_next(entry, now)

    def _tolerates_status(self, entry: WatchedTask, task: Task, now: float) -> bool:
        """Return True, or give up if the task has been in an unknown status too long."""
        if isinstance(task.status, TaskStatus):
            entry.failures = None
            return True
        age = None
        if task.updated_at is not None:
            age = self.shared.timing.server.age_of(task.updated_at.timestamp(), now)
            age = age if age >= -_CLOSE else None  # its clock is not ours
        error = self.shared.policy.on_unknown_status(entry, task.status, now, age=age)
        if error is not None:
            self.give_up(entry, error)
        return error is None

    def _schedule_next(self, entry: WatchedTask, now: float) -> None:
        when = self.shared.timing.next(entry, now, self._crowd(entry))
        if entry.failures is not None:
            when = min(when, max(now, self.shared.policy.end(entry.failures)))
        if entry.result_check is not None:
            when = min(when, next_result_poll(entry.result_check, now))
        self._schedule(entry, now, when)

    def _await_result(self, entry: WatchedTask, task: Task, now: float) -> None:
        """Poll a task that succeeded without its images again, for a while."""
        error = missing_result(entry, task, now)
        if error is not None:
            self.give_up(entry, error)
        elif entry.result_check is not None:
            self._schedule(entry, now, next_result_poll(entry.result_check, now))

    def _report_change(
        self, entry: WatchedTask, task: Task, previous: TaskStatus | str | None
    ) -> None:
        entry.status = task.status
        if self.shared.by_external_id or entry.followed:
            entry.task = without_raw(task)
            self.index.add_external_id(entry)
        if self.shared.sink.listening:
            self._emit(entry, Changed(task_id=entry.id, task=task, previous=previous))
        for watch in entry.all_watches:
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
            self._emit(entry, event)
        self._forget(entry)
        for watch in entry.remove_all():
            watch.ended(task)

    def _on_failure(self, entry: WatchedTask, error: Exception, now: float) -> None:
        if concerns_account(error):
            self._in_turns(self._taken_off(), functools.partial(self.give_up, error=error))
            return
        if isinstance(error, SessionClosedError):
            self._end(entry, functools.partial(session_closed_error, entry))
            return
        try:
            when = None if is_our_own(error) else self.shared.policy.on_failure(entry, error, now)
        except Exception as bug:  # noqa: BLE001  # a back-off of the user's own may raise
            when, error = None, bug
        if when is None:
            self.give_up(entry, error)
            return
        self.shared.counters.retries += 1
        event = Retried(
            task_id=entry.id,
            kind=entry.kind,
            error=type(error).__name__,
            failures=entry.failures.count if entry.failures else 0,
            wait=when - now,
        )
        self._emit(entry, event)
        if not entry.gone:
            self._schedule(entry, now, when)

    def give_up(self, entry: WatchedTask, error: Exception) -> None:
        """End all waits for *entry* with *error*, unless they have ended."""
        self._end(entry, functools.partial(individual_error, entry, error))

    def _end(self, entry: WatchedTask, reason: Reason) -> None:
        if entry.gone:
            return
        self._forget(entry)
        for watch in entry.remove_all():
            watch.failed(reason)

    def _expire(self, entry: WatchedTask, now: float) -> None:
        """End the waits for *entry* whose deadline has passed."""
        for watch in entry.all_watches:
            if watch.deadline <= now:
                self.leave(watch)
                watch.failed(functools.partial(deadline_error, entry, watch))
