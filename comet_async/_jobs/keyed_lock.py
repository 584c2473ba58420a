"""A lock for each key, for callers in any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs

from comet_async._jobs.loops import wake

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
                loop.call_soon_threadsafe(wake, turn)
        self._tidy(key)

    def _tidy(self, key: str) -> None:
        if not self._waiting.get(key, True):
            del self._waiting[key]
