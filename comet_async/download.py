"""A result's URL becomes a file: checked, complete, and there either whole or not at all.

The URL comes from the server, so it is treated as a stranger's: https and public addresses
only (this machine only when the API itself runs on it), each redirect checked again, a limit
on size before and while reading, and the bytes must be a whole picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

import attrs
from yarl import URL

from comet_async import formats
from comet_async.addresses import is_literal, is_loopback, is_public
from comet_async.clock import Clock
from comet_async.errors import (
    ConnectionLostError,
    DownloadError,
    InputError,
    ResultExpiredError,
)
from comet_async.models import ResultImage, Task
from comet_async.retrying import ask
from comet_async.transport import Incoming, Transport

MAX_FILE = 64 * 1024 * 1024
"""The largest result taken; the API's own pictures are a few MiB."""

MAX_REDIRECTS = 3
DEADLINE = 300.0
"""Seconds for one result, however slowly it drips."""

_PIECE = 256 * 1024
_FLUSH = 1024 * 1024
_GONE = {403, 404, 410}
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429}
_SERVER_ERROR = 500
_OK = 200

Exists = Literal["fail", "replace"]
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Part:
    """A complete, checked picture under a temporary name, safe on the disk.

    Attributes:
        path: The temporary file, in the folder where the result will be.
        format: What the bytes are, such as ``png``.
        width: In pixels.
        height: In pixels.
        sha256: Of the bytes, in hex.
        size: In bytes.
    """

    path: Path
    format: str
    width: int
    height: int
    sha256: str
    size: int


def check_address(url: URL, *, loopback: bool) -> None:
    """Refuse an address that a result must not have.

    Args:
        url: The address.
        loopback: Whether this machine is allowed, because the API runs on it.

    Raises:
        DownloadError: It is not https, not public, or holds a password.
    """
    host = url.host or ""
    if loopback and url.scheme in {"http", "https"} and is_loopback(host):
        return
    reason = None
    if url.scheme != "https":
        reason = f"its scheme is {url.scheme or 'missing'}, not https"
    elif url.user is not None or url.password is not None:
        reason = "it holds a user name"
    elif is_loopback(host) or (is_literal(host) and not is_public(host)):
        reason = "it leads to a private address"
    if reason is not None:
        msg = f"the result's address is refused: {reason}"
        raise DownloadError(msg, hint="the task is paid and safe; ask the gateway's support")


@attrs.define(eq=False)
class Downloader:
    """Fetches results for one session."""

    transport: Transport
    clock: Clock
    loopback: bool = False

    async def save(
        self,
        image: ResultImage,
        target: Path,
        renew: Callable[..., Awaitable[Task]],
        *,
        watermarked: bool = False,
    ) -> Part:
        """Fetch one picture into a temporary file beside *target*; try again where it helps.

        Args:
            image: The picture.
            target: Where it will be.
            renew: Asks for a task by its id: a link that expired is asked for anew.
            watermarked: Fetch the watermarked version.

        Raises:
            InputError: There is no such version.
            ResultExpiredError: The server no longer holds the picture.
            CometError: As `fetch` says.
        """
        url = image.watermark_url if watermarked else image.url
        if not url:
            msg = "the picture has no such version"
            raise InputError(msg, field="watermarked", value=watermarked)
        expired: ResultExpiredError
        try:
            return await self._retried(url, target)
        except ResultExpiredError as error:
            if not image.task_id:
                raise
            expired = error
        task = await renew(image.task_id, kind=image.kind)
        for fresh in task.images:
            if fresh.index == image.index:
                again = fresh.watermark_url if watermarked else fresh.url
                return await self._retried(again or "", target)
        raise expired

    async def _retried(self, url: str, target: Path) -> Part:
        return await ask(functools.partial(self.fetch, url, target.parent), clock=self.clock)

    async def fetch(self, url: str, folder: Path, *, name: str | None = None) -> Part:
        """Fetch one picture into a temporary file of *folder*.

        Args:
            url: Where it is.
            folder: Where the result will be; made if it is not there.
            name: Distinguishes the temporary file; a leftover of the same name is replaced.
                Random by default.

        Raises:
            ResultExpiredError: The link is no longer good (HTTP 403, 404, 410).
            ConnectionLostError: The transfer broke off, or what came is no whole picture;
                another try makes sense.
            DownloadError: The address is refused, or the file is too large.
        """
        path = folder / f".{name or secrets.token_hex(8)}.part"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                return await self._follow(_address(url), path)
        msg = f"the result did not come within {DEADLINE:.0f} s"
        raise ConnectionLostError(msg, hint="fetching again is free")

    async def _follow(self, url: URL, path: Path) -> Part:
        for _ in range(MAX_REDIRECTS + 1):
            check_address(url, loopback=self.loopback)
            async with self.transport.fetch(url) as incoming:
                if incoming.status not in _REDIRECTS:
                    _check_status(incoming)
                    return await _receive(incoming, path)
                url = url.join(_address(incoming.location or ""))
        msg = f"the result's address redirects more than {MAX_REDIRECTS} times"
        raise DownloadError(msg)


def _address(text: str) -> URL:
    with contextlib.suppress(ValueError):
        url = URL(text, encoded=True)  # as given: another spelling would break its signature
        _ = url.port  # only here is it read
        return url
    raise DownloadError("the result's address is not a web address")


def _check_status(incoming: Incoming) -> None:
    status = incoming.status
    if status in _GONE:
        msg = f"the result's link is no longer good (HTTP {status})"
        raise ResultExpiredError(msg, status=status, hint="ask for the task again: free")
    if status >= _SERVER_ERROR or status in _TRANSIENT:
        msg = f"the result's host answered HTTP {status}"
        raise ConnectionLostError(msg, status=status, hint="fetching again is free")
    if status != _OK:
        msg = f"the result's host answered HTTP {status}"
        raise DownloadError(msg, status=status)
    if incoming.length is not None and incoming.length > MAX_FILE:
        raise _too_large()


def _too_large() -> DownloadError:
    return DownloadError(f"the result is larger than {MAX_FILE // 1024**2} MiB")


async def _receive(incoming: Incoming, path: Path) -> Part:
    """Write what comes to *path*, and tell what it is."""
    writer = _PartWriter(path)
    complete = False
    try:
        async for piece in incoming.pieces(_PIECE):
            if writer.size + len(piece) > MAX_FILE:
                raise _too_large()
            if writer.add(piece):
                await in_thread(writer.flush)
        part = await in_thread(writer.finish)
        complete = True
        return part
    finally:
        if not complete:
            writer.discard()


class _PartWriter:
    """Collects pieces; touches the disk only in `flush` and `finish`, which run in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._inspector = formats.Inspector()
        self._fd: int | None = None

    def add(self, piece: bytes) -> bool:
        """Take *piece*; True when it is time to flush."""
        self.size += len(piece)
        self._buffer += piece
        return len(self._buffer) >= _FLUSH

    def flush(self) -> None:
        if self._fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            self._fd = os.open(self.path, flags, 0o666)
        data = bytes(self._buffer)
        self._buffer.clear()
        self._hash.update(data)
        self._inspector.feed(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> Part:
        """Return the checked part once it is safe on the disk."""
        self.flush()
        info = self._inspector.info
        if info is None or info.format not in {"png", "jpeg", "webp"}:
            msg = f"the result's host sent {self.size} bytes that are no picture"
            raise ConnectionLostError(msg, hint="fetching again is free")
        if not self._inspector.complete:
            msg = f"the result is cut short: {self.size} bytes of a {info.format} without its end"
            raise ConnectionLostError(msg, hint="fetching again is free")
        self._close(durable=True)
        return Part(
            path=self.path,
            format=info.format,
            width=info.width,
            height=info.height,
            sha256=self._hash.hexdigest(),
            size=self.size,
        )

    def discard(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _close(self, *, durable: bool = False) -> None:
        if self._fd is not None:
            if durable:
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = None


async def place(part: Part, target: Path, *, exists: Exists = "fail") -> None:
    """Give *part* its name, durably. The same bytes under that name already are fine.

    Raises:
        DownloadError: Another file has the name, or the disk refuses.
    """
    await in_thread(lambda: _place(part, target, exists))


def _place(part: Part, target: Path, exists: Exists) -> None:
    if exists == "fail" and os.path.lexists(target) and file_sha256(target) != part.sha256:
        part.path.unlink(missing_ok=True)
        msg = f"{target} exists and is another file"
        raise DownloadError(msg, hint="the result is paid and safe; choose another name")
    try:
        part.path.replace(target)
    except OSError:
        part.path.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    if os.name != "posix":  # a folder can't be opened elsewhere
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_sha256(path: Path) -> str | None:
    """Return the hash of a regular file, or None when there is none to read."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


async def in_thread(work: Callable[[], T]) -> T:
    """Run *work* in a thread; what the disk refuses becomes a `DownloadError`."""
    refusal: str | None = None
    thread = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])  # it can't be stopped, and what it writes must be known
        raise
    except OSError as exc:
        refusal = f"{exc.strerror or type(exc).__name__}: {exc.filename or 'the output folder'}"
    msg = f"the result can't be saved: {refusal}"
    raise DownloadError(msg, hint="the task is paid and safe: mend the folder and run again")
