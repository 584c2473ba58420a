"""Back-off: waits after failures, the retries of a GET, the budget, and the shared gate."""

# ruff: noqa: S311 - seeded jitter; nothing is guarded by it
from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import Awaitable, Callable

import pytest
import tenacity
from hypothesis import given, strategies as st

from comet_async._backoff import DEFAULT_BACKOFF, Backoff, Gate, RetryBudget, with_retries
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import (
    AuthenticationError,
    CometError,
    ConnectionLostError,
    InputError,
    NotFoundError,
    NotSentError,
    RateLimitError,
    ServerError,
)
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
    """Call with retries; return the seconds that it took."""
    began = clock.monotonic()
    await with_retries(call, clock=clock, **options)
    return clock.monotonic() - began


async def test_what_passes_is_retried(clock: VirtualClock) -> None:
    """Three failures that pass are outlasted by the four attempts of the default."""
    answers = Answers(
        ConnectionLostError("lost"), ServerError("down"), RateLimitError("slow"), "yes"
    )
    assert 3.5 * 0.75 <= await timed(answers, clock) <= 3.5 * 1.25 + 0.1
    assert answers.calls == 4


async def test_the_last_error_is_raised_when_the_attempts_are_used_up(clock: VirtualClock) -> None:
    """It is the server's own error, not one of tenacity's."""
    errors = [ServerError(f"number {number}") for number in range(4)]
    with pytest.raises(ServerError) as caught:
        await with_retries(Answers(*errors), clock=clock)
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
        await with_retries(answers, clock=clock)
    assert answers.calls == 1


async def test_a_later_error_that_does_not_pass_ends_it(clock: VirtualClock) -> None:
    """The second answer is judged like the first."""
    answers = Answers(ServerError("down"), NotFoundError("none"), "never")
    with pytest.raises(NotFoundError):
        await with_retries(answers, clock=clock)
    assert answers.calls == 2


async def test_one_attempt_is_one(clock: VirtualClock) -> None:
    """The number of attempts counts the first."""
    with pytest.raises(ServerError):
        await with_retries(Answers(ServerError("down"), "never"), clock=clock, attempts=1)


@pytest.mark.parametrize(
    ("wanted", "least"),
    [(4.0, 4.0), (0.0, 0.375), (-5.0, 0.375), (math.nan, 0.375), (9999.0, 60.0)],
)
async def test_retry_after_only_lengthens_the_wait(
    wanted: float, least: float, clock: VirtualClock
) -> None:
    """The server's wish is obeyed up to a minute, and never replaces our own back-off."""
    answers = Answers(RateLimitError("slow", retry_after=wanted), "yes")
    assert least <= await timed(answers, clock) <= least + 0.52


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

    task = asyncio.create_task(with_retries(call, clock=clock))
    await asyncio.sleep(7.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 1000))
def test_reads_back_off_to_half_a_minute(failures: int, seed: int) -> None:
    """The wait doubles, is bounded, and is spread by a quarter."""
    exact = min(30.0, 0.5 * 2.0 ** min(failures - 1, 20))
    wait = Backoff.of(None, rng=random.Random(seed)).after_read(failures)
    assert 0.75 * exact <= wait <= 1.25 * exact


@given(failures=st.integers(1, 10_000), wanted=st.none() | st.floats())
def test_sends_back_off_from_one_second(failures: int, wanted: float | None) -> None:
    """No answer of a server brings a paid request back sooner than its own back-off."""
    exact = min(30.0, 2.0 ** min(failures - 1, 20))
    error = RateLimitError("slow", retry_after=wanted)
    assert exact <= DEFAULT_BACKOFF.after_send(failures, error) <= max(1.5 * exact, 60.5)


def test_a_server_out_of_reach_is_tried_more_often() -> None:
    """While nothing reaches it, a try costs it nothing."""
    assert DEFAULT_BACKOFF.after_send(20, NotSentError("refused")) <= 7.5


def test_a_strategy_of_ones_own_sees_the_failures() -> None:
    """It is used for reads and sends, knows the error, and the server's wish still counts."""
    seen = []

    def strategy(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.append((state.attempt_number, state.seconds_since_start, state.outcome.exception()))
        return 7.0

    backoff, error = Backoff.of(strategy), ServerError("down")
    assert backoff.after_send(2, error, age=3.0) == 7.0
    assert backoff.after_read(1, RateLimitError("slow", retry_after=9.0)) >= 9.0
    assert seen[0] == (2, 3.0, error)


@pytest.mark.parametrize(
    ("value", "wait"), [(0.0, 0.05), (-1.0, 0.05), (math.nan, 0.05), (math.inf, 3600.0)]
)
def test_a_strategy_of_ones_own_is_kept_within_limits(value: float, wait: float) -> None:
    """Zero, NaN and infinity would spin or sleep forever."""
    assert Backoff.of(lambda _state: value).after_read(1) == wait


def test_a_back_off_stays_what_it_is() -> None:
    """What was adapted once can be handed on."""
    backoff = Backoff.of(tenacity.wait_fixed(3))
    assert Backoff.of(backoff) is backoff


@pytest.mark.parametrize(
    "value",
    [5, "5", True, object(), tenacity.wait_fixed],
    ids=["int", "text", "bool", "object", "class"],
)
def test_what_is_not_a_strategy_is_refused(value: object) -> None:
    """The error names the argument and shows what can be passed."""
    with pytest.raises(InputError, match="is not a wait strategy") as caught:
        Backoff.of(value)  # type: ignore[arg-type]  # that is the point
    assert caught.value.field == "backoff"


async def test_nothing_of_tenacity_is_created_before_a_failure(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual case costs one plain call."""
    monkeypatch.delattr("comet_async._backoff.RetryCallState")
    assert await with_retries(Answers("yes"), clock=clock) == "yes"


def test_single_failures_have_budget() -> None:
    """One failure in three is retried at once, forever."""
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
    wanted = [1]
    for _ in range(5):
        for _ in range(wanted[-1]):
            budget.earn(0.0)
        wanted.append(sum(budget.spend(0.0) for _ in range(1000)))
    assert wanted == [1, 2, 4, 8, 16, 32]


def test_errors_of_ours_are_all_that_is_retried() -> None:
    """A CancelledError is none of them: tenacity would swallow it."""
    assert not issubclass(asyncio.CancelledError, CometError)


# The gate -----------------------------------------------------------------------------------


class Account:
    """A server that refuses requests until a moment, and senders that share a gate."""

    def __init__(self, clock: VirtualClock, until: float, error: CometError) -> None:
        self.gate = Gate(clock)
        self.clock = clock
        self.until = clock.monotonic() + until
        self.error = error
        self.sent: list[float] = []

    async def send(self) -> None:
        """Send one request again and again until it is accepted."""
        accepted = False
        while not accepted:
            with contextlib.suppress(type(self.error)):
                with self.gate.passing(await self.gate.enter()):
                    self.sent.append(self.clock.monotonic())
                    await self.clock.sleep(0.1)
                    if self.clock.monotonic() < self.until:
                        raise self.error
                accepted = True


@pytest.mark.parametrize(
    "error",
    [RateLimitError("slow", retry_after=0.0), ServerError("down"), NotSentError("refused")],
    ids=lambda error: type(error).__name__,
)
async def test_senders_share_one_gate(error: CometError, clock: VirtualClock) -> None:
    """However many wait, a server in trouble gets one request for each back-off."""
    account = Account(clock, 20.0, error)
    await asyncio.gather(*(account.send() for _ in range(64)))
    refused = [at for at in account.sent if at + 0.1 < account.until]
    assert 64 + 3 <= len(refused) <= 64 + 10  # those that were on their way, then one at a time
    assert len(account.sent) == len(refused) + 64
    assert account.gate.remaining == 0.0


async def test_the_gate_waits_as_long_as_the_server_asks(clock: VirtualClock) -> None:
    """Also if a request that left earlier is the one that is asked to wait for longest."""
    gate, began = Gate(clock), clock.monotonic()

    async def refused(after: float, wanted: float | None) -> None:
        with contextlib.suppress(RateLimitError):
            with gate.passing(await gate.enter()):
                await clock.sleep(after)
                raise RateLimitError("slow", retry_after=wanted)

    await asyncio.gather(refused(0.1, None), refused(0.2, 30.0))
    with gate.passing(await gate.enter()):
        assert clock.monotonic() - began >= 30.0
    assert gate.failures == 0


async def test_a_success_from_before_does_not_open_the_gate(clock: VirtualClock) -> None:
    """A request that left before the refusal says nothing about now."""
    gate = Gate(clock)

    async def accepted() -> None:
        with gate.passing(await gate.enter()):
            await clock.sleep(0.5)

    early = asyncio.create_task(accepted())
    await clock.sleep(0.1)
    gate.failed(RateLimitError("slow", retry_after=10.0))
    await early
    assert gate.remaining > 9.0


async def test_a_cancelled_trial_makes_room_for_another(clock: VirtualClock) -> None:
    """Nor does an error that is about one request only close the gate or hold it."""
    gate = Gate(clock)
    gate.failed(ServerError("down"))

    async def hang() -> None:
        with gate.passing(await gate.enter()):
            await asyncio.Event().wait()

    trial = asyncio.create_task(hang())
    await clock.sleep(5.0)
    second = asyncio.create_task(hang())
    await clock.sleep(1.0)
    trial.cancel()
    await clock.sleep(1.0)
    second.cancel()
    with pytest.raises(InputError):
        with gate.passing(await gate.enter()):
            raise InputError("refused for what it says")
    with gate.passing(await gate.enter()):
        pass
    assert gate.failures == 0
    await asyncio.gather(trial, second, return_exceptions=True)


async def test_a_strategy_that_raises_holds_nobody(clock: VirtualClock) -> None:
    """It is the caller's own; its error comes out, and the next sender has its turn."""

    def strategy(_state: object) -> float:
        raise ZeroDivisionError("bug")

    gate = Gate(clock, Backoff.of(strategy))

    async def refused() -> None:
        with gate.passing(await gate.enter()):
            await clock.sleep(1.0)
            raise ServerError("down")

    for _ in range(2):  # the second time, one goes through at a time
        sends = asyncio.gather(*(refused() for _ in range(3)), return_exceptions=True)
        errors = await asyncio.wait_for(sends, 100.0)
        assert any(isinstance(error, ZeroDivisionError) for error in errors)


async def test_a_failed_trial_closes_the_gate_for_longer(clock: VirtualClock) -> None:
    """The back-off grows with each trial, whoever makes it."""
    gate = Gate(clock, Backoff.of(lambda state: 10.0 * state.attempt_number))
    for expected in (10.0, 20.0, 30.0):
        with pytest.raises(ServerError):
            with gate.passing(await gate.enter()):
                raise ServerError("down")
        assert gate.remaining == pytest.approx(expected, abs=4.0)


@pytest.mark.parametrize("error", [None, RateLimitError("slow")], ids=["accepted", "refused"])
async def test_what_shows_nothing_leaves_the_gate(
    error: CometError | None, clock: VirtualClock
) -> None:
    """The next request has the trial, and the gate is neither open nor closed for longer."""
    gate = Gate(clock)
    gate.failed(ServerError("down"))
    with contextlib.suppress(RateLimitError), gate.passing(await gate.enter()) as passage:
        passage.conclusive = False
        if error is not None:
            raise error
    assert gate.failures == 1
    assert gate.try_enter() is not None
    assert gate.try_enter() is None


def test_a_gate_serves_several_loops() -> None:
    """A sender in another thread's loop is woken as well."""
    gate, order = Gate(SYSTEM_CLOCK, Backoff.of(lambda _state: 0.05)), []
    gate.failed(ServerError("down"))
    inside, leave = threading.Event(), threading.Event()

    async def first() -> None:
        with gate.passing(await gate.enter()):
            inside.set()
            await asyncio.to_thread(leave.wait)
            order.append("first")

    async def second() -> None:
        with gate.passing(await gate.enter()):
            order.append("second")

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    inside.wait()

    async def both() -> None:
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        leave.set()
        await waiting

    asyncio.run(both())
    thread.join()
    assert order == ["first", "second"]
