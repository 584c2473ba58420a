"""What a run works on: the images that its sources lead to, or those of requests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import attrs

from comet_async._addresses import url_scheme
from comet_async._images.discovery import Found, Selection, SkipReport, scan
from comet_async._images.source import FileIdentity, name_of_input
from comet_async._runs.intake import Intake
from comet_async._runs.items import Item
from comet_async._runs.planner import Planner
from comet_async._runs.source_memory import SourceMemory
from comet_async._validation import shown
from comet_async.errors import InputError
from comet_async.requests import ExpandRequest, TaskRequest
from comet_async.stores import Stores

# Sources that are found by one call in a thread: a call for each would cost more than finding it.
# More where only the files' own metadata is read.
_PAGE = 64
_SCANNED = 256

# Bytes of a source's name in its results' names: file systems take 255, and a number goes in
# front, an index and an extension behind.
_LONGEST = 240

Root: TypeAlias = Path | str
"""Below what results are saved: a folder, or an address in a store without a final slash."""


@attrs.frozen(kw_only=True)
class RequestItems:
    """The items of some requests.

    Attributes:
        requests: Any iterable, even an endless or async one.
        named: Whether results are saved, under the request's number and its image's name.
        below: The folder that destinations name, for a journal that serves several.
    """

    requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest]
    named: bool
    below: Root | None = None

    async def pages(self) -> AsyncGenerator[list[Item], None]:
        """Yield each item as a page of its own: requests come one at a time."""
        number = 0
        async for request in _each(self.requests):
            number += 1
            source = name_of(request)
            stem = Path(source).stem if not source.startswith("<") else request.kind.name
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem).strip(".")[:100]
            safe = safe.encode()[:_LONGEST].decode(errors="ignore")
            dest = _dest(f"{number:05d}-{safe}", self.below) if self.named else None
            yield [Item(source=source, request=request, dest=dest)]


def name_of(request: TaskRequest) -> str:
    """Return the name to show for a request: that of its first image.

    Raises:
        InputError: It is not a request.
    """
    if not callable(getattr(request, "images", None)):
        hint = "wrap it, as in ExpandRequest(image=..., margins=...)"
        what = f"{shown(request)} is not a request"
        raise InputError(what, field="request", value=type(request).__name__, hint=hint)
    for image in request.images().values():
        return name_of_input(image)
    return request.kind.name


async def _each(
    requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest],
) -> AsyncIterator[TaskRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
        return
    for request in requests:
        yield request
        await asyncio.sleep(0)  # a long plain iterable must not hold the loop


@attrs.frozen(kw_only=True)
class FolderItems:
    """An item for each image that some sources lead to.

    Attributes:
        sources: Files, folders, URLs and addresses in stores.
        out: Where results are saved.
        template: The request, but for its image.
        selection: Which files of folders are taken.
        stores: The stores that are known.
        below: The folder that destinations name, for a journal that serves several.
        skipped: What was left out so far.
    """

    sources: list[str] = attrs.field(repr=False)  # some may be signed URLs
    out: Root
    template: ExpandRequest
    selection: Selection = attrs.field(factory=Selection)
    stores: Stores = attrs.field(factory=Stores)
    below: Root | None = None
    skipped: SkipReport = attrs.field(factory=SkipReport)

    async def pages(self) -> AsyncGenerator[list[Item], None]:
        """Yield the items in the order of the sources, some at a time, while these are read."""
        async with aclosing(self._pages(_PAGE)) as pages:
            async for page in pages:
                yield [self._item(*source) for source in page]

    async def has_folder(self) -> bool:
        """Return True if one of the sources is a folder, or may be one in a store."""

        def look() -> bool:
            return any(self.stores.knows(name) or Path(name).is_dir() for name in self.sources)

        return await asyncio.to_thread(look)

    def intake(self, planner: Planner) -> Intake[Found, Item]:
        """Return the items, those of new images first; *planner* knows the others."""

        async def look_up(sources: list[Found]) -> tuple[list[Item], list[Item]]:
            items = await planner.recall(await asyncio.to_thread(self._items, sources))
            finished = [item for item in items if item.outcome is not None]
            return finished, [item for item in items if item.outcome is None]

        return Intake(pages=self._split_pages(planner.memory), look_up=look_up)

    async def _split_pages(
        self, memory: SourceMemory
    ) -> AsyncGenerator[tuple[list[Item], list[Found]], None]:
        """Yield the items of those sources that *memory* does not know, and those it knows."""
        async for page in self._pages(_SCANNED):
            files = [identity for _, identity in page if identity is not None]
            known = await memory.known({identity.path: identity for identity in files})
            new: list[Found] = []
            aside: list[Found] = []
            for found, identity in page:
                is_known = identity is not None and identity.path in known
                (aside if is_known else new).append(found)
            yield await asyncio.to_thread(self._items, new) if new else [], aside

    async def _pages(self, size: int) -> AsyncGenerator[list[_Seen], None]:
        """Yield the sources while they are read, in their order."""
        scanned = scan(
            self.sources,
            out=self.out,
            selection=self.selection,
            skipped=self.skipped,
            stores=self.stores,
        )

        def read() -> list[_Seen]:
            return [_seen(found) for found in islice(scanned, size)]

        try:
            while page := await asyncio.to_thread(read):
                yield page
        finally:
            scanned.close()  # a thread may be waiting for the standard input

    def _items(self, sources: Iterable[Found]) -> list[Item]:
        return [self._item(*_seen(found)) for found in sources]

    def _item(self, found: Found, identity: FileIdentity | None) -> Item:
        request, error = None, found.error
        try:
            request = attrs.evolve(self.template, image=found.image)
        except InputError as impossible:  # no path, such as a line of a list with a NUL
            error = error or impossible
        return Item(
            source=found.source,
            request=request,
            dest=_dest(found.stem, self.below),
            others=tuple(_dest(name, self.below) for name in found.others),
            error=error,
            identity=identity,
        )


# A source, and what its file may be recognised by.
_Seen: TypeAlias = tuple[Found, FileIdentity | None]


def _seen(found: Found) -> _Seen:
    if found.error is not None:
        return found, None
    return found, found.identity or _identity(found.image)


def _identity(image: str) -> FileIdentity | None:
    if url_scheme(image):
        return None
    try:
        return FileIdentity.of(image, os.stat(image))  # noqa: PTH116 - for each of very many
    except (OSError, ValueError):
        return None  # whatever is wrong with it is reported when it is read


def _dest(name: str, below: Root | None) -> str:
    if isinstance(below, str):
        return f"{below}/{name}"
    return name if below is None else str(below / name)
