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
    try:
        while running or not exhausted:
            if pulling is None and not exhausted and len(running) < workers:
                pulling = asyncio.ensure_future(_next(works))
            await _any_of(running, pulling)
            if pulling is not None and pulling.done():
                work = pulling.result()
                pulling, exhausted = None, work is None
                if work is not None:
                    running.add(asyncio.ensure_future(work()))
            for future in [future for future in running if future.done()]:
                running.discard(future)
                yield future.result()
    finally:
        await _cancel(running)
        if pulling is not None:
            await _cancel({pulling})


async def _next(works: AsyncIterator[Work[T]]) -> Work[T] | None:
    return await anext(works, None)


async def _any_of(
    running: set[asyncio.Future[T]], pulling: asyncio.Future[Work[T] | None] | None
) -> None:
    waited: list[asyncio.Future[T] | asyncio.Future[Work[T] | None]] = [*running]
    if pulling is not None:
        waited.append(pulling)
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(futures: set[asyncio.Future[T]]) -> None:
    for future in futures:
        future.cancel()
    if futures:
        await asyncio.wait(futures)
