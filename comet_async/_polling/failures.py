"""Failure policy: which errors end a wait, and how long the others are tolerated."""

from __future__ import annotations

import copy
import logging
from collections import deque

import attrs

from comet_async._backoff import Backoff, RetryBudget
from comet_async._polling.watch import NEVER, FailureStreak, TimerHeap, Watch, WatchedTask
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConfigError,
    DecodeError,
    InputError,
    NotFoundError,
    SessionClosedError,
    WaitTimeoutError,
)

logger = logging.getLogger("comet_async.waiter")

RESUME = "the task is billed: wait for its id again, do not submit it again"

_COUNTED_WHOLE = 10.0  # seconds from which fractions say nothing

UNFAMILIAR = 30.0
"""Seconds that an unknown status is tolerated if nothing shows that the task was ever in another.

A task that ended in a word of its own would otherwise cost each later run the whole budget."""


def concerns_account(error: Exception) -> bool:
    """Return True if *error* ends every wait of the account.

    A missing route is not among them: gateways lose a route for minutes and find it again.
    """
    return isinstance(error, AuthenticationError | AccountError)


def is_our_own(error: Exception) -> bool:
    """Return True if *error* is about this program, so that polling again can't help."""
    passes = isinstance(error, CometError | OSError)
    return not passes or isinstance(error, ConfigError | InputError)


@attrs.define(eq=False)
class FailurePolicy:
    """Decides how long failures are tolerated. Shared by all event loops of a waiter.

    Attributes:
        error_budget: Seconds of failed polls in a row that one task is given.
        not_found_grace: A task's age up to which "not found" does not count: gateways may take a
            while to show what they accepted.
        backoff: How long to wait after a failed poll.
        retries: What keeps retries from becoming a storm.
    """

    error_budget: float
    not_found_grace: float
    backoff: Backoff
    retries: RetryBudget = attrs.field(factory=RetryBudget, init=False)
    _logged: set[str] = attrs.field(factory=set, init=False)

    def end(self, streak: FailureStreak) -> float:
        """Return when the budget for *streak* is used up."""
        return NEVER if streak.since is None else streak.since + self.error_budget

    def on_failure(self, entry: WatchedTask, error: Exception, now: float) -> float | None:
        """Record a failed poll; return when to poll again, or None to give up."""
        before = entry.failures
        since = before.since if before is not None else None
        early = isinstance(error, NotFoundError) and now - entry.created < self.not_found_grace
        if since is None and not early:
            since = now
        count = before.count + 1 if before is not None else 1
        entry.polled_at = -NEVER  # the poll failed
        entry.failures = streak = FailureStreak(since, now, error, count)
        if now >= self.end(streak):
            return None
        age = 0.0 if since is None else now - since
        wait = self.backoff.after_read(count, error, age=age)
        return min(now + wait, self.end(streak))

    def on_unknown_status(
        self, entry: WatchedTask, word: str, now: float, *, age: float | None
    ) -> DecodeError | None:
        """Tolerate an unknown status; return an error once it has persisted too long.

        Args:
            entry: The task.
            word: The status.
            now: The moment.
            age: Seconds that the task has been in it, if the server says so plausibly.
        """
        if word not in self._logged:
            self._logged.add(word)
            logger.warning("unknown task status %r: treated as unfinished", word)
        before = entry.failures
        if before is not None and before.since is not None:
            since = before.since
        elif entry.own or entry.status is not None:
            since = now
        else:
            left = 0.0 if age is None else self.error_budget - age
            since = now + min(self.error_budget, max(UNFAMILIAR, left)) - self.error_budget
        error = DecodeError(f"unknown task status {word!r}", path="$.data.task_status")
        entry.failures = streak = FailureStreak(since, now, error)
        return error if now >= self.end(streak) else None


class RetryQueue:
    """Where retries wait for the retry budget, in one event loop.

    Only the first is woken for a retry; all others sleep until their error budget is used up.
    """

    def __init__(self, policy: FailurePolicy, timers: TimerHeap) -> None:
        self._policy = policy
        self._timers = timers
        self._parked: deque[WatchedTask] = deque()
        self._success_at = -NEVER

    def clear(self) -> None:
        """Drop all parked retries."""
        self._parked.clear()

    def on_success(self, now: float) -> None:
        """Record a success: the server is healthy for at least one task."""
        self._success_at = now
        retries = self._policy.retries
        if retries.tokens < retries.capacity:  # a full one can't earn
            retries.earn(now)
        if self._parked:
            self.wake_next(now)

    def admits(self, entry: WatchedTask, streak: FailureStreak, now: float) -> bool:
        """Take a retry for *entry* from the budget, or park it."""
        if not streak.count or self._policy.retries.spend(now):
            streak.parked = False
            self.wake_next(now)
            return True
        if not streak.parked:
            streak.parked = True
            self._parked.append(entry)
        end = self._policy.end(streak)
        # Past its end, too, it waits for its turn: one retry comes back each second.
        entry.due = end if end > now else now + len(self._parked)
        self.wake_next(now)
        return False

    def is_hopeless(self, streak: FailureStreak, now: float) -> bool:
        """Return True if the error budget of a parked task is used up.

        If other tasks get answers again it is polled once more.
        """
        over = streak.parked and now >= self._policy.end(streak)
        return over and self._success_at <= streak.at

    def wake_next(self, now: float) -> None:
        """Wake the first parked task when there is a retry for it."""
        parked = self._parked
        while parked and not _is_parked(parked[0]):
            parked.popleft()
        if parked:
            parked[0].due = min(parked[0].due, now + self._policy.retries.wait(now))
            self._timers.put(parked[0])


def _is_parked(entry: WatchedTask) -> bool:
    return not entry.gone and entry.failures is not None and entry.failures.parked


def deadline_error(entry: WatchedTask, watch: Watch) -> WaitTimeoutError:
    """Return what a wait for *entry* ends with when its deadline passes."""
    timeout = watch.timeout or 0.0
    waited = round(timeout, 2 if timeout < _COUNTED_WHOLE else 0)
    return _unfinished(entry, f"after {waited:g} s of waiting")


def closed_error(entry: WatchedTask) -> WaitTimeoutError:
    """Return what a wait for *entry* ends with when its waiter is closed."""
    return _unfinished(entry, "and its waiter was closed")


def session_closed_error(entry: WatchedTask) -> SessionClosedError:
    """Return what a wait for *entry* ends with when its session is closed."""
    return SessionClosedError(
        f"the session was closed while task {entry.id} was waited for",
        hint=f"open a new session; {RESUME}",
        sent=True,
        task_id=entry.id,
        external_task_id=_external_id(entry),
    )


def _unfinished(entry: WatchedTask, why: str) -> WaitTimeoutError:
    task = entry.snapshot()
    state, hint = "in an unknown state" if task is None else str(task.status), RESUME
    if entry.result_check is not None:
        state = "successful, but shows no complete result"
    elif task is None and entry.failures is not None:
        failure = entry.failures.error
        reason = failure.message if isinstance(failure, CometError) else failure
        why += f"; the last poll failed: {reason}"
        hint = f"check its id, as no answer ever showed this task; if it exists, {RESUME}"
    return WaitTimeoutError(
        f"task {entry.id} is {state} {why}",
        hint=hint,
        task=task,
        task_id=entry.id,
        external_task_id=_external_id(entry),
    )


def individual_error(entry: WatchedTask, error: Exception) -> Exception:
    """Return *error* as one wait for *entry* gets it: a copy with what resumes the task."""
    if isinstance(error, StopIteration | StopAsyncIteration):
        # From a schedule whose iterator is at its end. A future refuses the first, and iterators
        # over tasks would end with the second; so it becomes what a generator makes of it.
        wrapped = RuntimeError(f"{type(error).__name__} was raised while a task was waited for")
        wrapped.__cause__ = error
        return wrapped
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001  # somebody's own class, whose constructor takes other things
        return error
    if isinstance(own, CometError):
        own.task_id = entry.id
        own.external_task_id = own.external_task_id or _external_id(entry)
        # An id that is none belongs to no task.
        if not isinstance(own, InputError) or entry.snapshot() is not None:
            own.hint = f"{own.hint}; {RESUME}" if own.hint else RESUME
    return own


def _external_id(entry: WatchedTask) -> str | None:
    return entry.task.external_task_id if entry.task is not None else None
