"""The only room that knows tenacity: retries of single questions, and its wait strategies.

Two things are left out on purpose. Paid requests are never retried here: they have a protocol
of their own. And tenacity is not the loop in which a task waits: an `AsyncRetrying` for each
of 100,000 tasks costs 7 kB and 180 us apiece, a heap entry 0.3 kB.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import attrs
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_base

from comet_async.clock import Clock
from comet_async.errors import CometError, InputError
from comet_async.schedules import SHORTEST, FixedSchedule, LearnedSchedule, Schedule

RETRY_AFTER_CAP = 60.0
"""Longest that a server's ``Retry-After`` is obeyed, seconds: some send absurd values."""

LONGEST_BACKOFF = 30.0

T = TypeVar("T")


@runtime_checkable
class WaitStrategy(Protocol):
    """A tenacity wait strategy, or a function of that shape."""

    def __call__(self, retry_state: RetryCallState, /) -> float:
        """Return the seconds to wait before the next attempt."""
        ...


ScheduleLike: TypeAlias = Schedule | WaitStrategy | float | None
"""What ``schedule=`` takes: seconds, a tenacity wait strategy, a `Schedule`, or None."""


def as_schedule(value: ScheduleLike, *, rng: random.Random | None = None) -> Schedule:
    """Return the schedule that *value* stands for.

    Args:
        value: Seconds for a fixed interval, a tenacity wait strategy such as
            ``wait_exponential(max=30)``, a `Schedule`, or None for a new `LearnedSchedule`.
        rng: Source of the jitter of a schedule that is made here.

    Raises:
        InputError: It is none of these.
    """
    if value is None:
        return LearnedSchedule(rng=rng)
    # bool is an int, but `schedule=True` is no interval.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return FixedSchedule(value, rng=rng)
    if hasattr(value, "first") and hasattr(value, "next") and hasattr(value, "learn"):
        return cast("Schedule", value)
    if callable(value):
        return TenacitySchedule(value)
    raise InputError(
        f"schedule={value!r} can't be used",
        field="schedule",
        value=value,
        limit="seconds, a tenacity wait strategy, or a schedule",
        hint="give seconds, a tenacity wait strategy, or an object with first, next and learn",
    )


class TenacitySchedule:
    """Polls when a tenacity wait strategy says so.

    The strategy sees the number of polls as ``attempt_number`` and the task's age as
    ``seconds_since_start``. It gives no interval shorter than 0.05 s.

    Args:
        strategy: Such as ``wait_random_exponential(max=30)``.
    """

    def __init__(self, strategy: wait_base | WaitStrategy) -> None:
        self._strategy = strategy
        self._owner = AsyncRetrying()

    def __repr__(self) -> str:
        return f"TenacitySchedule({self._strategy!r})"

    def first(self, n: int = 1) -> float:  # noqa: ARG002  # the protocol's signature
        """Return what the strategy waits after the first attempt: the submission."""
        return self._wait(0.0, 1)

    def next(self, age: float, attempt: int, n: int = 1) -> float:  # noqa: ARG002
        """Return what the strategy waits after poll number *attempt*."""
        return self._wait(age, attempt + 1)

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing: the strategy is the user's."""

    def _wait(self, age: float, attempt: int) -> float:
        state = RetryCallState(self._owner, fn=None, args=(), kwargs={})
        state.attempt_number = attempt
        state.set_result(None)
        state.start_time = 0.0
        state.outcome_timestamp = state.idle_for = age
        wait = float(self._strategy(state))
        # A strategy may give 0, or NaN, which is not greater than anything.
        return max(SHORTEST, wait)


def backoff(failures: int, rng: random.Random, *, asked: float | None = None) -> float:
    """Return the wait after *failures* failed answers in a row.

    Args:
        failures: From 1. The wait doubles from half a second up to 30 s, give or take 25 %.
        rng: Source of the jitter.
        asked: What the server asked for (``Retry-After``), which wins, up to 60 s.
    """
    if asked is not None:
        return min(RETRY_AFTER_CAP, max(asked, SHORTEST))
    wait = min(LONGEST_BACKOFF, 0.5 * 2.0 ** min(failures - 1, 16))
    return wait * (0.75 + 0.5 * rng.random())


@attrs.define
class RetryBudget:
    """A bucket of retries shared by everything that one client asks.

    A retry takes a token, a good answer gives two back, and one comes back each second. So
    single failures are retried at once, a server that is down gets one probe a second whatever
    number of tasks wait, and when it is back the retries double with each good answer. (The
    shape is that of the retry quota in AWS's SDKs,
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html.)

    Attributes:
        capacity: Most tokens at a time.
        tokens: Tokens now.
    """

    capacity: float = 64.0
    tokens: float = attrs.field(init=False)
    _filled_at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.capacity

    def spend(self, now: float) -> bool:
        """Take a token; False when there is none.

        Args:
            now: Seconds on a clock that does not go back.
        """
        self._fill(now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def earn(self, now: float) -> None:
        """Take note of a good answer."""
        self._fill(now)
        self.tokens = min(self.capacity, self.tokens + 2.0)

    def wait(self, now: float) -> float:
        """Return the seconds until there is a token."""
        self._fill(now)
        return max(0.0, 1.0 - self.tokens)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self.tokens = min(self.capacity, self.tokens + passed)
        self._filled_at = now


def _passes(error: BaseException) -> bool:
    # Ours only: a predicate that says yes to a CancelledError would swallow it
    # (https://github.com/jd/tenacity/issues/529).
    return isinstance(error, CometError) and error.retryable


def _pause(state: RetryCallState, *, rng: random.Random) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, CometError) else None
    return backoff(state.attempt_number, rng, asked=asked)


async def ask(
    call: Callable[[], Awaitable[T]],
    *,
    clock: Clock,
    attempts: int = 4,
    rng: random.Random | None = None,
) -> T:
    """Return what *call* returns; ask again when it fails for a reason that passes.

    Only for questions (GET): see the top of this file.

    Args:
        call: Makes one exchange.
        clock: Sleeps between the attempts: about 0.5, 1 and 2 s, or as the server asks.
        attempts: How often to ask in all.
        rng: Source of the jitter.

    Raises:
        CometError: The last one, when it does not pass or the attempts are used up.
    """
    # Tenacity is made only after a failure: a plain call costs 0.2 us, one through it 30.
    try:
        return await call()
    except CometError as error:
        if not _passes(error) or attempts <= 1:
            raise
        first = error
    retrying = AsyncRetrying(
        stop=stop_after_attempt(attempts),
        wait=functools.partial(_pause, rng=rng or random.Random()),  # noqa: S311  # jitter
        retry=retry_if_exception(_passes),
        sleep=clock.sleep,
        reraise=True,
    )
    failures = iter((first,))
    del first

    async def again() -> T:
        for error in failures:  # the attempt that was made counts as tenacity's first
            raise error
        return await call()

    return await retrying(again)
