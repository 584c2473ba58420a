"""One at a time for each key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs


@attrs.define(eq=False)
class _Turn:
    """A lock and how many want it, so that it can be dropped with its last user."""

    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    users: int = 0


@attrs.define(eq=False)
class Turns:
    """Locks by key; a key that nobody wants costs nothing."""

    _turns: dict[str, _Turn] = attrs.field(factory=dict, init=False)

    @asynccontextmanager
    async def of(self, key: str) -> AsyncGenerator[None, None]:
        """Wait until nobody else has *key*, and have it."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                self._turns.pop(key, None)
