"""What ends a wait and what is borne: failing answers, unknown words, passed deadlines."""

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
    WaitTimeoutError,
)

logger = logging.getLogger("comet_async.waiter")

RESUME = "the task is billed: wait for its id again, do not submit it again"


def concerns_account(error: Exception) -> bool:
    """Tell whether *error* ends every wait of the account.

    A missing route is not among them: gateways lose a route for minutes and find it again.
    """
    return isinstance(error, AuthenticationError | AccountError)


def is_ours(error: Exception) -> bool:
    """Tell whether *error* is about this program, so that asking again can't help."""
    passes = isinstance(error, CometError | OSError)
    return not passes or isinstance(error, ConfigError | InputError)


@attrs.define(eq=False)
class FailurePolicy:
    """Decides how long failures are borne. Shared by all event loops of a waiter.

    Attributes:
        limit: Seconds of failing answers in a row that one task is given.
        grace: A task's age up to which "not found" does not count: gateways may take a while
            to show what they accepted.
        backoff: How long to wait after a failed poll.
        budget: What keeps retries from becoming a storm.
    """

    limit: float
    grace: float
    backoff: Backoff
    budget: RetryBudget = attrs.field(factory=RetryBudget, init=False)
    _words: set[str] = attrs.field(factory=set, init=False)

    def end(self, trouble: FailureStreak) -> float:
        """Return when the patience with *trouble* ends."""
        return NEVER if trouble.since is None else trouble.since + self.limit

    def failed(self, entry: WatchedTask, error: Exception, now: float) -> float | None:
        """Take note of a failure; return when to ask again, or None to give up."""
        before = entry.trouble
        since = before.since if before is not None else None
        early = isinstance(error, NotFoundError) and now - entry.born < self.grace
        if since is None and not early:
            since = now
        count = before.count + 1 if before is not None else 1
        entry.asked = 0.0  # in vain
        entry.trouble = trouble = FailureStreak(since, now, error, count)
        if now >= self.end(trouble):
            return None
        age = 0.0 if since is None else now - since
        wait = self.backoff.after_read(count, error, age=age)
        return min(now + wait, self.end(trouble))

    def strange(self, entry: WatchedTask, word: str, now: float) -> DecodeError | None:
        """Bear a state that nobody knows; return the reason to give up when it lasts too long."""
        if word not in self._words:
            self._words.add(word)
            logger.warning("unknown task state %r: taken for unfinished", word)
        error = DecodeError(f"unknown task state {word!r}", path="$.data.task_status")
        before = entry.trouble
        since = now if before is None or before.since is None else before.since
        entry.trouble = trouble = FailureStreak(since, now, error)
        return error if now >= self.end(trouble) else None


class RetryQueue:
    """Where retries wait for the budget, in one event loop.

    Only the first in the row is woken for a retry; all others sleep until their patience ends.
    """

    def __init__(self, patience: FailurePolicy, timers: TimerHeap) -> None:
        self._patience = patience
        self._timers = timers
        self._row: deque[WatchedTask] = deque()
        self._good_at = -NEVER

    def clear(self) -> None:
        """Forget everybody."""
        self._row.clear()

    def good(self, now: float) -> None:
        """Take note of a good answer: the server is well, at least with somebody."""
        self._good_at = now
        budget = self._patience.budget
        if budget.tokens < budget.capacity:  # a full one can't earn
            budget.earn(now)
        if self._row:
            self.call_next(now)

    def admits(self, entry: WatchedTask, trouble: FailureStreak, now: float) -> bool:
        """Take a retry for *entry* from the budget; else park it."""
        if not trouble.count or self._patience.budget.spend(now):
            trouble.parked = False
            self.call_next(now)
            return True
        entry.due = self._patience.end(trouble)
        if not trouble.parked:
            trouble.parked = True
            self._row.append(entry)
        self.call_next(now)
        return False

    def hopeless(self, trouble: FailureStreak, now: float) -> bool:
        """Tell whether the patience with a parked task is over.

        When others are answered again it is asked about once more.
        """
        over = trouble.parked and now >= self._patience.end(trouble)
        return over and self._good_at <= trouble.at

    def call_next(self, now: float) -> None:
        """Wake the first in the row when there is a retry for it."""
        row = self._row
        while row and (row[0].gone or row[0].trouble is None or not row[0].trouble.parked):
            row.popleft()
        if row:
            row[0].due = min(row[0].due, now + self._patience.budget.wait(now))
            self._timers.put(row[0])


def deadline_error(entry: WatchedTask, watch: Watch) -> WaitTimeoutError:
    """Return what a wait for *entry* ends with when its deadline has come."""
    return _unfinished(entry, f"after {watch.timeout:g} s of waiting")


def closed_error(entry: WatchedTask) -> WaitTimeoutError:
    """Return what a wait for *entry* ends with when its waiter is closed."""
    return _unfinished(entry, "and its waiter was closed")


def _unfinished(entry: WatchedTask, why: str) -> WaitTimeoutError:
    task = entry.snapshot()
    word, hint = "in an unknown state" if task is None else str(task.status), RESUME
    if entry.result_check is not None:
        word = "successful, but shows no complete result"
    elif task is None and entry.trouble is not None:
        why += f"; the last answer: {entry.trouble.error}"
        hint = f"check its id, as no answer ever showed this task; if it exists, {RESUME}"
    return WaitTimeoutError(
        f"task {entry.id} is {word} {why}",
        hint=hint,
        task=task,
        task_id=entry.id,
        external_task_id=task.external_task_id if task is not None else None,
    )


def parting_error(entry: WatchedTask, error: Exception) -> Exception:
    """Return *error* as one waiter of *entry* gets it: a copy that tells what resumes it."""
    own = copy.copy(error)
    if isinstance(own, CometError):
        own.task_id = entry.id
        if own.external_task_id is None and entry.task is not None:
            own.external_task_id = entry.task.external_task_id
        own.hint = f"{own.hint}; {RESUME}" if own.hint else RESUME
    return own
