"""The image that a user names, as a value: where its bytes are, and what is known of it."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import weakref
from collections.abc import AsyncIterable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs
from yarl import URL

from comet_async._fs import NO_FOLLOW
from comet_async._images.formats import sniff
from comet_async._images.rules import ImageRules, show
from comet_async._images.streams import (
    AsyncReadableFile,
    ByteSource,
    PillowImage,
    ReadableFile,
    file_name,
    is_file,
    is_pillow,
)
from comet_async._validation import check_instance, check_path, check_text, wrong
from comet_async.errors import InputError
from comet_async.secret import redact

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MISSING = "an existing file"
"""The limit in the error for a file that is not there."""

# A named pipe without a writer would block forever. Windows has neither flag nor such pipes.
_NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

Opener = Callable[[str, int], int]
"""Opens a path; as Python's ``open`` takes it."""


def opener(path: str, flags: int) -> int:
    """Open *path*; a link is followed."""
    return os.open(path, flags | _NOT_BLOCKING)


def opener_no_links(path: str, flags: int) -> int:
    """Open *path*, unless it is a link."""
    return opener(path, flags | NO_FOLLOW)


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

    def __init__(self, path: Path, size: int, mtime_ns: int | None, check: ImageRules) -> None:
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


def not_read(exc: OSError, check: ImageRules) -> InputError:
    """Return the error for a file that can't be opened or read."""
    if exc.errno == errno.EISDIR:
        hint = "name an image in it, or expand the whole folder"
        return check.refuse("is a folder", limit="a file", hint=hint)
    if exc.errno == errno.ELOOP:
        limit = "no symbolic link inside a folder, and no circle of them"
        return check.refuse("is a symbolic link", limit=limit, hint="name the file it leads to")
    if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}:
        return missing(check)
    hint = "check the disk and the file's permissions"
    what = f"can't be read: {exc.strerror}"
    return check.refuse(what, limit="a readable file", hint=hint)


def missing(check: ImageRules) -> InputError:
    """Return the error for a file that is not there."""
    hint = _missing_hint(check.source)
    return check.refuse("is neither a file nor a URL", limit=MISSING, hint=hint)


def changed(check: ImageRules) -> InputError:
    """Return the error for a file that another program writes to."""
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


@attrs.frozen
class FileIdentity:
    """What stays the same while a file is unchanged, as in git's index.

    Not the device: its number changes when a network share is mounted again.

    Attributes:
        path: The file; absolute. For an object in a store, its address.
        size: Bytes.
        mtime_ns: When its content last changed.
        ctime_ns: When its content or its inode last changed.
        inode: Its number, without the highest bit, which no database takes. For an object, a
            number made from its version.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, found: os.stat_result) -> FileIdentity:
        """Return the identity of the file at *path*."""
        inode = found.st_ino & (2**63 - 1)
        path = os.path.abspath(path)  # noqa: PTH100 - 100,000 times
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode)


@attrs.frozen(eq=False)
class LocalCopy:
    """A file that is removed when nothing refers to this object any more.

    Attributes:
        path: The file.
    """

    path: Path

    def __attrs_post_init__(self) -> None:
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked off
        path.unlink(missing_ok=True)


@attrs.frozen(kw_only=True)
class SourceImage:
    """An image to send. Its constructors say what it is; the library looks at it when it is used.

    A plain ``str`` may be a path or a URL. A service that passes on what its users send should
    say which, so that no user can have a file of the server uploaded:
    ``SourceImage.from_url(text)`` never reads a file.

    Attributes:
        source: The image as the user named it; ``"bytes"`` and ``"data URI"`` for unnamed ones.
        sha256: What the image is, in hex: the hash of its bytes, or of the URL's text. A
            converted image has a hash made from the *original's* bytes: another version of
            the image library writes other bytes, and the same image must not be paid again.
            Empty if it is not known.
        url: The URL, when the server is to fetch the image itself.
        path: The file; absolute.
        data: The bytes, if they are in memory; a large converted copy is in a temporary file.
        size: Bytes to send; 0 for a URL.
        mtime_ns: When the file was last changed, in nanoseconds, as the system says.
        width: Pixels across, as a viewer shows it; None where it is not known, as for a URL.
        height: Pixels down, as a viewer shows it; None where it is not known.
        format: ``"png"`` or ``"jpeg"``; None for a URL.
        notes: How it was converted, one sentence each.
        scaled_from: Width and height as a viewer shows it, in pixels, before the conversion scaled
            it; None if it did not.

            .. versionadded:: 0.2.0
        other_sha256: What *sha256* is of the same file with the other choice of ``prepare``, by
            which a run recognises what was bought with it. Empty if that makes no difference.
        file: The open file or stream to read it from; see `from_file`.
        address: The object in a store that it comes from; see `comet_async.stores`.
        identity: What to recognise the file by, if it was read from one.
        read_at_ns: When the reading began, by the system's clock.
        remembered: True if the file was recognised as unchanged and not read. Good for planning;
            it is read before it is sent.
    """

    source: str = attrs.field(repr=lambda text: repr(show(text)))
    sha256: str = ""
    url: str | None = attrs.field(default=None, repr=False)
    path: Path | None = None
    data: bytes | None = attrs.field(default=None, repr=False, eq=False)
    size: int = 0
    mtime_ns: int | None = attrs.field(default=None, repr=False)
    width: int | None = None
    height: int | None = None
    format: str | None = None
    notes: tuple[str, ...] = ()
    scaled_from: tuple[int, int] | None = attrs.field(default=None, repr=False)
    other_sha256: str = attrs.field(default="", repr=False, eq=False)
    identity: FileIdentity | None = attrs.field(default=None, repr=False, eq=False)
    read_at_ns: int = attrs.field(default=0, repr=False, eq=False)
    remembered: bool = attrs.field(default=False, repr=False, eq=False)
    file: ByteSource | None = attrs.field(default=None, repr=False, eq=False)
    address: str | None = attrs.field(default=None, repr=False)
    # Of an object in a store, or of a converted image that is large.
    _copy: LocalCopy | None = attrs.field(default=None, repr=False, eq=False, alias="copy")

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> SourceImage:
        """Return the image in a file, whatever its name looks like.

        Raises:
            InputError: It can't be a path.
        """
        if not isinstance(path, bytes):  # a name of the file system's, undecoded
            check_path("path", path)
        text = os.fsdecode(path)
        return cls(source=text, path=Path(text).absolute())

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, name: str = "bytes"
    ) -> SourceImage:
        """Return the image that *data* is the file of.

        Args:
            data: The file's bytes.
            name: What messages and outcomes call it.

        Raises:
            InputError: *data* is not bytes, or *name* is not text.
        """
        check_text("name", name)
        check_instance("data", data, (bytes, bytearray, memoryview), "bytes")
        return cls(source=name, data=bytes(data))

    @classmethod
    def from_file(cls, file: ByteSource, *, name: str | None = None) -> SourceImage:
        """Return the image in an open file or a stream; it is read when it is used.

        Args:
            file: A binary file, such as ``BytesIO``, Starlette's ``UploadFile``, a part of an
                aiohttp form or a boto3 stream, or an async iterator over bytes. It is read from
                where it stands, off the event loop, up to the largest size that is accepted.
            name: What messages and outcomes call it; the file's own name by default.

        Raises:
            InputError: *file* is nothing to read from, or *name* is not text.
        """
        if not is_file(file):
            raise unsupported(file, "file")
        if name is not None:
            check_text("name", name)
        return cls(source=name or file_name(file), file=file)

    @classmethod
    def from_url(cls, url: str | URL) -> SourceImage:
        """Return the image at a public http or https URL, which the provider fetches itself.

        Raises:
            InputError: It is not an http or https URL.
        """
        check_instance("url", url, (str, URL), "an http or https URL")
        text = str(url).strip()
        if not re.match(r"(?i)https?://[^/?#]", text):
            raise wrong("url", redact(text), "an http or https URL")
        return cls(source=text, url=text)

    @property
    def is_url(self) -> bool:
        """True when the server fetches the image itself."""
        return self.url is not None

    @property
    def held(self) -> bool:
        """True when its bytes are held here, and not read from the file that it comes from."""
        return self.data is not None or self._copy is not None

    @property
    def loaded(self) -> bool:
        """True when it was looked at and checked."""
        return self.format is not None or (self.is_url and bool(self.sha256))

    def open(self) -> BinaryIO:
        """Return a new binary file with the image's bytes, to be closed by the caller.

        Raises:
            InputError: The image is a URL, or its file was changed, moved or deleted since it
                was loaded. A change while the file is being read is raised by ``read``.
        """
        if self.data is not None:
            return io.BytesIO(self.data)
        words = ImageRules(source=self.source)
        try:
            if self._copy is not None:
                return self._copy.path.open("rb")
            if self.path is None:
                what = "a URL has no bytes to read"
                raise InputError(what, field="image", value=show(self.source))
            return UnchangedFile(self.path, self.size, self.mtime_ns, words)
        except OSError as exc:
            raise not_read(exc, words) from exc


ImageInput = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | URL
    | SourceImage
    | ReadableFile
    | AsyncReadableFile
    | AsyncIterable[bytes]
    | PillowImage
)
"""What is accepted as an image.

Text is a path, an ``http(s)`` URL or a ``data:image/…;base64,`` URI; ``~`` is not expanded, and
text is never guessed to be Base64. Bytes are the image file itself, and so is what an open file
or an async stream gives. A ``yarl.URL`` is a URL, never a path. Of a Pillow image the pixels
count, not the file that it was read from.
"""


def unsupported(image: object, field: str) -> InputError:
    """Return the error for a value that can't be an image, by its type."""
    name = type(image).__name__
    return InputError(
        f"{field}: {name} is not supported",
        field=field,
        value=name,
        limit="a path, bytes, an open binary file, a Pillow image, a URL or a SourceImage",
        hint="pass a path, bytes or an https URL",
    )


def check_input(image: object, field: str = "image") -> None:
    """Refuse what can't be an image, by its type; it is not looked at.

    Raises:
        InputError: It is of another type, or empty text.
    """
    if isinstance(image, str):
        check_path(field, image)
    elif not isinstance(
        image, bytes | bytearray | memoryview | os.PathLike | URL | SourceImage
    ) and not (is_pillow(image) or is_file(image)):
        raise unsupported(image, field)


def name_of_input(image: ImageInput) -> str:
    """Return what to call *image* in an outcome, without looking at it."""
    if isinstance(image, SourceImage):
        return image.source
    if isinstance(image, str | URL):
        text = str(image)
        return "<data>" if text.lstrip()[:5].lower() == "data:" else text
    if isinstance(image, os.PathLike):
        return os.fsdecode(image)
    if isinstance(image, bytes | bytearray | memoryview) or not is_file(image):
        return "<bytes>"
    name = file_name(image)
    return "<bytes>" if name == "bytes" else name
