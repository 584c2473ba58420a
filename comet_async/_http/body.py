"""A request's body on its way out: encoded piece by piece, never held as a whole."""

from __future__ import annotations

import asyncio
import json
from binascii import b2a_base64
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import BinaryIO

import attrs

from comet_async._images.source import SourceImage
from comet_async.errors import CometError
from comet_async.models import JSON

PIECE = 192 * 1024
"""Bytes of an image encoded at a time: a multiple of 3, so that Base64 pieces join. Larger
pieces hold the loop longer, smaller ones cost more steps."""

GATED = 256 * 1024
"""Bodies above this size are sent in pieces and wait for a place on the wire; smaller ones go
out at once, together with their headers."""


def _plain(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)


def _encoder() -> Callable[[bytes], bytes]:
    """Return the fastest Base64 there is: the [speed] extra's SIMD one is 25 times faster."""
    try:
        from pybase64 import b64encode  # noqa: PLC0415 - an extra
    except ImportError:
        return _plain
    return b64encode


_encode = _encoder()


@attrs.define(eq=False)
class Upload:
    """One body being sent, and its place on the wire.

    Attributes:
        body: What to send.
        gate: Places for large bodies. A place is released with the body's last byte, not with
            the answer: a slow server must not hold up the other uploads.
        problem: What kept the body from being completed: its file changed. The HTTP client
            wraps that beyond recognition.
    """

    body: Body
    gate: asyncio.Semaphore
    problem: CometError | None = attrs.field(default=None, init=False)
    _placed: bool = attrs.field(default=False, init=False)
    _file: BinaryIO | None = attrs.field(default=None, init=False)

    async def begin(self) -> AsyncGenerator[bytes, None] | bytes:
        """Return what to send: all of a small body, or a large one's pieces once it has a place.

        Raises:
            InputError: A file changed since it was loaded.
        """
        if self.body.length <= GATED and self.body.check is None:
            return self._whole()
        if self.body.length <= GATED:
            return self._checked()
        await self.gate.acquire()
        self._placed = True
        return self._pieces()

    def end(self) -> None:
        """Release the place and close the file, once; to be called however it ended."""
        if self._placed:
            self._placed = False
            self.gate.release()
        if self._file is not None:
            # A broken connection leaves the generator suspended until it is garbage-collected.
            self._file.close()
            self._file = None

    def _whole(self) -> bytes:
        encoded: list[bytes] = []
        for part in self.body.parts:
            if isinstance(part, bytes):
                encoded.append(part)
            else:
                with part.open() as file:
                    encoded.append(_encode(file.read()))
        return b"".join(encoded)

    async def _checked(self) -> AsyncGenerator[bytes, None]:
        """Yield all of a small body, if it may still be sent at the last moment."""
        try:
            whole = self._whole()
            self._check()
            yield whole[:-1]
            self._check()
            yield whole[-1:]
        except CometError as problem:
            self.problem = problem
            raise

    def _check(self) -> None:
        if self.body.check is not None:
            self.body.check()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            for part in self.body.parts:
                self._check()
                if isinstance(part, bytes):
                    yield part[:-1]
                    self._check()  # of the last part, it is what completes the request
                    yield part[-1:]
                    continue
                # Read on the loop: the file was read moments ago, when it was loaded, so it
                # comes from memory, and a thread for each piece would cost more than the read.
                with part.open() as self._file:
                    while piece := self._file.read(PIECE):
                        self._check()
                        yield _encode(piece)
                        await asyncio.sleep(0)
        except CometError as problem:
            self.problem = problem
            raise
        finally:
            self.end()


# Made once: json.dumps makes a new one for each text that is not written its own way.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _length(body: Body) -> int:
    """Return the size of *body* in bytes: Base64 makes four letters of three bytes."""
    return sum(len(p) if isinstance(p, bytes) else 4 * -(-p.size // 3) for p in body.parts)


@attrs.frozen
class Body:
    """A JSON object with holes for images, which are encoded while they are sent.

    Attributes:
        parts: JSON text and images, in order; an image stands for its Base64 text.
        length: Size of the whole body in bytes.
        check: Called immediately before each piece is handed to the connection, and before the last
            byte once all others have left this process; raises an error if the request may not be
            completed any more. The server acts on whole requests only.
    """

    parts: tuple[bytes | SourceImage, ...] = attrs.field(repr=False)
    check: Callable[[], None] | None = attrs.field(default=None, repr=False)
    length: int = attrs.field(default=attrs.Factory(_length, takes_self=True), init=False)

    @classmethod
    def build(cls, fields: Mapping[str, JSON], images: Mapping[str, SourceImage]) -> Body:
        """Return the body with *fields* and *images*; an image that is a URL stays one."""
        urls = {name: image.url for name, image in images.items() if image.url}
        text = _JSON.encode({**urls, **fields})
        parts: list[bytes | SourceImage] = []
        opening = b"{"
        for name, image in images.items():
            if image.url is None:
                parts += [opening + json.dumps(name).encode() + b':"', image]
                opening = b'",'
        if not parts:
            return cls((text.encode(),))
        closing = b'"' if text == "{}" else b'",'
        return cls((*parts, closing + text[1:].encode()))
