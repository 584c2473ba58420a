"""Admission: a lock for each job, and slots for images in flight."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs

logger = logging.getLogger("comet_async")


_LOOK = 5.0  # seconds


@attrs.define(eq=False)
class KeyedLock:
    """Locks by key; a key that is not locked costs nothing.

    Not made of ``asyncio.Lock``, which belongs to one loop: a session may serve several. A loop
    that was closed never releases what it holds, so the next caller gets it. One that is only
    stopped may run on at any time, so it keeps its locks.
    """

    # The event loop of each key's holder: a holder whose loop is closed can't release it.
    _holders: dict[str, asyncio.AbstractEventLoop] = attrs.field(factory=dict, init=False)
    _waiting: dict[str, deque[asyncio.Future[None]]] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def taken(self, key: str) -> bool:
        """Return True if *key* is locked now."""
        holder = self._holders.get(key)
        return holder is not None and not holder.is_closed()

    def stalled(self, key: str) -> bool:
        """Return True if *key* is locked by a loop that does not run."""
        holder = self._holders.get(key)
        return holder is not None and not holder.is_running()

    def held_by(self, loop: asyncio.AbstractEventLoop, key: str) -> bool:
        """Return True if a caller in *loop* holds the lock of *key*."""
        return self._holders.get(key) is loop

    @asynccontextmanager
    async def of(self, key: str) -> AsyncGenerator[None, None]:
        """Hold the lock of *key*; callers get it in the order of their calls."""
        loop = await self.acquire(key)
        try:
            yield
        finally:
            self.release(key, loop)

    async def acquire(self, key: str) -> asyncio.AbstractEventLoop:
        """Take the lock of *key*, in the order of the calls; return the loop, which releases it."""
        here = asyncio.get_running_loop()
        with self._lock:
            if key not in self._holders:
                self._holders[key] = here
                return here
            turn: asyncio.Future[None] = here.create_future()
            self._waiting.setdefault(key, deque()).append(turn)
        try:
            await self._wait(key, turn)
        except asyncio.CancelledError:
            with self._lock:
                queue = self._waiting.get(key, deque())
                waits = turn in queue
                if waits:
                    queue.remove(turn)
                    self._tidy(key)
            if not waits:
                self.release(key, here)  # granted and cancelled at the same time
            raise
        return here

    def release(self, key: str, loop: asyncio.AbstractEventLoop) -> None:
        """Release the lock of *key*, or pass it to the next waiter, if *loop* still holds it.

        It may not: what is left of a loop that was closed can be cleaned up at any time.
        """
        with self._lock:
            if self.held_by(loop, key):
                self._pass_on(key)

    async def _wait(self, key: str, turn: asyncio.Future[None]) -> None:
        warned = False
        while not turn.done():
            with self._lock:
                if (holder := self._holders.get(key)) is not None and holder.is_closed():
                    self._pass_on(key)
            await asyncio.wait({turn}, timeout=_LOOK)
            if not turn.done() and not warned and self.stalled(key):
                warned = True
                logger.warning(
                    "%s is held by a call in an event loop that is stopped: let that loop run on, "
                    "or close it",
                    key,
                )

    def _pass_on(self, key: str) -> None:
        """Give the lock to the next waiter, in a loop that runs if there is one."""
        queue = self._waiting.get(key, deque())
        while queue and queue[0].get_loop().is_closed():
            queue.popleft()
        running = (turn for turn in queue if turn.get_loop().is_running())
        turn = next(running, queue[0] if queue else None)
        if turn is None:
            del self._holders[key]
        else:
            queue.remove(turn)
            loop = self._holders[key] = turn.get_loop()
            with contextlib.suppress(RuntimeError):  # closed just now: the next look shows it
                # Through its loop, which may run in another thread.
                loop.call_soon_threadsafe(_grant, turn)
        self._tidy(key)

    def _tidy(self, key: str) -> None:
        if not self._waiting.get(key, True):
            del self._waiting[key]


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


CLEAN_RUN = 20
"""Accepted requests in a row after which one more image may be in flight again."""


@attrs.define(eq=False)
class ConcurrencyLimiter:
    """Slots for images in flight; their number follows what the server allows.

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

    @property
    def holders(self) -> tuple[str, ...]:
        """The keys of the jobs that hold slots."""
        return tuple(self._held)

    def hold(self, key: str, n: int) -> None:
        """Count a job that is in flight already, whatever the limit says."""
        with self._lock:
            self._take(key, n)

    def holds(self, key: str) -> bool:
        """Return True if *key* holds slots."""
        return key in self._held

    def try_acquire(self, key: str, n: int) -> bool:
        """Take *n* slots if they are free at once, or if *key* holds slots already."""
        with self._lock:
            if key in self._held:
                return True
            if self._queue or not self._fits(n):
                return False
            self._take(key, n)
            return True

    async def acquire(self, key: str, n: int) -> None:
        """Wait for *n* slots, in the order of the calls; return at once if *key* holds them."""
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
                    self._give_back(key)  # granted and cancelled at the same time
                self._wake()
            raise

    def release(self, key: str) -> None:
        """Release the slots of *key*; nothing happens if it holds none."""
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
        """Grant slots to the head of the queue as long as they suffice."""
        while self._queue:
            turn, (key, n) = next(iter(self._queue.items()))
            # Its waiter was cancelled and has not noticed yet, or its loop ended without it.
            gone = turn.done() or turn.get_loop().is_closed()
            if not gone and not self._fits(n):
                return
            del self._queue[turn]
            if gone:
                continue
            # The slots are taken here, not when the waiter runs: others could take them first.
            self._take(key, n)
            # Through its loop, which may run in another thread.
            turn.get_loop().call_soon_threadsafe(_grant, turn)
