"""Slots for images in flight."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict

import attrs

from comet_async._jobs.loops import wake

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
            turn.get_loop().call_soon_threadsafe(wake, turn)
