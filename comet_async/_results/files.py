"""Results on the disk: complete under a temporary name first, then under their own.

A file that has its own name is complete, whatever happens: its bytes are safe on the disk before
it is renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import attrs

from comet_async._cancellation import finished
from comet_async._fs import NO_FOLLOW, file_sha256, make_folders, sync_folder
from comet_async._images import formats
from comet_async._images.rules import shorten
from comet_async.errors import ConnectionLostError, SaveError

Exists = Literal["fail", "replace"]
T = TypeVar("T")

_FLUSH = 512 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@attrs.frozen(kw_only=True)
class Part:
    """A complete, checked image under a temporary name, safe on the disk.

    Attributes:
        path: The temporary file, in the folder where the result will be.
        format: What the bytes are, such as ``png``.
        sha256: Of the bytes, in hex; empty if it was not wanted.
        size: In bytes.
    """

    path: Path
    format: str
    sha256: str
    size: int


def part_stem(name: str) -> str:
    """Return what the temporary name of a result called *name* begins with.

    File systems take 255 bytes, and what follows needs its share.
    """
    return os.fsencode(name)[:150].decode(errors="ignore")[:80]


class ImageCheck:
    """Checks, while an image arrives, that it is complete and in a known format."""

    def __init__(self) -> None:
        self.size = 0
        self._inspector = formats.Inspector()
        self._boxes = _Boxes()
        self._head = self._tail = b""

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self.size += len(piece)
        self._inspector.feed(piece)
        if self.format in _IN_BOXES:
            self._boxes.feed(piece)
        if len(self._head) < _ENDS:
            self._head += piece[:_ENDS]
        self._tail = (self._tail + piece[-_ENDS:])[-_ENDS:]

    @property
    def format(self) -> str | None:
        """The format that the first bytes name, or None."""
        return self._inspector.format

    def result(self) -> str:
        """Return the format once all bytes were fed.

        Raises:
            ConnectionLostError: What came is not an image, or not all of one.
        """
        found = self.format
        if found is None:
            raise ConnectionLostError(
                f"the result's host sent {self.size} bytes that are not an image",
                hint="fetching it again is free",
            )
        if not self._complete(found):
            raise ConnectionLostError(
                f"the result is cut short: {self.size} bytes of a {found} without its end",
                hint="fetching it again is free",
            )
        return found

    def _complete(self, found: str) -> bool:
        match found:
            case "avif" | "heic":
                return self._boxes.complete
            case "tiff":  # it has no end, and may be laid out in any order
                return True
            case "gif":
                ends = self._tail.rstrip(b"\0").endswith(b";")
            case "bmp":
                ends = self.size >= int.from_bytes(self._head[2:6], "little")
            case _:
                ends = True
        return ends and self._inspector.complete


_IN_BOXES = {"avif", "heic"}
_ENDS = 64  # bytes kept of each end


class _Boxes:
    """Follows the boxes of an AVIF or HEIC: the last one ends where the file does."""

    def __init__(self) -> None:
        self._header = b""
        self._skip: float = 0  # bytes left of the current box
        self._open_end = False  # the last box reaches to the end of the file, wherever that is

    def feed(self, piece: bytes) -> None:
        while piece:
            passing = int(min(self._skip, len(piece)))
            self._skip, piece = self._skip - passing, piece[passing:]
            wanted = 16 if self._header[:4] == b"\0\0\0\1" else 8
            take = wanted - len(self._header)
            self._header, piece = self._header + piece[:take], piece[take:]
            if len(self._header) == wanted:
                self._begin(wanted)

    def _begin(self, length: int) -> None:
        """Begin the box of a complete header; if its size is 1, the real size follows."""
        size = int.from_bytes(self._header[:4], "big")
        if size == 1 and length == 8:  # noqa: PLR2004 - without the long size
            return
        if length == 16:  # noqa: PLR2004 - with it
            size = int.from_bytes(self._header[8:], "big")
        # 0: to the end of the file. Less than its own header: broken, so never complete.
        self._skip = math.inf if size < length else size - length
        self._open_end = size == 0
        self._header = b""

    @property
    def complete(self) -> bool:
        """True when the last box that began has ended."""
        return not self._header and (self._skip == 0 or self._open_end)


class PartWriter:
    """Collects pieces; touches the disk in `flush`, `complete` and `sync`, which run in a thread.

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
        self._check = ImageCheck()
        self._fd: int | None = None

    def add(self, piece: bytes) -> bool:
        """Take *piece*; True when it is time to flush."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._waiting += len(piece)
        return self._waiting >= _FLUSH

    def flush(self) -> None:
        """Write the pieces that were added since the last time."""
        if self._fd is None:
            self._fd = self._open()
        # In one piece: each of these steps releases the interpreter lock and waits to get it back.
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._hash is not None:
            self._hash.update(data)
        self._check.feed(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def complete(self) -> Part:
        """Return the checked part; it is safe on the disk after `sync`.

        Raises:
            ConnectionLostError: What came is not an image, or not all of one.
        """
        self.flush()
        found = self._check.result()
        return Part(
            path=self.path,
            format=found,
            sha256=self._hash.hexdigest() if self._hash is not None else "",
            size=self.size,
        )

    def sync(self) -> None:
        """Make what was written safe on the disk, and close the file."""
        self._close(durable=True)

    def discard(self) -> None:
        """Remove what was written."""
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
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
    """Rename *part* to *target*; a file of the same bytes may have that name already.

    Raises:
        SaveError: Another file has the name.
        OSError: The disk refuses.
    """
    try:
        if exists == "fail" and _took_name(part, target):
            return
        part.path.replace(target)
    except (OSError, SaveError):
        part.path.unlink(missing_ok=True)
        raise


def _took_name(part: Part, target: Path) -> bool:
    """Name *part* in one step: to look and then rename could replace another process's file.

    Returns:
        False if it can be renamed: the same bytes have the name, or there are no links here.

    Raises:
        SaveError: Another file has the name.
    """
    try:
        os.link(part.path, target)
    except FileExistsError:
        _check_same(part, target)
    except OSError:  # some file systems have none
        if os.path.lexists(target):
            _check_same(part, target)
    else:
        part.path.unlink()
        return True
    return False


def _check_same(part: Part, target: Path) -> None:
    """Refuse a name that another file has.

    Raises:
        SaveError: It has other bytes than *part*.
    """
    if file_sha256(target) != (part.sha256 or file_sha256(part.path)):
        raise another_file(target)


def another_file(target: Path | str) -> SaveError:
    """Return the error for a name that something else has."""
    is_folder = isinstance(target, Path) and target.is_dir()
    return SaveError(
        f"{shorten(str(target))} {'is a folder' if is_folder else 'exists and is another file'}",
        hint="the result is paid and safe: move that file away, or choose another name",
    )


async def place(part: Part, target: Path, *, exists: Exists = "fail") -> None:
    """Give *part* its name, durably; a file of the same bytes may have it already.

    Raises:
        SaveError: Another file has the name, or the disk refuses.
    """

    def name_and_sync() -> None:
        give_name(part, target, exists)
        sync_folder(target.parent)

    await in_thread(name_and_sync)


async def in_thread(work: Callable[[], T]) -> T:
    """Run *work* in the thread for files; what the disk refuses becomes a `SaveError`."""
    refusal: OSError | None = None
    try:
        return await finished(start(work))
    except OSError as exc:
        refusal = exc
    raise refused(refusal)


def start(work: Callable[[], T]) -> asyncio.Future[T]:
    """Queue *work* for the thread for files."""
    return asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), work)


def refused(error: OSError) -> SaveError:
    """Return what the caller sees of the disk's *error*."""
    where = "" if error.filename is None else f": {error.filename}"
    remedy = "make room on the disk" if error.errno in _FULL else "fix the output folder"
    return SaveError(
        f"the result can't be saved: {error.strerror or type(error).__name__}{where}",
        hint=f"the task is paid and safe: {remedy}, and run again",
    )


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # One thread: several would spin while they wait for each other's lock on the folder, which
    # doubles the CPU time of a small file. By process: threads do not survive a fork.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="comet-file")


# Seconds to wait for more while many come at a time, as the journal's thread does.
_GATHER = 0.005


@attrs.define(eq=False)
class _Request:
    """Something to do, what makes it durable, and the caller's future."""

    work: Callable[[], Any]
    sync: Callable[[], None] | None
    then: Callable[[Any], None] | None
    folder: Path | None
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@attrs.define(eq=False)
class FsyncBatcher:
    """Writes the files of one event loop; those that wait together are made durable together.

    All are written before any is synced, so that the file system records their names only once:
    that takes two thirds of the CPU time of doing it one by one.
    """

    _waiting: list[_Request] = attrs.field(factory=list, init=False)
    _busy: bool = attrs.field(default=False, init=False)

    async def do(
        self,
        work: Callable[[], T],
        *,
        sync: Callable[[], None] | None = None,
        then: Callable[[T], None] | None = None,
        folder: Path | None = None,
    ) -> T:
        """Do *work* in the thread for files, and return its result.

        Args:
            work: What to do.
            sync: Makes it durable, after the work of all callers that wait.
            then: What to do with the result after that.
            folder: Where it changes names: they are safe on the disk before this returns. A
                caller that is cancelled waits for that too.

        Raises:
            SaveError: The disk refuses.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(work, sync, then, folder, future))
        if not self._busy:
            self._start()
        return cast("T", await finished(future))

    # Callbacks, not a task: a loop that ends cancels all tasks, and callers wait for results.

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
    for step in (_work, _sync, _then):
        for request in batch:
            _try(request, step)
    for request in batch:
        if request.folder is not None and request.error is None:
            changed.setdefault(request.folder, []).append(request)
    for folder, requests in changed.items():
        try:
            sync_folder(folder)
        except Exception as error:  # noqa: BLE001 - as in `_try`
            for request in requests:
                request.error = error


def _work(request: _Request) -> None:
    request.result = request.work()


def _sync(request: _Request) -> None:
    if request.sync is not None:
        request.sync()


def _then(request: _Request) -> None:
    if request.then is not None:
        request.then(request.result)


def _try(request: _Request, step: Callable[[_Request], None]) -> None:
    if request.error is not None:
        return
    try:
        step(request)
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
