"""What has to reach its end although its caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar

T = TypeVar("T")


async def finished(future: asyncio.Future[T]) -> T:
    """Return the result of what can't be left halfway: a thread's work, or closing.

    A caller that is cancelled, however often, waits for its end.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # what failed is of no use to this caller
        raise
