"""One at a time for each key, also for callers in several event loops."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs

from comet_async._backoff import DEFAULT_BACKOFF, Backoff
from comet_async._journal.records import JobRecord, Journal, NewJob
from comet_async.errors import CometError, NotSentError


@attrs.define(eq=False)
class KeyedLock:
    """Locks by key; a key that nobody wants costs nothing.

    Not made of ``asyncio.Lock``, which belongs to one loop: a session may serve several.
    """

    _waiting: dict[str, deque[asyncio.Future[None]]] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def taken(self, key: str) -> bool:
        """Tell whether somebody has *key* now."""
        return key in self._waiting

    @asynccontextmanager
    async def of(self, key: str) -> AsyncGenerator[None, None]:
        """Wait until nobody else has *key*, and have it; in the order of asking."""
        await self._begin(key)
        try:
            yield
        finally:
            self._pass_on(key)

    async def _begin(self, key: str) -> None:
        with self._lock:
            queue = self._waiting.get(key)
            if queue is None:
                self._waiting[key] = deque()
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            with self._lock:
                waits = turn in queue
                if waits:
                    queue.remove(turn)
            if not waits:
                self._pass_on(key)  # granted and cancelled in the same moment
            raise

    def _pass_on(self, key: str) -> None:
        with self._lock:
            queue = self._waiting[key]
            while queue:
                turn = queue.popleft()
                loop = turn.get_loop()
                if not loop.is_closed():
                    # By way of the loop: it may be another thread's.
                    loop.call_soon_threadsafe(_grant, turn)
                    return
            del self._waiting[key]


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


CLEAN_RUN = 20
"""Accepted requests in a row after which one more image may be in flight again."""


@attrs.define(eq=False)
class ConcurrencyLimiter:
    """Places for images in flight; the number of places follows what the server allows.

    Attributes:
        most: The limit set by the user.
        limit: The limit in force: one less after each "too many in flight", one more after
            20 clean submissions.
    """

    most: int
    limit: int = attrs.field(init=False)
    _held: dict[str, int] = attrs.field(factory=dict, init=False)
    _used: int = attrs.field(default=0, init=False)
    _queue: OrderedDict[asyncio.Future[None], tuple[str, int]] = attrs.field(
        factory=OrderedDict, init=False, repr=False
    )
    _clean: int = attrs.field(default=0, init=False)
    # A session may serve several loops in several threads at once.
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.limit = self.most

    @property
    def used(self) -> int:
        """Images in flight now."""
        return self._used

    def hold(self, key: str, n: int) -> None:
        """Count a job that is in flight already, whatever the limit says."""
        with self._lock:
            self._take(key, n)

    def holds(self, key: str) -> bool:
        """Tell whether *key* holds places."""
        return key in self._held

    async def acquire(self, key: str, n: int) -> None:
        """Wait for *n* places, in order of asking; nothing happens if *key* holds them."""
        with self._lock:
            if key in self._held:
                return
            if not self._queue and self._fits(n):
                self._take(key, n)
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue[turn] = key, n
        try:
            await turn
        except asyncio.CancelledError:
            with self._lock:
                if self._queue.pop(turn, None) is None:
                    self._give_back(key)  # granted and cancelled in the same moment
                self._wake()
            raise

    def release(self, key: str) -> None:
        """Give the places of *key* back; nothing happens if it holds none."""
        with self._lock:
            self._give_back(key)
            self._wake()

    def shrink(self) -> None:
        """Allow one image less: the server has just refused one."""
        with self._lock:
            self.limit = max(1, min(self.limit, self._used or self.limit) - 1)
            self._clean = 0

    def accepted(self) -> None:
        """Count a clean submission; enough of them in a row allow one image more."""
        with self._lock:
            self._clean += 1
            if self._clean >= CLEAN_RUN and self.limit < self.most:
                self.limit += 1
                self._clean = 0
                self._wake()

    def _fits(self, n: int) -> bool:
        # A job with more images than the limit still gets its turn, alone.
        return self._used == 0 or self._used + n <= self.limit

    def _take(self, key: str, n: int) -> None:
        self._used += n - self._held.get(key, 0)
        self._held[key] = n

    def _give_back(self, key: str) -> None:
        self._used -= self._held.pop(key, 0)

    def _wake(self) -> None:
        """Let those at the head of the queue in, as long as there is room."""
        while self._queue:
            turn, (key, n) = next(iter(self._queue.items()))
            # Its waiter was cancelled and has not noticed yet, or its loop ended without it.
            gone = turn.done() or turn.get_loop().is_closed()
            if not gone and not self._fits(n):
                return
            del self._queue[turn]
            if gone:
                continue
            # The place is taken here, not when the waiter runs: others may ask in between.
            self._take(key, n)
            # By way of the loop: it may be another thread's.
            turn.get_loop().call_soon_threadsafe(_settle, turn)


def _settle(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


@attrs.define(eq=False)
class JobClaims:
    """Several runs over one journal must not send the same job, nor count places apart.

    Attributes:
        places: Images in flight.
        journal: The journal.
        turns: Who works on a job: one at a time.
        sending: Requests on their way, each recorded when it ends.
    """

    places: ConcurrencyLimiter
    journal: Journal
    turns: KeyedLock = attrs.field(factory=KeyedLock)
    sending: set[asyncio.Task[JobRecord]] = attrs.field(factory=set)

    @asynccontextmanager
    async def alone(self, record: JobRecord) -> AsyncGenerator[JobRecord, None]:
        """Work on a job alone in this process; a second caller waits, then sees the result.

        Gives the record as it is then.
        """
        async with self.turns.of(record.key):
            yield await self.journal.get(record.key) or record

    @asynccontextmanager
    async def planned(self, job: NewJob, *, now: float) -> AsyncGenerator[JobRecord, None]:
        """Write *job* down, and work on it as in `alone`.

        Raises:
            IdempotencyConflictError: Its key is known for another request.
        """
        if self.turns.taken(job.key):
            # Whoever has it may take long: a crash meanwhile must not lose this wish.
            await self.journal.plan([job], now=now)
        async with self.turns.of(job.key):
            (record,) = await self.journal.plan([job], now=now)
            yield record

    async def settle(self) -> None:
        """Wait until each request on its way has been recorded."""
        here = asyncio.get_running_loop()
        mine = {task for task in self.sending if task.get_loop() is here}
        if mine:
            await asyncio.wait(mine)


logger = logging.getLogger("comet_async.persistence")

FIRST_CONTACT = 40.0
"""Seconds after which a server that was never reached is given up: a wrong address."""

LASTING = 300.0
"""Seconds after which a server that was reached before, and no longer is, is given up."""


@attrs.define(eq=False)
class SendBackoff:
    """Remembers whether a server can be reached at all.

    Attributes:
        first_contact: Seconds to try to reach it for the first time.
        lasting: Seconds to try to reach it again.
        backoff: How long to wait after a request that was not accepted.
    """

    first_contact: float = FIRST_CONTACT
    lasting: float = LASTING
    backoff: Backoff = DEFAULT_BACKOFF
    _reached: bool = attrs.field(default=False, init=False)
    _failing_since: float | None = attrs.field(default=None, init=False)

    def answered(self) -> None:
        """Note that the server gave an answer, whatever it says."""
        self._reached, self._failing_since = True, None

    def over(self, error: CometError, now: float) -> bool:
        """Tell whether *error* is one too many, if the next try is at *now* (seconds).

        Only a server that can't be reached is given up: one that answers "not now" will have
        room again.
        """
        if not isinstance(error, NotSentError):
            self.answered()
            return False
        if self._failing_since is None:
            self._failing_since = now
            logger.warning("the server can't be reached: %s; trying on", error.message)
        limit = self.lasting if self._reached else self.first_contact
        return now - self._failing_since > limit

    def pause(self, error: CometError, attempt: int) -> float:
        """Return the seconds to wait after attempt number *attempt* (from 1) met *error*."""
        return self.backoff.after_send(attempt, error)
