"""Run coroutines from a stream, so many at a time, and give their results as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

Work = Callable[[], Awaitable[T]]
"""Something to do; called when its turn comes."""


async def in_parallel(works: AsyncIterator[Work[T]], workers: int) -> AsyncGenerator[T, None]:
    """Yield the results of *works* in the order of completion, at most *workers* at a time.

    The stream is read one ahead and no further. What a work raises ends the iteration; what
    is running then, or when the iteration is left early, is cancelled and waited for.
    """
    running: set[asyncio.Future[T]] = set()
    pulling: asyncio.Future[Work[T] | None] | None = None
    exhausted = False
    # Each work tells of its end, and None of the stream's next: to ask all of them what has
    # ended costs the more, the more there are.
    ended: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
    try:
        while running or not exhausted:
            if pulling is None and not exhausted and len(running) < workers:
                pulling = asyncio.ensure_future(_next(works))
                pulling.add_done_callback(lambda _: ended.put_nowait(None))
            future = await ended.get()
            if future is not None:
                running.discard(future)
                yield future.result()
            elif pulling is not None:
                work = pulling.result()
                pulling, exhausted = None, work is None
                if work is not None:
                    started = asyncio.ensure_future(work())
                    started.add_done_callback(ended.put_nowait)
                    running.add(started)
    finally:
        await _cancel(running)
        if pulling is not None:
            await _cancel({pulling})


async def _next(works: AsyncIterator[Work[T]]) -> Work[T] | None:
    return await anext(works, None)


async def _cancel(futures: set[asyncio.Future[T]]) -> None:
    for future in futures:
        future.cancel()
    if futures:
        await asyncio.wait(futures)
