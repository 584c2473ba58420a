"""One run over many pictures: opens the journal, seeds the places in flight, iterates, closes.

A `Run` is what `CometSession.expand_many` and `CometSession.expand_folder` return.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol

import attrs

from comet_async.batch import Batch, Item, Planned
from comet_async.errors import CometError
from comet_async.folder import OURS
from comet_async.outcomes import Outcome
from comet_async.records import Journal

JOURNAL_NAME = Path(OURS) / "journal.sqlite3"
"""Where a folder's journal lies, below the folder."""


JournalLike = str | os.PathLike[str] | Journal | None


def is_of(journal: JournalLike, folder: Path) -> bool:
    """Tell whether *journal* is the own one of *folder*, and so can move with it."""
    path = journal if isinstance(journal, str | os.PathLike) else getattr(journal, "path", None)
    return path is not None and os.path.realpath(path) == os.path.realpath(folder / JOURNAL_NAME)


async def with_folder(
    items: Callable[[], AsyncIterator[Item]], folder: Path
) -> AsyncGenerator[Item, None]:
    """Yield *items* with destinations that say the folder, for a journal that serves several."""
    async for item in items():
        yield attrs.evolve(item, dest=None if item.dest is None else str(folder / item.dest))


class OpenBatch(Protocol):
    """Opens what a run works with: a batch, its journal, and whether to close that."""

    def __call__(self, *, dry: bool) -> Awaitable[tuple[Batch, Journal, bool]]:
        """Open; *dry* makes nothing that is not there yet."""
        ...


@attrs.define(eq=False)
class Run:
    """Outcomes of many pictures, as an async iterable: use it once.

    Example:
        >>> async for outcome in comet.expand_folder("photos", "wide", Margins.uniform(0.2)):
        ...     print(outcome.source, outcome.status)

    Leaving the loop early stops the run: what is being sent is recorded to its end, and the
    next run goes on with it.
    """

    _open: OpenBatch = attrs.field(repr=False)
    _items: Callable[[], AsyncIterator[Item]] = attrs.field(repr=False)
    _batch: Batch | None = attrs.field(default=None, init=False, repr=False)
    _stopped: CometError | None = attrs.field(default=None, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)

    @property
    def stopped(self) -> CometError | None:
        """The account problem that ended the run early, or None."""
        return self._batch.stopped if self._batch is not None else self._stopped

    def interrupt(self) -> None:
        """Stop soon: nothing new is sent, and what is not ended becomes ``pending``."""
        self._interrupted = True
        if self._batch is not None:
            self._batch.interrupt()

    async def __aiter__(self) -> AsyncGenerator[Outcome, None]:
        """Yield the outcomes in the order of completion.

        Raises:
            JournalError: The journal can't be opened or written.
        """
        async with self._opened() as batch:
            if self._interrupted:
                return
            async with aclosing(batch.outcomes(self._items())) as outcomes:
                async for outcome in outcomes:
                    yield outcome

    async def plan(self) -> AsyncGenerator[tuple[Item, Planned | CometError], None]:
        """Yield what a run would do with each picture; nothing is written, sent or paid."""
        async with self._opened(dry=True) as batch:
            async for item in self._items():
                try:
                    planned: Planned | CometError = await batch.plan(item)
                except CometError as error:
                    planned = error
                yield item, planned

    @asynccontextmanager
    async def _opened(self, *, dry: bool = False) -> AsyncGenerator[Batch, None]:
        batch, journal, ours = await self._open(dry=dry)
        self._batch = batch
        try:
            yield batch
        finally:
            self._stopped, self._batch = batch.stopped, None
            await batch.runner.desk.settle()
            if ours:
                await journal.aclose()
