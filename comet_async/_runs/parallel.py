"""Work on a stream of items, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

X = TypeVar("X")
T = TypeVar("T")
R = TypeVar("R")


async def in_parallel(
    items: AsyncGenerator[X, None],
    work: Callable[[X], Awaitable[T]],
    workers: int,
    others: AsyncGenerator[Sequence[T], None] | None = None,
) -> AsyncGenerator[T, None]:
    """Run *work* on *items* with bounded concurrency, yielding results as they complete.

    Both streams are read one item ahead and no further, and closed at the end. An error in *work*
    or in a stream ends the iteration; what is running then, or when the iteration is left early,
    is cancelled and waited for.

    Args:
        items: What to work on.
        work: Called with each item.
        workers: How many items to work on at a time.
        others: Results that come without work here, some at a time.
    """
    # Each future reports its own end here: `asyncio.wait` would go through all of them each time.
    ended: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    def start(coroutine: Awaitable[R]) -> asyncio.Future[R]:
        future = asyncio.ensure_future(coroutine)
        future.add_done_callback(ended.put_nowait)
        return future

    running: set[asyncio.Future[T]] = set()
    pulling: asyncio.Future[tuple[X, ...]] | None = None
    looking = None if others is None else start(_pull(others))
    exhausted = False
    try:
        while running or looking is not None or not exhausted:
            if pulling is None and not exhausted and len(running) < workers:
                pulling = start(_pull(items))
            future = await ended.get()
            if future is pulling:
                pulled: tuple[X, ...] = future.result()
                pulling, exhausted = None, not pulled
                running.update(start(work(item)) for item in pulled)
            elif others is not None and future is looking:
                found: tuple[Sequence[T], ...] = future.result()
                looking = start(_pull(others)) if found else None
                for results in found:
                    for result in results:
                        yield result
            else:
                running.discard(future)
                yield future.result()
    finally:
        try:
            await _cancel([*running, *(each for each in (pulling, looking) if each is not None)])
        finally:
            await items.aclose()
            if others is not None:
                await others.aclose()


async def _pull(items: AsyncGenerator[X, None]) -> tuple[X, ...]:
    """Return the next item, or nothing at the end of the stream."""
    async for item in items:
        return (item,)
    return ()


async def _cancel(futures: Collection[asyncio.Future[Any]]) -> None:
    """Cancel *futures* and wait for their ends; a further cancellation is passed on to them."""
    again, left = False, list(futures)
    while left:
        for future in left:
            future.cancel()  # one that has ended is not reported as unheard, either
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError:
            again = True  # what they work with is closed after this: they must have ended
        left = [future for future in left if not future.done()]
    if again:
        raise asyncio.CancelledError
