"""The floor: the same bytes over a bare asyncio protocol, for this server and no other.

It knows that answers have a Content-Length and nothing else, so nothing real can be as fast.
"""

from __future__ import annotations

import asyncio
import json
from binascii import b2a_base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from yarl import URL

from benchmarks.clients import INTERVAL, Jobs, OneByOne, Site
from benchmarks.core.shapes import KLING

_PIECE = 192 * 1024
_PREFIX = b'{"image":"'
_SUFFIX = b'","left_expansion_ratio":0.25,"right_expansion_ratio":0.25,"n":1}'
_HEAD = "{} {} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer key\r\nContent-Length: {}\r\n\r\n"


class _Wire(asyncio.BufferedProtocol):
    """One connection; `answer` hands the body on as it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray(256 * 1024)
        self._left = -1
        self._sink: Callable[[memoryview], object] | None = None
        self._done: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def write(self, data: bytes) -> None:
        self.transport.write(data)
        await self._room.wait()

    async def answer(self, sink: Callable[[memoryview], object]) -> None:
        self._sink, self._left = sink, -1
        self._done = asyncio.get_running_loop().create_future()
        await self._done

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        start = 0
        if self._left < 0:  # the server writes its head in one piece
            start = self._buffer.index(b"\r\n\r\n") + 4
            head = bytes(self._buffer[:start])
            self._left = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        self._left -= nbytes - start
        if nbytes > start and self._sink is not None:
            self._sink(memoryview(self._buffer)[start:nbytes])
        if self._left <= 0 and self._done is not None:
            self._done.set_result(None)


class _Floor:
    def __init__(self, root: str) -> None:
        self._url = URL(root)
        self._idle: list[_Wire] = []

    async def _wire(self) -> _Wire:
        if self._idle:
            return self._idle.pop()
        loop = asyncio.get_running_loop()
        host, port = self._url.host, self._url.port
        return (await loop.create_connection(_Wire, host, port))[1]

    async def job(self, source: Path, target: Path) -> None:
        body = bytearray()
        await self._post(source, body)
        task_id = json.loads(body)["data"]["task_id"]
        while True:
            await asyncio.sleep(INTERVAL)
            body.clear()
            await self._get(f"{KLING}/{task_id}", body.extend)
            data = json.loads(body)["data"]
            if data["task_status"] == "succeed":
                break
        with target.open("wb", buffering=0) as file:
            await self._get(URL(data["task_result"]["images"][0]["url"]).path, file.write)

    async def _post(self, source: Path, answer: bytearray) -> None:
        wire = await self._wire()
        size = source.stat().st_size
        length = len(_PREFIX) + 4 * -(-size // 3) + len(_SUFFIX)
        head = _HEAD.format("POST", KLING, length).encode() + _PREFIX
        with source.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                await wire.write(head + b2a_base64(piece, newline=False))
                head = b""
        await wire.write(_SUFFIX)
        await wire.answer(answer.extend)
        self._idle.append(wire)

    async def _get(self, path: str, sink: Callable[[memoryview], object]) -> None:
        wire = await self._wire()
        wire.transport.write(_HEAD.format("GET", path, 0).encode())
        await wire.answer(sink)
        self._idle.append(wire)

    def close(self) -> None:
        for wire in self._idle:
            wire.transport.close()


@asynccontextmanager
async def floor(site: Site) -> AsyncIterator[Jobs]:
    """Open the floor."""
    client = _Floor(site.root)
    try:
        yield OneByOne(client.job, site.concurrency)
    finally:
        client.close()
