"""The order in which a run over folders takes images: new ones first.

A new image among 100,000 known ones must not wait until all of these have been looked up. So the
scan of the sources runs ahead and hands out what the journal does not know. What it knows is put
aside in short form. It is looked up while all workers are busy, when the scan has ended, or when
the scan is too far ahead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Generic, TypeVar

import attrs

_ASIDE = 100_000  # sources to put aside at most, about 25 MiB
_PAGE = 64  # sources to look up at once: the event loop is held for a few milliseconds

Source = TypeVar("Source")
Item = TypeVar("Item")


@attrs.define(eq=False)
class Intake(Generic[Source, Item]):
    """Hands out the items of some sources, in two streams that are read at the same time.

    Attributes:
        pages: What the scan finds, some at a time: the items of new images, and known sources.
        look_up: Returns the items of known sources, with all that is known of them: first those
            for which nothing is left to do, then the others.
    """

    pages: AsyncGenerator[tuple[list[Item], list[Source]], None]
    look_up: Callable[[list[Source]], Awaitable[tuple[list[Item], list[Item]]]]
    _aside: deque[Source] = attrs.field(factory=deque, init=False)
    _looking: bool = attrs.field(default=False, init=False)
    # Known items with work left to do; None when a page of known sources has been looked up.
    _unfinished: asyncio.Queue[Item | None] = attrs.field(init=False)
    _may_look_up: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._unfinished = asyncio.Queue(maxsize=2 * _PAGE)

    async def to_do(self) -> AsyncGenerator[Item, None]:
        """Yield the items with something left to do, new ones as soon as they are found."""
        try:
            async with aclosing(self.pages):
                async for new, known in self.pages:
                    self._aside.extend(known)
                    for item in new:
                        if self._aside:
                            self._may_look_up.set()  # while this waits for a worker
                        for known_item in self._waiting():
                            yield known_item
                        yield item
                    while len(self._aside) >= _ASIDE:
                        self._may_look_up.set()
                        if (found := await self._unfinished.get()) is not None:
                            yield found
                    self._may_look_up.clear()
            self._may_look_up.set()
            while self._aside or self._looking or not self._unfinished.empty():
                if (found := await self._unfinished.get()) is not None:
                    yield found
        finally:
            self._closed = True
            self._may_look_up.set()
            for _ in self._waiting():
                pass  # `finished` may be waiting for space in this queue

    def _waiting(self) -> Iterator[Item]:
        while not self._unfinished.empty():
            if (item := self._unfinished.get_nowait()) is not None:
                yield item

    async def finished(self) -> AsyncGenerator[list[Item], None]:
        """Yield the items with nothing left to do, a page at a time; it ends with `to_do`."""
        while not self._closed:
            await self._may_look_up.wait()
            if not self._aside:
                self._may_look_up.clear()
                continue
            page = [self._aside.popleft() for _ in range(min(_PAGE, len(self._aside)))]
            self._looking = True
            finished, unfinished = await self.look_up(page)
            yield finished
            for item in unfinished:
                await self._unfinished.put(item)
            self._looking = False
            await self._unfinished.put(None)
