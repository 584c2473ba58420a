"""One at a time for each key, also for callers in several event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs


@attrs.define(eq=False)
class Turns:
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
