"""Help for tests: a loop and a clock on which waiting costs no time.

Example:
    >>> import asyncio
    >>> from comet_async.testing import VirtualLoop
    >>> with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    ...     runner.run(asyncio.sleep(3600))  # returns at once
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

# How long the loop looks for real input before it jumps to its next timer. Loopback data
# written by the same process is readable at once, so a short look is enough.
_LOOK = 0.0005
# While a thread works for us the loop must not jump over the timeout that guards it.
_THREAD_LOOK = 0.002


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
            return super().select(min(timeout, _THREAD_LOOK))
        ready = super().select(min(timeout, _LOOK))
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing to do.

    Real sockets on this machine work: the loop looks for input before it jumps, and it does
    not jump while one of its threads is working.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.threads = 0
        self._skipped = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Return the loop's clock: the machine's, plus all that was skipped."""
        return super().time() + self._skipped

    def jump(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        self._skipped += seconds

    def run_in_executor(  # type: ignore[override]  # typeshed's overloads can't be repeated here
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run *func* in a thread; the clock stands still until it ends."""
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads; the clock stands still, so that *timeout* does not run out."""
        del timeout
        self.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.threads -= 1

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        self.threads -= 1


class VirtualClock:
    """A clock that follows the running loop, for code that takes ``clock=``.

    Args:
        start: The wall clock at the loop's time zero; 2026-01-01 UTC by default.
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
