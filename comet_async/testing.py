"""Help for tests: an event loop and a clock on which waiting takes no time.

Example:
    >>> import asyncio
    >>> from comet_async.testing import VirtualLoop
    >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    ...     runner.run(asyncio.sleep(3600))  # returns at once
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

# How long the loop looks for real input before it jumps to its next timer. Loopback data
# written by the same process is readable at once, so a short look is enough.
_LOOK = 0.0005
# While a thread works for us the loop must not jump over the timeout that guards it. Its clock
# creeps on, so that a thread that waits for the loop can't stop it forever.
_THREAD_LOOK = 0.002
_THREAD_RATE = 0.1


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that, when nothing is ready, moves the loop's clock instead of waiting."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        if self.loop.threads:
            look = min(timeout, _THREAD_LOOK)
            ready = super().select(look)
            if not ready:
                self.loop.jump(look * _THREAD_RATE)
            return ready
        if len(self.get_map()) > 1:  # more than the loop's own wake-up socket
            ready = super().select(min(timeout, _LOOK))
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still, and jumps to the next timer when all tasks wait.

    Its clock counts only what it skipped, never the time that the program needed: a slow or busy
    machine changes nothing. Sessions and sandboxes on this loop follow its clock by themselves;
    only code that needs a wall clock of its own choice passes a `VirtualClock`.

    Sockets between programs on this loop work: it looks for input before it jumps. It also waits
    for threads that were started with ``asyncio.to_thread`` or ``run_in_executor``; meanwhile its
    clock runs at a tenth of real time. It can't see anything else that happens elsewhere, and then
    jumps over the timeout that guards it: subprocesses, servers in other processes (databases,
    queues), and ``anyio.to_thread``, which keeps threads of its own. Tests of those belong on a
    real loop.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.threads: int = 0
        self._now = 0.0
        self._born = time.time()
        super().__init__(selector)

    def time(self) -> float:
        """Return the seconds that were skipped since the loop was made."""
        return self._now

    def wall_time(self) -> float:
        """Return the wall clock: the machine's when the loop was made, plus what was skipped."""
        return self._born + self._now

    def jump(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        later = self._now + seconds
        # asyncio runs timers that lie before now. After years the steps of a float are larger than
        # its tolerance of a nanosecond, and a timer at this very moment would never run.
        self._now = later + 2 * math.ulp(later)

    def run_in_executor(  # type: ignore[override]  # typeshed's overloads can't be repeated here
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run *func* in a thread; the clock jumps again when it has ended."""
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads, however long they take; *timeout* is ignored."""
        del timeout
        self.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.threads -= 1

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        self.threads -= 1


class VirtualClock:
    """A clock that follows the running loop, with a wall clock that starts where you want it.

    For code that takes ``clock=``. A session or sandbox on a `VirtualLoop` needs none: the default
    follows the loop as well. Pass the same clock to both if you pass one at all.

    Args:
        start: The wall clock when it is first read, in seconds since 1970; 2026-01-01 UTC by
            default.
    """

    def __init__(self, start: float = 1_767_225_600.0) -> None:
        self._start = start
        self._origin: float | None = None

    def monotonic(self) -> float:
        """Return the running loop's clock."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Return the wall clock, which moves with the loop's."""
        now = self.monotonic()
        if self._origin is None:
            self._origin = now
        return self._start + now - self._origin

    def shift(self, seconds: float) -> None:
        """Set the wall clock forward (or back), as an operator would."""
        self._start += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(max(0.0, seconds))
