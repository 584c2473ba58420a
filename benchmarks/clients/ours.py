"""comet_async, with and without a journal, one by one and as a folder."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from benchmarks.clients import INTERVAL, Jobs, OneByOne, Site

MARGINS = {"left": 0.25, "right": 0.25}


@attrs.frozen
class _Folder:
    """The whole product: scanned, planned, journalled, fetched, checked, named, recorded."""

    comet: object

    async def run(self, sources: Sequence[Path], out: Path) -> None:
        from comet_async import CometSession, Margins  # noqa: PLC0415 - see slow_base64

        if not isinstance(self.comet, CometSession):
            raise TypeError
        folder = sources[0].parent
        # Files named one by one have to be remembered; a folder is read as it goes.
        whole = len(sources) == sum(1 for _ in folder.iterdir())
        source = folder if whole else sources
        async for outcome in self.comet.expand_folder(source, out, Margins(**MARGINS)):
            if not outcome.done:
                raise RuntimeError(outcome)


@asynccontextmanager
async def _opened(site: Site, *, journal: bool, folder: bool = False) -> AsyncIterator[Jobs]:
    from comet_async import CometSession, Gateway, Margins, Timeouts  # noqa: PLC0415 - see slow_base64

    margins = Margins(**MARGINS)
    async with CometSession(
        "key",
        gateway=Gateway.comet(site.root),
        journal=site.folder / "journal.sqlite3" if journal else None,
        concurrency=site.concurrency,
        schedule=INTERVAL,
        request_timeout=Timeouts(
            request=min(20.0, site.patience), response=min(60.0, site.patience)
        ),
        settle=min(60.0, 3 * site.patience),
    ) as comet:

        async def job(source: Path, target: Path) -> None:
            task = await comet.expand(source, margins)
            await comet.download(task.images[0], target)

        yield _Folder(comet) if folder else OneByOne(job, site.concurrency)


@asynccontextmanager
async def bare(site: Site) -> AsyncIterator[Jobs]:
    """Open a session without a journal: ``expand`` and ``download``."""
    async with _opened(site, journal=False) as jobs:
        yield jobs


@asynccontextmanager
async def slow_base64(site: Site) -> AsyncIterator[Jobs]:
    """Open the same without the extra ``speed``, installed or not."""
    sys.modules["pybase64"] = None  # type: ignore[assignment]  # Python's word for "not there"
    async with _opened(site, journal=False) as jobs:
        yield jobs


@asynccontextmanager
async def journal(site: Site) -> AsyncIterator[Jobs]:
    """Open a session with a journal: ``expand`` and ``download``."""
    async with _opened(site, journal=True) as jobs:
        yield jobs


@asynccontextmanager
async def folder(site: Site) -> AsyncIterator[Jobs]:
    """Open a session: ``expand_folder``, which keeps a journal beside the results."""
    async with _opened(site, journal=False, folder=True) as jobs:
        yield jobs
