"""The user's own files: opened without surprises, and known not to have changed."""

from __future__ import annotations

import base64
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from comet_async.checks import PictureCheck
from comet_async.errors import InputError
from comet_async.formats import sniff

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Opener = Callable[[str, int], int]
"""Opens a path; as Python's ``open`` takes it."""


def opener(path: str, flags: int) -> int:
    """Open *path*; a link is followed."""
    # Non-blocking: a named pipe without a writer would hold us for ever.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def opener_no_links(path: str, flags: int) -> int:
    """Open *path*, unless it is a link."""
    return opener(path, flags | os.O_NOFOLLOW)


class UnchangedFile(io.FileIO):
    """A file that is still what was loaded, from the first byte to the last.

    Args:
        path: The file.
        size: Its bytes when it was loaded.
        mtime_ns: When it was last changed then.
        check: The words for what can go wrong.

    Raises:
        InputError: It changed. Also raised while it is read.
        OSError: It can't be opened.
    """

    def __init__(self, path: Path, size: int, mtime_ns: int | None, check: PictureCheck) -> None:
        super().__init__(str(path), opener=opener)
        self._size, self._mtime_ns, self._words = size, mtime_ns, check
        self._seen = 0
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does; look at the file once more when its end is reached."""
        try:
            data = super().read(-1 if size is None else size)
        except OSError as exc:
            raise not_read(exc, self._words) from exc
        self._seen += len(data)
        if size is None or size < 0 or self._seen >= self._size or not data:
            self._check()
        return data

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into *buffer*; return how many bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        now = os.fstat(self.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._size, self._mtime_ns):
            raise changed(self._words)


def not_read(exc: OSError, check: PictureCheck) -> InputError:
    """Return the error for a file that can't be opened or read."""
    if exc.errno == errno.EISDIR:
        hint = "name a picture in it, or expand the whole folder"
        return check.refuse("is a folder", limit="a file", hint=hint)
    if exc.errno == errno.ELOOP:
        limit = "no symbolic link inside a folder, and no circle of them"
        return check.refuse("is a symbolic link", limit=limit, hint="name the file it leads to")
    if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}:
        return missing(check)
    hint = "check the disk and the file's permissions"
    what = f"can't be read: {exc.strerror}"
    return check.refuse(what, limit="a readable file", hint=hint)


def missing(check: PictureCheck) -> InputError:
    """Return the error for a file that is not there."""
    hint = _missing_hint(check.source)
    return check.refuse("is neither a file nor a URL", limit="an existing file", hint=hint)


def changed(check: PictureCheck) -> InputError:
    """Return the error for a file that somebody writes to."""
    hint = "run again once nothing writes to it"
    return check.refuse("changed while it was read", limit="an unchanged file", hint=hint)


def _missing_hint(text: str) -> str:
    try:
        start = base64.b64decode(text[: min(len(text), 64) // 4 * 4])
    except ValueError:
        start = b""
    if sniff(start):
        return "it looks like Base64: decode it, and give the file or its bytes"
    if text.startswith("~"):
        return "~ is not expanded here: write the whole path"
    return "check the spelling; a relative path starts at the working folder"
