"""aiohttp written by hand: as well as it goes ("raw"), and as one writes it first ("plain")."""

from __future__ import annotations

import asyncio
import base64
import json
from binascii import b2a_base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks.clients import INTERVAL, Jobs, OneByOne, Site
from benchmarks.core.shapes import KLING

_PIECE = 192 * 1024
_WHOLE = 256 * 1024
_HEADERS = {"Authorization": "Bearer key", "Content-Type": "application/json"}
_FIELDS: dict[str, object] = {
    "left_expansion_ratio": 0.25,
    "right_expansion_ratio": 0.25,
    "up_expansion_ratio": 0,
    "down_expansion_ratio": 0,
    "n": 1,
}
_PREFIX = b'{"image":"'
_SUFFIX = b'",' + json.dumps(_FIELDS, separators=(",", ":")).encode()[1:]


async def _streamed(source: Path) -> AsyncIterator[bytes]:
    yield _PREFIX
    with source.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield b2a_base64(piece, newline=False)
    yield _SUFFIX


def _body(source: Path, size: int) -> bytes | AsyncIterator[bytes]:
    if size > _WHOLE:
        return _streamed(source)
    return _PREFIX + b2a_base64(source.read_bytes(), newline=False) + _SUFFIX


class _Raw:
    """Streams both ways, decodes what it needs, checks nothing."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._url = URL(root + KLING)

    async def job(self, source: Path, target: Path) -> None:
        size = source.stat().st_size
        length = len(_PREFIX) + 4 * -(-size // 3) + len(_SUFFIX)
        headers = {**_HEADERS, "Content-Length": str(length)}
        data = _body(source, size)
        async with self._session.post(self._url, data=data, headers=headers) as answer:
            task_id = json.loads(await answer.read())["data"]["task_id"]
        url = self._url / task_id
        while True:
            await asyncio.sleep(INTERVAL)
            async with self._session.get(url, headers=_HEADERS) as answer:
                task = json.loads(await answer.read())["data"]
            if task["task_status"] == "succeed":
                break
        result = URL(task["task_result"]["images"][0]["url"], encoded=True)
        async with self._session.get(result) as answer:
            with target.open("wb", buffering=0) as file:
                async for piece in answer.content.iter_chunked(_WHOLE):
                    file.write(piece)


class _Plain:
    """What stands in most programs: ``json=``, ``read()``, ``write_bytes``."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self._session = session
        self._url = root + KLING

    async def job(self, source: Path, target: Path) -> None:
        image = base64.b64encode(source.read_bytes()).decode()
        body = {"image": image, **_FIELDS}
        async with self._session.post(self._url, json=body, headers=_HEADERS) as answer:
            task_id = (await answer.json())["data"]["task_id"]
        while True:
            await asyncio.sleep(INTERVAL)
            async with self._session.get(f"{self._url}/{task_id}", headers=_HEADERS) as answer:
                task = (await answer.json())["data"]
            if task["task_status"] == "succeed":
                break
        async with self._session.get(task["task_result"]["images"][0]["url"]) as answer:
            target.write_bytes(await answer.read())


@asynccontextmanager
async def raw(site: Site) -> AsyncIterator[Jobs]:
    """Open hand-tuned aiohttp."""
    connector = aiohttp.TCPConnector(limit=site.concurrency + 1)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:
        yield OneByOne(_Raw(session, site.root).job, site.concurrency)


@asynccontextmanager
async def plain(site: Site) -> AsyncIterator[Jobs]:
    """Open aiohttp as one writes it first."""
    connector = aiohttp.TCPConnector(limit=site.concurrency + 1)
    timeout = aiohttp.ClientTimeout(total=site.patience)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield OneByOne(_Plain(session, site.root).job, site.concurrency)
