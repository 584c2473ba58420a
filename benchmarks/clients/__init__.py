"""The clients that are compared: one job is upload, three polls, download, for each alike.

A client is opened with `open_client` and then has `Jobs.run`. Its module is imported only then,
so that a process pays for one client alone.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import attrs

INTERVAL = 0.05
"""Seconds between two polls about a task, for every client; our shortest."""


@attrs.frozen(kw_only=True)
class Site:
    """Where and how a client works.

    Attributes:
        root: Address of the server.
        concurrency: Jobs at a time.
        folder: A folder for the client's own files, such as a journal.
        patience: Seconds for one exchange, where a client has such a setting.
    """

    root: str
    concurrency: int
    folder: Path
    patience: float = 600.0


class Jobs(Protocol):
    """A client that is open."""

    async def run(self, sources: Sequence[Path], out: Path) -> None:
        """Do one job for each of *sources*; the results go into the folder *out*."""
        ...


Job = Callable[[Path, Path], Awaitable[None]]
"""One job: the image at the first path is sent, its result saved at the second."""


@attrs.frozen
class OneByOne:
    """Jobs of a client that knows only single ones: so many workers take one after the other."""

    job: Job
    concurrency: int

    async def run(self, sources: Iterable[Path], out: Path) -> None:
        """Do one job for each of *sources*."""
        waiting = iter(sources)

        async def work() -> None:
            for source in waiting:
                await self.job(source, out / source.name)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(work())


_HOMES = {
    "floor": "bare:floor",
    "raw aiohttp": "hand:raw",
    "plain aiohttp": "hand:plain",
    "comet_async": "ours:bare",
    "comet_async, no pybase64": "ours:slow_base64",
    "comet_async, journal": "ours:journal",
    "comet_async, folder": "ours:folder",
    "httpx": "peers:naive_httpx",
    "cometapi": "peers:cometapi",
    "openai": "peers:openai",
    "runwayml": "peers:runway",
    "fal-client": "peers:fal",
    "replicate": "peers:replicate",
}
NEEDS = {
    "httpx": "httpx",
    "cometapi": "cometapi",
    "openai": "openai",
    "runwayml": "runwayml",
    "fal-client": "fal_client",
    "replicate": "replicate",
}
"""What must be installed for a client beside the project."""

BASE = "raw aiohttp"
"""What all others are compared with: the practical limit."""

OURS = [name for name in _HOMES if name.startswith("comet_async")]
PEERS = list(NEEDS)


def open_client(name: str, site: Site) -> AbstractAsyncContextManager[Jobs]:
    """Return the client *name*, to be opened."""
    module, _, function = _HOMES[name].partition(":")
    opener = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    client: AbstractAsyncContextManager[Jobs] = opener(site)
    return client
