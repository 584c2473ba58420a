"""A result's URL becomes a file: checked, complete, and there either whole or not at all.

The URL comes from the server, so it is treated as a stranger's: https and public addresses
only (this machine only when the API itself runs on it), each redirect checked again, a limit
on size before and while reading, and the bytes must be a whole image.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
from yarl import URL

from comet_async._addresses import is_literal, is_loopback, is_public
from comet_async._backoff import with_retries
from comet_async._http.transport import Incoming, Transport
from comet_async._results.files import Exists, Part, PartWriter, give_name, in_thread
from comet_async.clock import Clock
from comet_async.errors import (
    ConnectionLostError,
    DownloadError,
    InputError,
    NotFoundError,
    ResultExpiredError,
)
from comet_async.models import ResultImage, Task

MAX_FILE = 64 * 1024 * 1024
"""The largest result taken; the API's own images are a few MiB."""

MAX_REDIRECTS = 3
DEADLINE = 300.0
"""Seconds for one result, however slowly it drips."""

_PIECE = 256 * 1024
_GONE = {403, 404, 410}
_REDIRECTS = {301, 302, 303, 307, 308}
_TRANSIENT = {408, 425, 429}
_SERVER_ERROR = 500
_OK = 200

Then = Callable[[Part], None]
"""What is done with a part as soon as it is complete, in the same thread."""


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
        exists: Exists = "fail",
        watermarked: bool = False,
    ) -> None:
        """Save one image as *target*; try again where it helps.

        Args:
            image: The image.
            target: The file.
            renew: Asks for a task by its id: a link that expired is asked for anew.
            exists: What to do when another file has the name.
            watermarked: Save the watermarked version.

        Raises:
            InputError: There is no such version.
            ResultExpiredError: The server no longer holds the image.
            CometError: As `fetch` says.
        """
        url = image.watermark_url if watermarked else image.url
        if not url:
            msg = "the image has no such version"
            raise InputError(msg, field="watermarked", value=watermarked)
        expired: ResultExpiredError
        try:
            return await self._save(url, target, exists)
        except ResultExpiredError as error:
            if not image.task_id:
                raise
            expired = error
        try:
            task = await renew(image.task_id, kind=image.kind)
        except NotFoundError:
            raise expired from None  # the server forgot the task with its image
        for fresh in task.images:
            if fresh.index == image.index:
                again = fresh.watermark_url if watermarked else fresh.url
                return await self._save(again or "", target, exists)
        raise expired

    async def _save(self, url: str, target: Path, exists: Exists) -> None:
        def name(part: Part) -> None:
            give_name(part, target, exists)

        fetch = functools.partial(self.fetch, url, target.parent, hashed=False, then=name)
        await with_retries(fetch, clock=self.clock)

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
            folder: Where the result will be; made if it is not there.
            name: Distinguishes the temporary file; a leftover of the same name is replaced.
                By default one that nobody else has.
            hashed: Whether the part's hash is wanted.
            then: What to do with the part as soon as it is complete, in the same thread.

        Raises:
            ResultExpiredError: The link is no longer good (HTTP 403, 404, 410).
            ConnectionLostError: The transfer broke off, or what came is no whole image;
                another try makes sense.
            DownloadError: The address is refused, or the file is too large.
        """
        path = folder / f".{name or f'{_mark(os.getpid())}-{next(_numbers)}'}.part"
        writer = PartWriter(path, hashed=hashed)
        # The wait for a place does not count: it is no fault of the result's host.
        async with await self.transport.download_gate():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE):
                    return await self._follow(_address(url), writer, then)
        msg = f"the result did not come within {DEADLINE:.0f} s"
        raise ConnectionLostError(msg, hint="fetching again is free")

    async def _follow(self, url: URL, writer: PartWriter, then: Then | None) -> Part:
        for _ in range(MAX_REDIRECTS + 1):
            check_address(url, loopback=self.loopback)
            async with self.transport.fetch(url) as incoming:
                if incoming.status not in _REDIRECTS:
                    _check_status(incoming)
                    return await _receive(incoming, writer, then)
                url = url.join(_address(incoming.location or ""))
        msg = f"the result's address redirects more than {MAX_REDIRECTS} times"
        raise DownloadError(msg)


# Names of temporary files that no other process has, and no other file of ours.
_numbers = itertools.count()


@functools.cache
def _mark(_pid: int) -> str:
    return secrets.token_hex(8)


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


async def _receive(incoming: Incoming, writer: PartWriter, then: Then | None) -> Part:
    """Write what comes, and tell what it is."""
    complete = False
    try:
        async for piece in incoming.pieces(_PIECE):
            if writer.size + len(piece) > MAX_FILE:
                raise _too_large()
            if writer.add(piece):
                await in_thread(writer.flush)
        part = await in_thread(functools.partial(_finish, writer, then))
        complete = True
        return part
    finally:
        if not complete:
            writer.discard()


def _finish(writer: PartWriter, then: Then | None) -> Part:
    part = writer.finish()
    if then is not None:
        then(part)
    return part
