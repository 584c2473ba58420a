"""asyncio tasks and futures of any event loop: threads that share a session each run their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

_LOOK = 0.05  # seconds


async def finished(tasks: Iterable[asyncio.Task[Any]], timeout: float | None = None) -> None:
    """Wait until all *tasks* have ended, or their loops have; never cancel one.

    Args:
        tasks: Tasks of any event loop.
        timeout: Seconds after which it returns all the same, or None.
    """
    # A copy: other threads add and remove theirs.
    waits = [_here(task) for task in list(tasks) if not task.done()]
    if waits:
        await asyncio.wait(waits, timeout=timeout)


def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel *task* from any thread, unless its loop no longer runs."""
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
    elif loop.is_running():
        loop.call_soon_threadsafe(task.cancel)


def _here(task: asyncio.Task[Any]) -> asyncio.Future[Any]:
    """Return a future of the running loop that is done when *task* is."""
    here, there = asyncio.get_running_loop(), task.get_loop()
    if there is here:
        return task
    future: asyncio.Future[None] = here.create_future()

    def done(_task: asyncio.Task[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the waiting loop was closed
            here.call_soon_threadsafe(wake, future)

    def look() -> None:
        # Its loop may end without it, or before it calls `done`: nothing more comes then.
        if task.done() or not there.is_running():
            wake(future)
        elif not future.done():
            here.call_later(_LOOK, look)

    with contextlib.suppress(RuntimeError):  # its loop was closed
        there.call_soon_threadsafe(task.add_done_callback, done)
    look()
    return future


def wake(future: asyncio.Future[None]) -> None:
    """Wake what awaits *future*, unless it is done; to be called in its loop."""
    if not future.done():
        future.set_result(None)
