"""Results on the disk: complete under a temporary name first, then under their own.

A file that has its own name is whole, whatever happens: its bytes are safe on the disk before
it is renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import attrs

from comet_async._fs import file_sha256, make_folders, sync_folder
from comet_async._images import formats
from comet_async._images.rules import shorten
from comet_async.errors import ConnectionLostError, DownloadError

Exists = Literal["fail", "replace"]
T = TypeVar("T")

_FLUSH = 512 * 1024


@attrs.frozen(kw_only=True)
class Part:
    """A complete, checked image under a temporary name, safe on the disk.

    Attributes:
        path: The temporary file, in the folder where the result will be.
        format: What the bytes are, such as ``png``.
        width: In pixels.
        height: In pixels.
        sha256: Of the bytes, in hex; empty if nobody asked for it.
        size: In bytes.
    """

    path: Path
    format: str
    width: int
    height: int
    sha256: str
    size: int


class PartWriter:
    """Collects pieces; touches the disk only in `flush` and `finish`, which run in a thread.

    Args:
        path: The temporary file; one that is there already is replaced.
        hashed: Whether the part's hash is wanted.
    """

    def __init__(self, path: Path, *, hashed: bool) -> None:
        self.path = path
        self.size = 0
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._hash = hashlib.sha256() if hashed else None
        self._inspector = formats.Inspector()
        self._fd: int | None = None

    def add(self, piece: bytes) -> bool:
        """Take *piece*; True when it is time to flush."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._waiting += len(piece)
        return self._waiting >= _FLUSH

    def flush(self) -> None:
        """Write what waits."""
        if self._fd is None:
            self._fd = self._open()
        for piece in self._pieces:
            if self._hash is not None:
                self._hash.update(piece)
            self._inspector.feed(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(self._fd, view) :]
        self._pieces.clear()
        self._waiting = 0

    def finish(self) -> Part:
        """Return the checked part once it is safe on the disk.

        Raises:
            ConnectionLostError: What came is no whole image.
        """
        self.flush()
        info = self._inspector.info
        if info is None or info.format not in {"png", "jpeg", "webp"}:
            msg = f"the result's host sent {self.size} bytes that are no image"
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
            sha256=self._hash.hexdigest() if self._hash is not None else "",
            size=self.size,
        )

    def discard(self) -> None:
        """Remove what was written."""
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            return os.open(self.path, flags, 0o666)
        make_folders(self.path.parent)
        self.path.unlink(missing_ok=True)
        return os.open(self.path, flags, 0o666)

    def _close(self, *, durable: bool = False) -> None:
        if self._fd is not None:
            if durable:
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = None


def give_name(part: Part, target: Path, exists: Exists) -> None:
    """Rename *part* to *target*. The same bytes under that name already are fine.

    Raises:
        DownloadError: Another file has the name.
        OSError: The disk refuses.
    """
    if exists == "fail" and os.path.lexists(target):
        held = part.sha256 or file_sha256(part.path)
        if file_sha256(target) != held:
            part.path.unlink(missing_ok=True)
            msg = f"{shorten(str(target))} exists and is another file"
            raise DownloadError(msg, hint="the result is paid and safe; choose another name")
    try:
        part.path.replace(target)
    except OSError:
        part.path.unlink(missing_ok=True)
        raise


async def place(part: Part, target: Path, *, exists: Exists = "fail") -> None:
    """Give *part* its name, durably. The same bytes under that name already are fine.

    Raises:
        DownloadError: Another file has the name, or the disk refuses.
    """

    def name_and_sync() -> None:
        give_name(part, target, exists)
        sync_folder(target.parent)

    await in_thread(name_and_sync)


async def in_thread(work: Callable[[], T]) -> T:
    """Run *work* in the thread for files; what the disk refuses becomes a `DownloadError`."""
    refusal: OSError | None = None
    try:
        return await finished(start(work))
    except OSError as exc:
        refusal = exc
    raise refused(refusal)


def start(work: Callable[[], T]) -> asyncio.Future[T]:
    """Have the thread for files do *work* after all that it was given before."""
    return asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), work)


async def finished(future: asyncio.Future[T]) -> T:
    """Return the result of what a thread does.

    It can't be stopped, and who cleans up must know what it wrote: a caller that is cancelled,
    however often, waits for its end.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise


def refused(error: OSError) -> DownloadError:
    """Return what the caller sees of the disk's *error*."""
    what = f"{error.strerror or type(error).__name__}: {error.filename or 'the output folder'}"
    msg = f"the result can't be saved: {what}"
    return DownloadError(msg, hint="the task is paid and safe: mend the folder and run again")


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # One thread: several would wait for each other's lock on the folder, by turning in a circle,
    # which doubles the CPU of a small file. By process: threads do not survive a fork.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="comet-file")


_T = TypeVar("_T")

# Seconds to wait for more while many come at a time, as the journal's thread does.
_GATHER = 0.005


@attrs.define(eq=False)
class _Request:
    """Something to do, the folder in which it changes names, and who waits for it."""

    work: Callable[[], Any]
    folder: Path | None
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@attrs.define(eq=False)
class FsyncBatcher:
    """The output folder of one run, in one event loop."""

    _waiting: list[_Request] = attrs.field(factory=list, init=False)
    _busy: bool = attrs.field(default=False, init=False)

    async def do(self, work: Callable[[], _T], *, folder: Path | None = None) -> _T:
        """Do *work* in the thread for files, and return its result.

        Args:
            work: What to do.
            folder: Where it changes names: they are safe on the disk before this returns. A
                caller that is cancelled waits for that too.

        Raises:
            DownloadError: The disk refuses.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(work, folder, future))
        if not self._busy:
            self._start()
        return cast("_T", await finished(future))

    # Callbacks, no task: a loop that ends cancels all tasks, and callers wait for answers.

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        thread = start(functools.partial(_do_all, batch))
        self._busy = True
        thread.add_done_callback(lambda _: self._done(batch))

    def _done(self, batch: Sequence[_Request]) -> None:
        _settle(batch)
        if not self._waiting:
            self._busy = False
        elif len(batch) > 1:
            asyncio.get_running_loop().call_later(_GATHER, self._start)
        else:
            self._start()


def _do_all(batch: Sequence[_Request]) -> None:
    changed: dict[Path, list[_Request]] = {}
    for request in batch:
        _try(request)
        if request.folder is not None and request.error is None:
            changed.setdefault(request.folder, []).append(request)
    for folder, requests in changed.items():
        try:
            sync_folder(folder)
        except Exception as error:  # noqa: BLE001 - as in `_try`
            for request in requests:
                request.error = error


def _try(request: _Request) -> None:
    try:
        request.result = request.work()
    except Exception as error:  # noqa: BLE001 - it is raised where the caller waits
        request.error = error


def _settle(batch: Sequence[_Request]) -> None:
    for request in batch:
        if isinstance(request.error, OSError):
            request.future.set_exception(refused(request.error))
        elif request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)
