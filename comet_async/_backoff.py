"""Back-off: how long to wait after a failure, as composed tenacity wait strategies.

Every wait after a failure comes from here: between the retries of a GET, before a refused request
is sent again, after a failed poll, and at the `Gate` that all senders of an account share. Only
tenacity's *strategies* are used. Its retry loop has no place here: a paid request must never be
repeated by a library (the job runner decides that), and a loop for each of 100,000 waiting tasks
would cost 7 kB and 180 us apiece. Nothing of tenacity's is created before there is a failure.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Protocol, TypeVar, TypeVarTuple, Unpack, runtime_checkable

import attrs
from tenacity import AsyncRetrying, RetryCallState, wait_exponential
from tenacity.wait import wait_base

from comet_async.clock import Clock
from comet_async.errors import CometError, InputError, NotSentError, RateLimitError, ServerError

RETRY_AFTER_CAP = 60.0
"""Longest ``Retry-After`` that is obeyed, in seconds: some servers send absurd values."""

SHORTEST_WAIT = 0.05
LONGEST_WAIT = 3600.0
"""Limits of every wait, in seconds, also of those that a caller's own strategy returns."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@runtime_checkable
class WaitStrategy(Protocol):
    """A tenacity wait strategy, or a function of that shape."""

    def __call__(self, retry_state: RetryCallState, /) -> float:
        """Return the seconds to wait before the next attempt."""
        ...


# The strategies ---------------------------------------------------------------------------

_RNG = random.Random()  # noqa: S311 - spreads retries, guards nothing


@attrs.frozen
class Jittered(wait_base):
    """Another strategy's wait, multiplied by a random factor.

    Tenacity's own jitter adds seconds; a factor spreads long waits as well as short ones.

    Attributes:
        strategy: The other strategy.
        low: Smallest factor.
        high: Largest factor.
        rng: Source of the factor; one for the whole process by default.
    """

    strategy: WaitStrategy
    low: float
    high: float
    rng: random.Random | None = attrs.field(default=None, repr=False)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the wait in seconds."""
        factor = (self.rng or _RNG).uniform(self.low, self.high)
        return self.strategy(retry_state) * factor


@attrs.frozen
class WhenUnreachable(wait_base):
    """One strategy while the server can't be reached, another for what it answers.

    Attributes:
        unreachable: For requests that never left: trying again costs the server nothing.
        answered: For all other failures.
    """

    unreachable: WaitStrategy
    answered: WaitStrategy

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the wait in seconds."""
        never_left = isinstance(_error_of(retry_state), NotSentError)
        return (self.unreachable if never_left else self.answered)(retry_state)


@attrs.frozen
class AtLeastAsked(wait_base):
    """Another strategy's wait, or what the server asked for if that is longer.

    So ``Retry-After: 0``, a date in the past or a negative number never shorten the wait. Up to
    half a second is added to what the server asked for, so that clients don't return all at once.

    Attributes:
        strategy: The other strategy.
    """

    strategy: WaitStrategy

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the wait in seconds."""
        error = _error_of(retry_state)
        wanted = error.retry_after if isinstance(error, CometError) else None
        own = self.strategy(retry_state)
        if wanted is None:
            return own
        return max(own, min(wanted, RETRY_AFTER_CAP) + _RNG.uniform(0.0, 0.5))


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


@functools.cache
def _owner() -> AsyncRetrying:
    # A state must belong to a retry loop; this one is never run.
    return AsyncRetrying()


def wait_of(
    strategy: WaitStrategy, attempt: int, *, age: float, error: BaseException | None = None
) -> float:
    """Return the seconds that *strategy* waits, never less than 0.05 or more than an hour.

    Args:
        strategy: A tenacity wait strategy, ours or a caller's.
        attempt: Number of the attempt that has just been made, from 1.
        age: Seconds since the first attempt.
        error: What the attempt met, if it failed.
    """
    state = RetryCallState(_owner(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    if error is None:
        state.set_result(None)
    else:
        state.set_exception((type(error), error, error.__traceback__))
    state.start_time = 0.0
    state.outcome_timestamp = state.idle_for = age
    # A caller's strategy may return NaN, which is not greater than anything.
    return min(LONGEST_WAIT, max(SHORTEST_WAIT, float(strategy(state))))


# The two back-offs of an account ----------------------------------------------------------


def _reads(rng: random.Random | None = None) -> WaitStrategy:
    # About 0.5, 1 and 2 s, then doubling up to half a minute.
    return Jittered(wait_exponential(multiplier=0.5, max=30), 0.75, 1.25, rng)


def _sends(rng: random.Random | None = None) -> WaitStrategy:
    # https://klingai.com/document-api/api/get-started/concurrency-rules asks for exponential
    # back-off from at least one second.
    return WhenUnreachable(
        unreachable=Jittered(wait_exponential(max=5), 1.0, 1.5, rng),
        answered=Jittered(wait_exponential(max=30), 1.0, 1.5, rng),
    )


@attrs.frozen
class Backoff:
    """How long to wait after failures, for one account.

    Every wait is the larger of what the strategy says and what the server asks
    (``Retry-After``, obeyed up to 60 s).

    Attributes:
        reads: Strategy after a failed GET, which costs nothing: from half a second, doubling,
            up to 30 s, give or take 25 %.
        sends: Strategy after a paid request that was not accepted: from one second, doubling,
            up to 30 s (5 s while the server can't be reached), and up to half as much again.
    """

    reads: WaitStrategy = attrs.field(factory=_reads, converter=AtLeastAsked)
    sends: WaitStrategy = attrs.field(factory=_sends, converter=AtLeastAsked)

    @classmethod
    def of(
        cls, given: WaitStrategy | Backoff | None, *, rng: random.Random | None = None
    ) -> Backoff:
        """Return the back-off that ``backoff=`` stands for.

        Args:
            given: A tenacity wait strategy for all waits after failures, such as
                ``wait_random_exponential(max=30)``; None for the strategies above.
            rng: Source of the jitter of the strategies above.

        Raises:
            InputError: It is not a wait strategy.
        """
        if isinstance(given, Backoff):
            return given
        if given is None:
            return cls(_reads(rng), _sends(rng))
        if isinstance(given, type) or not callable(given):
            raise InputError(
                f"backoff={given!r} is not a wait strategy",
                field="backoff",
                value=given,
                limit="a tenacity wait strategy",
                hint="pass one such as wait_random_exponential, from tenacity",
            )
        return cls(given, given)

    def after_read(
        self, failures: int, error: BaseException | None = None, *, age: float = 0.0
    ) -> float:
        """Return the seconds to wait after a GET failed.

        Args:
            failures: Failures in a row so far, from 1.
            error: The last one.
            age: Seconds since the first one.
        """
        return wait_of(self.reads, failures, age=age, error=error)

    def after_send(
        self, failures: int, error: BaseException | None = None, *, age: float = 0.0
    ) -> float:
        """Return the seconds to wait after a paid request was not accepted.

        Args:
            failures: Failures in a row so far, from 1.
            error: The last one.
            age: Seconds since the first one.
        """
        return wait_of(self.sends, failures, age=age, error=error)


DEFAULT_BACKOFF = Backoff()

ATTEMPTS = 4


async def with_retries(
    call: Callable[[Unpack[Ts]], Awaitable[T]],
    *args: *Ts,
    clock: Clock,
    backoff: Backoff = DEFAULT_BACKOFF,
    attempts: int = ATTEMPTS,
) -> T:
    """Return what *call* returns, calling it again after errors that may pass.

    Only for requests that cost nothing (GET).

    Args:
        call: Makes one request.
        *args: What it is called with.
        clock: Sleeps between the attempts.
        backoff: How long; about 0.5, 1 and 2 s by default, or as the server asks.
        attempts: How often to try in all. 4 by default.

    Raises:
        CometError: The last one, when it can't pass or the attempts are used up.
    """
    began = None
    for failures in range(1, attempts):
        try:
            return await call(*args)
        except CometError as error:
            if not error.retryable:
                raise
            began = clock.monotonic() if began is None else began
            wait = backoff.after_read(failures, error, age=clock.monotonic() - began)
        await clock.sleep(wait)
    return await call(*args)


# What several workers share ---------------------------------------------------------------


@attrs.define
class RetryBudget:
    """A bucket of retries shared by all reads of one client.

    A retry takes a token, a success puts two back, and one comes back each second. So single
    failures are retried at once, a server that is down gets one attempt a second however many
    tasks are waiting, and once it is back the retries double with each success. (The shape is
    that of the retry quota in AWS's SDKs,
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
        """Take a token; return False when there is none.

        Args:
            now: Seconds on a clock that does not go back.
        """
        self._fill(now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def earn(self, now: float) -> None:
        """Record a success."""
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


@attrs.define(eq=False)
class Passage:
    """One request's way through a `Gate`.

    Attributes:
        conclusive: False if what the request met says nothing about the account's other requests,
            so that the gate stays as it is.
    """

    conclusive: bool = True


@attrs.define(eq=False)
class Gate:
    """Holds back all senders of one account after a 429 or an outage: a circuit breaker.

    A failure closes the gate for one back-off, however many requests met it at once. Then one
    request goes through on trial: if it is accepted, the others follow; if it fails, the gate
    closes for longer. Senders may run in several event loops.

    Attributes:
        clock: Measures the waits.
        backoff: How long the gate stays closed.
        trusted: False until a request of the account has been accepted: until then, too, only
            one goes through at a time. True by default.
        failures: Failed trials in a row, the failure that closed the gate included; 0 while it
            is open.
    """

    clock: Clock
    backoff: Backoff = DEFAULT_BACKOFF
    trusted: bool = True
    failures: int = attrs.field(default=0, init=False)
    _closings: int = attrs.field(default=0, init=False)
    _closed_at: float = attrs.field(default=-math.inf, init=False)
    _opens_at: float = attrs.field(default=-math.inf, init=False)
    _on_trial: bool = attrs.field(default=False, init=False)
    _queue: deque[asyncio.Future[None]] = attrs.field(factory=deque, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @property
    def remaining(self) -> float:
        """Seconds until the gate lets a request through; 0 while it is open."""
        return max(0.0, self._opens_at - self.clock.monotonic()) if self.failures else 0.0

    @contextmanager
    def passing(self, ticket: int) -> Generator[Passage, None, None]:
        """Send; what the body raises decides whether the gate closes.

        It closes for errors that the account's other requests would meet as well: too many
        requests, a failing server, a server that can't be reached.

        Args:
            ticket: From `enter` or `try_enter`.

        Yields:
            The passage, on which the body notes if it shows nothing.
        """
        passage = Passage()
        try:
            yield passage
        except (RateLimitError, ServerError, NotSentError) as error:
            if passage.conclusive:
                self.failed(error, ticket)
            else:
                self._leave(ticket)
            raise
        except BaseException:
            self._leave(ticket)
            raise
        if passage.conclusive:
            self._succeeded(ticket)
        else:
            self._leave(ticket)

    def failed(self, error: CometError, ticket: int | None = None) -> float:
        """Close the gate because of *error*; return the seconds until it opens.

        Args:
            error: What a request met.
            ticket: When that request went through, as `passing` knows; now by default.
        """
        with self._lock:
            now = self.clock.monotonic()
            if ticket is None or ticket == self._closings:
                self._closed_at = self._closed_at if self.failures else now
                self.failures += 1
                self._closings += 1
                self._on_trial = False
                try:
                    age = now - self._closed_at
                    wait = self.backoff.after_send(self.failures, error, age=age)
                except BaseException:  # the caller's own strategy may raise
                    self._wake()
                    raise
            else:  # sent before the gate closed: only the server's own delay is news
                wait = min(error.retry_after or 0.0, RETRY_AFTER_CAP)
            self._opens_at = max(self._opens_at, now + wait)
            self._wake()
            return self.remaining

    def open(self) -> None:
        """Open the gate: the server is known to have accepted a request."""
        with self._lock:
            self.trusted, self.failures = True, 0
            self._opens_at, self._on_trial = -math.inf, False
            self._wake()

    def _succeeded(self, ticket: int) -> None:
        with self._lock:
            if ticket == self._closings:  # else it left before the gate closed
                self.failures, self._opens_at, self._on_trial = 0, -math.inf, False
                self._wake()

    def _leave(self, ticket: int) -> None:
        """Let another request have the trial: this one showed nothing about the server."""
        with self._lock:
            if ticket == self._closings:
                self._on_trial = False
                self._wake()

    def try_enter(self) -> int | None:
        """Return a ticket for `passing` if a request may be sent now, else None."""
        with self._lock:
            return self._ticket()

    async def enter(self) -> int:
        """Wait until a request may be sent; return its ticket for `passing`, to be used at once."""
        while True:
            with self._lock:
                if (ticket := self._ticket()) is not None:
                    return ticket
                wait = self.remaining
                turn: asyncio.Future[None] | None = None
                if wait <= 0:
                    turn = asyncio.get_running_loop().create_future()
                    self._queue.append(turn)
            if turn is None:
                await self.clock.sleep(wait)
            else:
                await turn

    def _ticket(self) -> int | None:
        alone = self.failures > 0 or not self.trusted
        if alone and (self._on_trial or self.remaining > 0):
            return None
        self._on_trial = alone
        return self._closings

    def _wake(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            loop = turn.get_loop()
            if not loop.is_closed():
                # Through its loop, which may run in another thread.
                loop.call_soon_threadsafe(_settle, turn)


def _settle(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
