"""Images from open files, async streams and Pillow objects."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

from comet_async._images.formats import ImageInfo, Inspector
from comet_async._images.rules import MAX_BYTES, MAX_PREPARE_BYTES, ImageRules
from comet_async.errors import InputError

_PIECE = 256 * 1024
MAX_HEADER = 1024 * 1024
"""How much of an image at a URL is read for its size, in bytes."""


@runtime_checkable
class ReadableFile(Protocol):
    """An open binary file: ``BytesIO``, ``UploadFile.file``, a boto3 stream."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes, none at the end."""
        ...


@runtime_checkable
class AsyncReadableFile(Protocol):
    """An open binary file that is awaited: Starlette's ``UploadFile``, aiofiles."""

    def read(self, size: int, /) -> Awaitable[bytes]:
        """Return at most *size* bytes, none at the end."""
        ...


@runtime_checkable
class PillowImage(Protocol):
    """An image of Pillow's."""

    @property
    def mode(self) -> str:
        """How pixels are stored."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def tobytes(self) -> bytes:
        """Return the pixels."""
        ...


ByteSource: TypeAlias = ReadableFile | AsyncReadableFile | AsyncIterable[bytes]
"""What can be read to its end for an image's bytes."""


def is_pillow(image: object) -> TypeGuard[PillowImage]:
    """Return True for an image of Pillow's; Pillow is not imported for this."""
    # If the class is missing, another thread is importing the module: *image* can't be of it.
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return kind is not None and isinstance(image, kind)


def is_file(image: object) -> TypeGuard[ByteSource]:
    """Return True for what can be read as a binary file."""
    return _reader(image) is not None or isinstance(image, AsyncIterable)


def _reader(file: object) -> Callable[[int], object] | None:
    """Return what reads a piece of *file*, or None; for parts of aiohttp's forms not ``read``."""
    for name in ("read", "read_chunk"):
        read = getattr(file, name, None)
        if callable(read) and _takes_a_size(read):
            return cast("Callable[[int], object]", read)
    return None


def _takes_a_size(read: Callable[..., object]) -> bool:
    try:
        inspect.signature(read).bind(_PIECE)
    except TypeError:
        return False
    except ValueError:  # nothing says what it takes
        return True
    return True


def file_name(file: ByteSource) -> str:
    """Return the name of an open file, ``"bytes"`` if it has none."""
    name = getattr(file, "filename", None) or getattr(file, "name", None)
    return name if isinstance(name, str) and name else "bytes"


async def read_all(file: ByteSource, check: ImageRules) -> bytes:
    """Return all bytes of *file*, read from where it stands; one that can seek is set back.

    Raises:
        InputError: It is too large, can't be read, or gives something else than bytes.
    """
    most = MAX_PREPARE_BYTES if check.prepare else MAX_BYTES
    data = bytearray()
    async for piece in _pieces(file, check):
        data += piece
        if len(data) > most:
            check.check_size(len(data))
    if not data:
        hint = "if it was read before, set it back with seek(0), or pass its bytes"
        raise check.refuse("is empty", limit="at least one byte", hint=hint)
    return bytes(data)


async def _pieces(file: ByteSource, check: ImageRules) -> AsyncIterator[bytes]:
    try:
        read = _reader(file)
        if read is None:
            async for piece in file:  # type: ignore[union-attr]  # the only other kind
                yield _checked(piece, check)
            return
        if inspect.iscoroutinefunction(read):
            while piece := _checked(await read(_PIECE), check):
                yield piece
            return
        for piece in await asyncio.to_thread(_read_file, cast("ReadableFile", file), check):
            yield piece
    except InputError:
        raise
    except Exception as exc:  # whatever the library behind it raises when a connection is lost
        what = f"can't be read: {str(exc) or type(exc).__name__}"
        raise check.refuse(what, limit="a readable file", hint="open it again") from exc


def _read_file(file: ReadableFile, check: ImageRules) -> list[bytes]:
    """Read a file in this thread; one piece more than is accepted at most."""
    most = MAX_PREPARE_BYTES if check.prepare else MAX_BYTES
    start = file.tell() if _can_seek(file) else None  # type: ignore[attr-defined]  # it can
    pieces: list[bytes] = []
    size = 0
    while size <= most and (piece := _checked(file.read(_PIECE), check)):
        pieces.append(piece)
        size += len(piece)
    if start is not None:
        file.seek(start)  # type: ignore[attr-defined]  # as above
    return pieces


def _can_seek(file: object) -> bool:
    seekable = getattr(file, "seekable", None)
    return callable(seekable) and bool(seekable())


def _checked(piece: object, check: ImageRules) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    what = f"gives {type(piece).__name__} where bytes are expected"
    raise check.refuse(what, limit="a binary file", hint="open it in binary mode ('rb')")


async def measure(pieces: AsyncIterable[bytes]) -> ImageInfo | None:
    """Return what the header of the image that *pieces* begin with says, None if it can't be read.

    Args:
        pieces: The image's first bytes, as a download gives them; no more than `MAX_HEADER` are
            taken.
    """
    inspector = Inspector()
    async for piece in pieces:
        inspector.feed(piece)
        if inspector.header_ended or inspector.size >= MAX_HEADER:
            break
    return inspector.info
