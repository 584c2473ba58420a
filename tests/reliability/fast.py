"""Real processes and real sockets on clocks that run faster, alike in all processes."""

from __future__ import annotations

import asyncio
import selectors
import time

import attrs

SPEED = 40.0
"""How much faster: the settle time of a minute would otherwise be a minute."""


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / SPEED if timeout else timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop on which a second is over sooner."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        """Return the clock."""
        return super().time() * SPEED


@attrs.frozen
class FastClock:
    """The loop's clock and a wall clock of its speed.

    Attributes:
        since: The moment, in seconds since 1970, at which it shows the right time.
    """

    since: float

    def time(self) -> float:
        """Return the wall clock."""
        return self.since + (time.time() - self.since) * SPEED

    def monotonic(self) -> float:
        """Return the loop's clock."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the loop."""
        await asyncio.sleep(max(0.0, seconds))
