"""The clocks, as an object that can be replaced in tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the library asks of a clock. All times are in seconds."""

    def time(self) -> float:
        """Return the wall clock: seconds since 1970, UTC. It may jump."""
        ...

    def monotonic(self) -> float:
        """Return a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*; zero or less only yields to the loop."""
        ...


class SystemClock:
    """The machine's clocks.

    Inside an event loop with a clock of its own (``comet_async.testing.VirtualLoop``), both are the
    loop's, and the whole library follows it.
    """

    def __repr__(self) -> str:
        """Return a text that fits into a signature: it is a default of many."""
        return "SystemClock()"

    def time(self) -> float:
        """Return the wall clock: the running loop's if it has one, otherwise the machine's."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return time.time()
        wall_time: Callable[[], float] = getattr(loop, "wall_time", time.time)
        return wall_time()

    def monotonic(self) -> float:
        """Return the running loop's clock, or the machine's outside a loop."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds* on the running loop."""
        await asyncio.sleep(max(0.0, seconds))


SYSTEM_CLOCK = SystemClock()
