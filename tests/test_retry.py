"""Retries of single questions, the budget that bounds them, and tenacity's strategies."""

# ruff: noqa: S311 - seeded jitter; nothing is guarded by it
from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import pytest
import tenacity
from hypothesis import given, strategies as st

from comet_async._retry import (
    RetryBudget,
    ScheduleLike,
    TenacitySchedule,
    as_schedule,
    ask,
    backoff,
)
from comet_async.errors import (
    AuthenticationError,
    CometError,
    ConnectionLostError,
    InputError,
    NotFoundError,
    RateLimitError,
    ServerError,
)
from comet_async.schedules import SHORTEST, FixedSchedule, LearnedSchedule
from comet_async.testing import VirtualClock


class Answers:
    """Gives answers one by one, raising those that are errors."""

    def __init__(self, *answers: BaseException | str) -> None:
        self.left = list(answers)
        self.calls = 0

    async def __call__(self) -> str:
        """Give the next one."""
        self.calls += 1
        await asyncio.sleep(0)
        answer = self.left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def timed(call: Callable[[], Awaitable[str]], clock: VirtualClock, **options: int) -> float:
    """Ask; return the seconds that it took."""
    began = clock.monotonic()
    await ask(call, clock=clock, rng=random.Random(1), **options)
    return clock.monotonic() - began


async def test_a_good_answer_needs_no_tenacity(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual case costs one plain call."""
    monkeypatch.delattr("comet_async._retry.AsyncRetrying")
    assert await ask(Answers("yes"), clock=clock) == "yes"


async def test_what_passes_is_asked_again(clock: VirtualClock) -> None:
    """Three failures that pass are outlasted by the four attempts of the default."""
    answers = Answers(
        ConnectionLostError("lost"), ServerError("down"), RateLimitError("slow"), "yes"
    )
    assert 3.5 * 0.75 <= await timed(answers, clock) <= 3.5 * 1.25 + 0.1
    assert answers.calls == 4


async def test_the_last_error_is_raised_when_the_attempts_are_used_up(clock: VirtualClock) -> None:
    """It is the server's own error, and not tenacity's."""
    errors = [ServerError(f"number {number}") for number in range(4)]
    with pytest.raises(ServerError) as caught:
        await ask(Answers(*errors), clock=clock)
    assert caught.value is errors[-1]


@pytest.mark.parametrize(
    "error",
    [NotFoundError("none"), AuthenticationError("key"), ValueError("bug"), TimeoutError("foreign")],
    ids=lambda error: type(error).__name__,
)
async def test_what_does_not_pass_is_raised_at_once(error: Exception, clock: VirtualClock) -> None:
    """Only errors of ours that say so are worth a second attempt."""
    answers = Answers(error, "never")
    with pytest.raises(type(error)):
        await ask(answers, clock=clock)
    assert answers.calls == 1


async def test_a_later_error_that_does_not_pass_ends_it(clock: VirtualClock) -> None:
    """The second answer is judged like the first."""
    answers = Answers(ServerError("down"), NotFoundError("none"), "never")
    with pytest.raises(NotFoundError):
        await ask(answers, clock=clock)
    assert answers.calls == 2


async def test_one_attempt_is_one(clock: VirtualClock) -> None:
    """The number of attempts counts the first."""
    with pytest.raises(ServerError):
        await ask(Answers(ServerError("down"), "never"), clock=clock, attempts=1)


@pytest.mark.parametrize(("asked", "waited"), [(4.0, 4.0), (0.0, SHORTEST), (9999.0, 60.0)])
async def test_the_servers_wish_wins(asked: float, waited: float, clock: VirtualClock) -> None:
    """Retry-After replaces our own wait, up to a minute."""
    answers = Answers(RateLimitError("slow", retry_after=asked), "yes")
    assert await timed(answers, clock) == pytest.approx(waited, abs=0.02)


@pytest.mark.parametrize("failures", [0, 1, 2], ids=["first", "second", "between"])
async def test_cancellation_is_never_swallowed(failures: int, clock: VirtualClock) -> None:
    """It reaches the caller from the plain call, from a retry, and from the sleep between."""
    hang = asyncio.Event()

    async def call() -> str:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ServerError("down", retry_after=5.0)
        await hang.wait()
        return "never"

    task = asyncio.create_task(ask(call, clock=clock))
    await asyncio.sleep(7.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("value", "made"),
    [(None, LearnedSchedule), (5, FixedSchedule), (0.5, FixedSchedule)],
    ids=["nothing", "int", "float"],
)
def test_simple_schedules(value: ScheduleLike, made: type) -> None:
    """Nothing gives the schedule that learns, a number a fixed interval."""
    assert isinstance(as_schedule(value), made)


def test_a_schedule_stays_what_it_is() -> None:
    """What has the three methods is used as it is."""
    schedule = LearnedSchedule()
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("value", ["5", True, object()], ids=["text", "bool", "object"])
def test_other_things_are_refused(value: object) -> None:
    """The error tells what can be given."""
    with pytest.raises(InputError, match="can't be used") as caught:
        as_schedule(value)  # type: ignore[arg-type]  # that is the point
    assert "tenacity" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (tenacity.wait_fixed(3), [3, 3, 3, 3]),
        (tenacity.wait_exponential(multiplier=1, max=6), [1, 2, 4, 6]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5, 7]),
        (tenacity.wait_chain(*[tenacity.wait_fixed(n) for n in (1, 5)]), [1, 5, 5, 5]),
        (tenacity.wait_none(), [SHORTEST] * 4),
        (lambda state: state.seconds_since_start / 2 + 1, [1.0, 6.0, 11.0, 16.0]),
        (lambda _state: math.nan, [SHORTEST] * 4),
    ],
    ids=["fixed", "exponential", "incrementing", "chain", "none", "function", "nan"],
)
def test_tenacity_decides_when(strategy: ScheduleLike, expected: list[float]) -> None:
    """The strategy sees the number of the poll and the task's age."""
    schedule = as_schedule(strategy)
    schedule.learn(9.0)
    waits = [schedule.first()] + [schedule.next(10.0 * n, n) for n in (1, 2, 3)]
    assert waits == expected
    assert isinstance(schedule, TenacitySchedule)
    assert repr(schedule).startswith("TenacitySchedule(")


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 1000))
def test_backoff_grows_to_half_a_minute(failures: int, seed: int) -> None:
    """It doubles, is bounded, and is spread by a quarter."""
    exact = min(30.0, 0.5 * 2.0 ** min(failures - 1, 20))
    assert 0.75 * exact <= backoff(failures, random.Random(seed)) <= 1.25 * exact


def test_single_failures_have_budget() -> None:
    """One failure in three is retried at once, for ever."""
    budget = RetryBudget()
    for step in range(1000):
        assert budget.spend(step * 0.001)
        budget.earn(step * 0.001)


def test_a_server_that_is_down_gets_one_retry_a_second() -> None:
    """When the bucket is empty, time alone fills it."""
    budget = RetryBudget(capacity=10)
    retries = sum(budget.spend(step / 100) for step in range(6000))
    assert retries == pytest.approx(10 + 60, abs=1)


def test_budget_tells_how_long_it_is_empty() -> None:
    """So that the scheduler can sleep until then."""
    budget = RetryBudget(capacity=1)
    assert budget.spend(0.0)
    assert budget.wait(0.25) == pytest.approx(0.75)
    assert not budget.spend(0.9)
    assert budget.spend(1.0)


def test_recovery_doubles() -> None:
    """Each good answer lets two more through."""
    budget = RetryBudget(capacity=100)
    while budget.spend(0.0):
        pass
    asked = [1]
    for _ in range(5):
        for _ in range(asked[-1]):
            budget.earn(0.0)
        asked.append(sum(budget.spend(0.0) for _ in range(1000)))
    assert asked == [1, 2, 4, 8, 16, 32]


def test_errors_of_ours_are_all_that_is_retried() -> None:
    """A CancelledError is none of them: tenacity would swallow it."""
    assert not issubclass(asyncio.CancelledError, CometError)
