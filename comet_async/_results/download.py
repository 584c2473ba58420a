"""A result's URL becomes a file, bytes or a stream: checked, bounded, and complete or an error.

The URL comes from the server, so it is not trusted: https and public addresses only (this
machine only when the API itself runs on it), each redirect checked again, a limit on size before
and while reading, and the bytes must be a complete image. A URL that fails, for any reason, is
replaced by asking for the task, which is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import re
import secrets
import weakref
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote_from_bytes

import attrs
from yarl import URL

from comet_async._addresses import is_literal, is_loopback, is_public
from comet_async._backoff import DEFAULT_BACKOFF, Backoff, with_retries
from comet_async._http.transport import Incoming, Transport
from comet_async._images.formats import ImageInfo
from comet_async._images.streams import measure
from comet_async._results.files import (
    Exists,
    FsyncBatcher,
    ImageCheck,
    Part,
    PartWriter,
    give_name,
    in_thread,
)
from comet_async.clock import Clock
from comet_async.errors import (
    CometError,
    ConnectionLostError,
    DownloadError,
    InputError,
    NotFoundError,
    ResultExpiredError,
    SaveError,
    TransportError,
)
from comet_async.models import ResultImage, Task

MAX_FILE = 64 * 1024 * 1024
"""Largest result that is accepted, in bytes; the API's own images are a few MiB."""

MAX_REDIRECTS = 3
DEADLINE = 300.0
"""Seconds for one result, however slowly it drips."""

RENEWALS = 2
"""How often a URL that fails is replaced by asking for the task."""

_PIECE = 256 * 1024
_GONE = {403, 404, 410}
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429}
_SERVER_ERROR = 500
_OK = 200

T = TypeVar("T")

Then = Callable[[Part], None]
"""What is done with a part as soon as it is safe on the disk, in the same thread."""

GetTask = Callable[..., Awaitable[Task]]
"""Gets a task by its id: ``get(task_id, kind=...)``."""


# URLs -------------------------------------------------------------------------------------

# What RFC 3986 allows in a URL; a percent sign only in front of two hexadecimal digits.
_TO_ENCODE = re.compile(r"[^!#$&-;=?@\[\]_a-z~A-Z%]|%(?![0-9A-Fa-f]{2})")
_AUTHORITY = re.compile(r"^((?:https?:)?//)([^/?#]*)", re.IGNORECASE)
_ODD_ENDS = "".join(map(chr, range(0x21)))
_LONGEST_LABEL = 63
_PAID_AND_SAFE = "the task is paid and safe; ask the gateway's support"


def parse_url(text: str) -> URL:
    """Return the URL in *text*; what need not be percent-encoded stays byte for byte.

    Any other spelling of a signed URL would break its signature.

    Args:
        text: A URL, or the reference in a redirect.

    Raises:
        DownloadError: It can't be a URL.
    """
    with contextlib.suppress(ValueError):
        text = re.sub(r"[\t\r\n]", "", text.strip(_ODD_ENDS))
        text = _AUTHORITY.sub(_ascii_authority, text)
        url = URL(_TO_ENCODE.sub(_percent_encode, text), encoded=True)
        _ = url.port, url.host  # read only here, and each can fail
        labels = (url.raw_host or "").removesuffix(".").split(".")
        if not url.raw_host or all(0 < len(label) <= _LONGEST_LABEL for label in labels):
            return url
    raise DownloadError("the result's URL is not a web address", hint=_PAID_AND_SAFE)


def _ascii_authority(match: re.Match[str]) -> str:
    scheme, authority = match.groups()
    if not authority.isascii():
        authority = URL(f"http://{authority}/").raw_authority  # as IDNA, or a ValueError
    return f"{scheme}{authority}"


def _percent_encode(match: re.Match[str]) -> str:
    # A header with bytes that are not UTF-8 comes with surrogates for them.
    return quote_from_bytes(match[0].encode("utf-8", "surrogateescape"))


def check_address(url: URL, *, loopback: bool, own_host: str | None = None) -> None:
    """Refuse an address that a result must not have.

    Args:
        url: The address.
        loopback: Whether this machine is allowed, because the API runs on it.
        own_host: A host that is trusted even with plain http: that of a gateway which was
            configured so.

    Raises:
        DownloadError: It is not https, not public, or holds a password.
    """
    host = url.host or ""
    if url.scheme in {"http", "https"}:
        if loopback and is_loopback(host):
            return
        if own_host is not None and host == own_host:
            return
    reason = None
    if url.scheme != "https":
        reason = f"its scheme is {url.scheme or 'missing'}, not https"
    elif not host:
        reason = "it names no host"
    elif url.user is not None or url.password is not None:
        reason = "it holds a user name"
    elif is_loopback(host) or (is_literal(host) and not is_public(host)):
        reason = "it leads to a private address"
    if reason is not None:
        raise DownloadError(
            f"the result's URL is refused: {reason}",
            hint=_PAID_AND_SAFE,
        )


# Fetching ---------------------------------------------------------------------------------


@attrs.define(eq=False)
class Downloader:
    """Fetches results for one session.

    Attributes:
        transport: Opens the connections.
        clock: Sleeps between attempts.
        loopback: Whether results may be on this machine, because the API is.
        own_host: See `check_address`.
        backoff: How long to wait after a failed attempt.
    """

    transport: Transport
    clock: Clock
    loopback: bool = False
    own_host: str | None = None
    backoff: Backoff = DEFAULT_BACKOFF
    _batchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, FsyncBatcher] = attrs.field(
        factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    async def save(
        self,
        image: ResultImage,
        target: Path,
        get: GetTask,
        *,
        exists: Exists = "fail",
        watermarked: bool = False,
    ) -> None:
        """Save one image as *target*.

        Args:
            image: The image.
            target: The file.
            get: Gets a task by its id, for a new URL when this one fails.
            exists: What to do when another file has the name.
            watermarked: Save the watermarked version.

        Raises:
            InputError: There is no such version.
            ResultExpiredError: The server no longer holds the image.
            SaveError: The disk refuses, or another file has the name.
            CometError: As `fetch` says.
        """

        async def fetch(url: str) -> None:
            then = functools.partial(give_name, target=target, exists=exists)
            await self.fetch(url, target.parent, hashed=False, then=then)

        await self._use(image, get, fetch, watermarked=watermarked)

    async def read(self, image: ResultImage, get: GetTask, *, watermarked: bool = False) -> bytes:
        """Return the bytes of one image.

        Args:
            image: The image.
            get: Gets a task by its id, for a new URL when this one fails.
            watermarked: Read the watermarked version.

        Raises:
            InputError: There is no such version.
            ResultExpiredError: The server no longer holds the image.
            CometError: As `fetch` says.
        """

        async def fetch(url: str) -> bytes:
            check, pieces = ImageCheck(), []
            async with await self.transport.download_gate(), self._opened(url) as incoming:
                async for piece in _pieces(incoming):
                    check.feed(piece)
                    pieces.append(piece)
            check.result()
            return b"".join(pieces)

        return await self._use(image, get, fetch, watermarked=watermarked)

    @asynccontextmanager
    async def stream(
        self, image: ResultImage, get: GetTask, *, watermarked: bool = False
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Open one image as a stream of its bytes.

        A URL that fails is replaced only before the first bytes; later failures are raised by
        the iterator. A broken image is known at its end. What runs at once is up to the caller:
        a stream takes no slot of ``Network.downloads``.

        Args:
            image: The image.
            get: Gets a task by its id, for a new URL when this one fails.
            watermarked: Read the watermarked version.

        Raises:
            InputError: There is no such version.
            ResultExpiredError: The server no longer holds the image.
            CometError: As `fetch` says.
        """
        async with AsyncExitStack() as stack:

            async def begin(url: str) -> tuple[ImageCheck, bytes, AsyncIterator[bytes]]:
                async with AsyncExitStack() as attempt:
                    incoming = await attempt.enter_async_context(self._opened(url))
                    pieces = _pieces(incoming)
                    check, first = ImageCheck(), b""
                    # The network may give very few bytes at first.
                    while check.format is None and check.size < _PIECE:
                        if not (piece := await anext(pieces, b"")):
                            break
                        check.feed(piece)
                        first += piece
                    if check.format is None:
                        check.result()
                    stack.push_async_exit(attempt.pop_all())
                return check, first, pieces

            check, first, pieces = await self._use(image, get, begin, watermarked=watermarked)

            async def chunks() -> AsyncGenerator[bytes, None]:
                with _naming(image):
                    yield first
                    async for piece in pieces:
                        check.feed(piece)
                        yield piece
                    check.result()

            async with contextlib.aclosing(chunks()) as iterator:
                yield iterator

    async def header(self, url: str) -> ImageInfo | None:
        """Return what the header of the image at *url* says, or None if it can't be read.

        No more is fetched than that.

        Raises:
            CometError: As `fetch` says.
        """
        async with await self.transport.download_gate(), self._opened(url) as incoming:
            return await measure(_pieces(incoming))

    async def fetch(
        self,
        url: str,
        folder: Path,
        *,
        name: str | None = None,
        hashed: bool = True,
        then: Then | None = None,
    ) -> Part:
        """Fetch one image into a temporary file of *folder*.

        Args:
            url: Where it is.
            folder: Where the result will be; created if it does not exist.
            name: Distinguishes the temporary file; a leftover of the same name is replaced.
                By default a name that no other file has.
            hashed: Whether the part's hash is wanted.
            then: What to do with the part as soon as it is safe on the disk, in the same thread.

        Raises:
            ResultExpiredError: The URL is no longer valid (HTTP 403, 404, 410).
            ConnectionLostError: The transfer broke off, or what came is not a complete image;
                another attempt may help.
            SaveError: The disk refuses.
            DownloadError: The URL is refused, or the file is too large.
        """
        path = folder / f".{name or f'{_mark(os.getpid())}-{next(_numbers)}'}.part"
        writer = PartWriter(path, hashed=hashed)
        async with await self.transport.download_gate(), self._opened(url) as incoming:
            return await self._receive(incoming, writer, then)

    async def _receive(self, incoming: Incoming, writer: PartWriter, then: Then | None) -> Part:
        """Write what comes into a part, and return it once it is complete."""
        complete = False
        try:
            async for piece in _pieces(incoming):
                if writer.add(piece):
                    await in_thread(writer.flush)
            part = await self._batcher().do(writer.complete, sync=writer.sync, then=then)
            complete = True
            return part
        finally:
            if not complete:
                writer.discard()

    def _batcher(self) -> FsyncBatcher:
        """Return what makes the files of the running loop durable."""
        loop = asyncio.get_running_loop()
        batcher = self._batchers.get(loop)
        if batcher is None:
            batcher = self._batchers[loop] = FsyncBatcher()
        return batcher

    async def with_renewals(
        self, url: str, renew: Callable[[], Awaitable[str]], use: Callable[[str], Awaitable[T]]
    ) -> T:
        """Return what *use* returns for *url*, or for a new URL if that one fails.

        Each is tried several times, if that may help.

        Args:
            url: Where the image is, as far as is known.
            renew: Asks for the task and returns the image's URL as it is now.
            use: Fetches from a URL.

        Raises:
            CometError: The last error of *use*, when there is no new URL.
        """
        for _ in range(RENEWALS):
            try:
                return await self._with_retries(use, url)
            except SaveError:
                raise  # another URL would meet the same disk
            except (DownloadError, TransportError) as error:
                failure = error
            fresh = await renew()
            if fresh in {"", url}:
                raise failure
            url = fresh
        return await self._with_retries(use, url)

    def _with_retries(self, use: Callable[[str], Awaitable[T]], url: str) -> Awaitable[T]:
        return with_retries(use, url, clock=self.clock, backoff=self.backoff)

    async def _use(
        self,
        image: ResultImage,
        get: GetTask,
        use: Callable[[str], Awaitable[T]],
        *,
        watermarked: bool,
    ) -> T:
        """Return what *use* returns for the URL of *image*; errors carry the task's id."""

        async def renew() -> str:
            if not image.task_id:
                return ""
            try:
                task = await get(image.task_id, kind=image.kind)
            except NotFoundError:
                return ""  # the server forgot the task with its image
            same = (fresh for fresh in task.images if fresh.index == image.index)
            return _url_of(next(same, None), watermarked=watermarked)

        with _naming(image):
            url = _url_of(image, watermarked=watermarked)
            if not url:
                raise InputError(
                    "the image has no such version", field="watermarked", value=watermarked
                )
            return await self.with_renewals(url, renew, use)

    @asynccontextmanager
    async def _opened(self, text: str) -> AsyncGenerator[Incoming, None]:
        """Open *text*, following redirects, each of them checked."""
        url = parse_url(text)
        for _ in range(MAX_REDIRECTS + 1):
            check_address(url, loopback=self.loopback, own_host=self.own_host)
            with contextlib.closing(await self.transport.fetch(url)) as incoming:
                if incoming.status not in _REDIRECTS:
                    _check_status(incoming)
                    yield incoming
                    return
                url = url.join(parse_url(incoming.location))
        raise DownloadError(f"the result's URL redirects more than {MAX_REDIRECTS} times")


def _url_of(image: ResultImage | None, *, watermarked: bool) -> str:
    if image is None:
        return ""
    return (image.watermark_url if watermarked else image.url) or ""


@contextlib.contextmanager
def _naming(image: ResultImage) -> Generator[None, None, None]:
    """Add the id of the task to errors: with it, the result can be fetched again."""
    try:
        yield
    except CometError as error:
        error.task_id = error.task_id or image.task_id or None
        raise


# The names of temporary files are unique, among processes and within this one.
_numbers = itertools.count()


@functools.cache
def _mark(_pid: int) -> str:
    return secrets.token_hex(8)


def _check_status(incoming: Incoming) -> None:
    status = incoming.status
    if status in _GONE:
        raise ResultExpiredError(
            f"the result's URL is no longer valid (HTTP {status})",
            status=status,
            hint="the task shows no URL that works; services clear results after 30 days",
        )
    if status >= _SERVER_ERROR or status in _TRANSIENT:
        raise ConnectionLostError(
            f"the result's host answered HTTP {status}",
            status=status,
            hint="fetching it again is free",
        )
    if status != _OK:
        raise DownloadError(f"the result's host answered HTTP {status}", status=status)
    if incoming.length is not None and incoming.length > MAX_FILE:
        raise _too_large()


def _too_large() -> DownloadError:
    return DownloadError(f"the result is larger than {MAX_FILE // 1024**2} MiB")


async def _pieces(incoming: Incoming) -> AsyncIterator[bytes]:
    """Yield the bytes as they come, decompressed if the host compressed them all the same.

    Raises:
        ConnectionLostError: The transfer broke off, or drips for longer than `DEADLINE`.
        DownloadError: The file is too large, or compressed in another way than by gzip.
    """
    inflater, begun, size = None, False, 0
    arriving = _Arriving(incoming, left=DEADLINE)
    while piece := await arriving.read():
        if not begun and incoming.encoding in _GZIP and piece[:1] == _GZIP_MAGIC:
            inflater = _Inflater()  # else it is only called so: no image begins in this way
        elif not begun and incoming.encoding in _UNREADABLE:
            raise _unreadable(incoming.encoding)
        begun = True
        if inflater is None:
            yield piece
            continue
        for plain in inflater.pieces(piece):
            size += len(plain)
            if size > MAX_FILE:
                raise _too_large()
            yield plain
    if inflater is not None:
        inflater.finish()


_GZIP = {"gzip", "x-gzip"}
_GZIP_MAGIC = b"\x1f"
_UNREADABLE = {"br", "compress", "deflate", "zstd"}


def _unreadable(encoding: str) -> DownloadError:
    return DownloadError(
        f"the result's host sent it compressed ({encoding}), although it was asked not to",
        hint="the task is paid and safe: set Network(download_session=...) to an aiohttp session "
        "that decompresses it, and fetch it again",
    )


class _Inflater:
    """Undoes gzip, some at a time: few bytes can stand for gigabytes."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_BITS)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* stands for.

        Raises:
            ConnectionLostError: It was damaged on its way.
        """
        more = bool(data)
        while more:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP_BITS)
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error:
                raise _damaged() from None
            data = self._member.unconsumed_tail or self._member.unused_data
            # It may keep some back although it has taken all.
            more = bool(data) or (len(piece) == _PIECE and not self._member.eof)
            if piece:
                yield piece

    def finish(self) -> None:
        """Check that all has come.

        Raises:
            ConnectionLostError: It has not.
        """
        if not self._member.eof:
            raise _damaged()


_GZIP_BITS = 31  # zlib's number for gzip


def _damaged() -> ConnectionLostError:
    return ConnectionLostError(
        "the result was compressed by its host, and is damaged or cut short",
        hint="fetching it again is free",
    )


@attrs.define(eq=False)
class _Arriving:
    """The bytes of a result as they are sent, within limits of time and size."""

    _incoming: Incoming
    _left: float = attrs.field(kw_only=True, alias="left")  # seconds
    _size: int = attrs.field(default=0, init=False)

    async def read(self) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            ConnectionLostError: The transfer broke off, or drips for longer than `DEADLINE`.
            DownloadError: It is too large.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()  # the time that a stream's reader takes does not count
        piece = await self._incoming.read(_PIECE)  # ends by itself when nothing comes for long
        self._left -= loop.time() - began
        if self._left <= 0:
            raise ConnectionLostError(
                f"the result did not come within {DEADLINE:.0f} s",
                hint="fetching it again is free",
            )
        self._size += len(piece)
        if self._size > MAX_FILE:
            raise _too_large()
        return piece
