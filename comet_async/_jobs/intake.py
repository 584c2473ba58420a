"""What a run over folders begins with: images that are new, before those that are known.

A new image of 100,000 known ones must not wait until all of these are looked up. So the scan of the
sources runs ahead and hands out what the journal does not know; what it knows is put aside in short
form, and looked up while all workers are busy, or when the scan has ended or is too far ahead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Generic, TypeVar

import attrs

_ASIDE = 100_000  # sources that are put aside at most, about 25 MiB
_PAGE = 64  # that are looked up at once: the event loop is held for some milliseconds

Source = TypeVar("Source")
Item = TypeVar("Item")


@attrs.define(eq=False)
class Intake(Generic[Source, Item]):
    """Hands out what some sources lead to, in two streams that are read at the same time.

    Attributes:
        pages: Some items of new images at a time, and sources that are known, as they are found.
        look_up: Returns the items of known sources, with all that is known of them: first those
            for which nothing is left to do, then the others.
    """

    pages: AsyncGenerator[tuple[list[Item], list[Source]], None]
    look_up: Callable[[list[Source]], Awaitable[tuple[list[Item], list[Item]]]]
    _aside: deque[Source] = attrs.field(factory=deque, init=False)
    _looking: bool = attrs.field(default=False, init=False)
    # Known items with work left to do; None when a page of known sources has been looked up.
    _late: asyncio.Queue[Item | None] = attrs.field(init=False)
    _turn: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._late = asyncio.Queue(maxsize=2 * _PAGE)

    async def to_do(self) -> AsyncGenerator[Item, None]:
        """Yield all items with something left to do, the new ones as soon as they are found."""
        try:
            async with aclosing(self.pages):
                async for new, known in self.pages:
                    self._aside.extend(known)
                    for item in new:
                        if self._aside:
                            self._turn.set()  # while this waits for a worker
                        for late in self._waiting():
                            yield late
                        yield item
                    while len(self._aside) >= _ASIDE:
                        self._turn.set()
                        if (found := await self._late.get()) is not None:
                            yield found
                    self._turn.clear()
            self._turn.set()
            while self._aside or self._looking or not self._late.empty():
                if (found := await self._late.get()) is not None:
                    yield found
        finally:
            self._closed = True
            self._turn.set()
            for _ in self._waiting():
                pass  # `finished` may be waiting for space in this queue

    def _waiting(self) -> Iterator[Item]:
        while not self._late.empty():
            if (item := self._late.get_nowait()) is not None:
                yield item

    async def finished(self) -> AsyncGenerator[list[Item], None]:
        """Yield the items with nothing left to do; it ends with `to_do`."""
        while not self._closed:
            await self._turn.wait()
            if not self._aside:
                self._turn.clear()
                continue
            page = [self._aside.popleft() for _ in range(min(_PAGE, len(self._aside)))]
            self._looking = True
            finished, late = await self.look_up(page)
            yield finished
            for item in late:
                await self._late.put(item)
            self._looking = False
            await self._late.put(None)
