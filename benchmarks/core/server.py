"""The benchmark's server: as little work as possible for an exchange, in its own process.

``python -m benchmarks.core.server IMAGE`` prints its port and serves until its standard input
ends, so that it never outlives the program that started it. Bodies are counted and thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, cast

import attrs

from benchmarks.core.programs import ENVIRONMENT, ROOT
from benchmarks.core.shapes import Shape, Tasks, shapes

_PIECE = 256 * 1024
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_FILE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


@attrs.define(eq=False)
class Site:
    """What all connections share."""

    image: memoryview
    answers: dict[str, Shape]
    counts: Counter[str] = attrs.field(factory=Counter)


class _Exchange(asyncio.BufferedProtocol):
    """One connection. All of them read into one buffer: each read is used up at once."""

    _shared = bytearray(_PIECE)

    def __init__(self, site: Site) -> None:
        self._site = site
        self._head = b""
        self._left = 0
        self._request = ("", "")
        self._out = memoryview(b"")
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=2 * _PIECE)
        self._site.counts["connections"] += 1

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        if self._left > nbytes:
            self._left -= nbytes
            return
        if self._left:
            rest = bytes(self._shared[self._left : nbytes])
            self._left = 0
            self._answer()
        else:
            rest = bytes(self._shared[:nbytes])
        if rest:
            self._begin(rest)

    def _begin(self, data: bytes) -> None:
        head, end, body = (self._head + data).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return
        self._head = b""
        method, path, _ = head.split(b" ", 2)
        self._request = (method.decode(), path.decode())
        length = _length(head)
        self._site.counts["bytes"] += length
        self._left = length - len(body)
        if self._left <= 0:
            self._left = 0
            self._answer()

    def _answer(self) -> None:
        method, path = self._request
        first = path.split("/", 2)[1].partition("?")[0]
        if first == "files" or path.endswith("/content"):
            self._site.counts["files"] += 1
            self._send_file()
            return
        if first in {"counts", "reset"}:
            body = json.dumps(self._site.counts).encode()
            if first == "reset":
                self._site.counts.clear()
        else:
            self._site.counts[method] += 1
            body = self._site.answers[first](method, path)
        self._transport.write(_JSON % len(body) + body)

    def _send_file(self) -> None:
        self._transport.write(_FILE % len(self._site.image))
        self._out = self._site.image
        self._pump()

    def _pump(self) -> None:
        while self._out and not self._paused:
            piece, self._out = self._out[:_PIECE], self._out[_PIECE:]
            self._transport.write(piece)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._out = memoryview(b"")


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def _serve(image: Path, polls: int) -> None:
    loop = asyncio.get_running_loop()
    site = Site(memoryview(image.read_bytes()), {})
    server = await loop.create_server(lambda: _Exchange(site), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    site.answers = shapes(Tasks(polls, f"http://127.0.0.1:{port}"))
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@attrs.frozen
class Server:
    """A running server, seen from the process that started it."""

    root: str

    def counts(self, *, reset: bool = False) -> dict[str, int]:
        """Return what it has served: connections, bytes, files, and requests by method."""
        name = "reset" if reset else "counts"
        with urllib.request.urlopen(f"{self.root}/{name}", timeout=30) as answer:  # noqa: S310 - ours
            return cast("dict[str, Any]", json.loads(answer.read()))


@contextlib.contextmanager
def running(image: Path, *, polls: int = 3) -> Iterator[Server]:
    """Run a server whose tasks are finished at their *polls*-th poll."""
    command = [sys.executable, "-m", "benchmarks.core.server", str(image), str(polls)]
    with Popen(  # noqa: S603 - ours
        command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as process:
        try:
            yield Server(f"http://127.0.0.1:{int(cast('Any', process.stdout).readline())}")
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
