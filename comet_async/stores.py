"""Where images and results can be, apart from local folders: object stores, and your own.

An address such as ``s3://bucket/photos/dog.png`` names an object; the part before ``://``
chooses the `Store`, and the part before the first slash says which one. S3 and what speaks its
protocol is built in (extra ``s3``); ``CometSession(stores=...)`` adds others.

A store's methods block, and are called in threads: any client library will do.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import errno
import functools
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

import attrs

from comet_async._addresses import is_loopback
from comet_async._fs import NO_FOLLOW, is_inside, make_folders, sync_folder
from comet_async._validation import check_call, check_instance, check_offers, check_path
from comet_async.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

PIECE = 256 * 1024
"""Bytes that are read at a time."""

CREATE = 8 * 1024 * 1024
"""Bytes up to which an object is written by one request, which fails if its name is taken. Larger
ones are written in parts, of which two are in memory."""

Place: TypeAlias = Path | str
"""Where a result is: a file of this machine, or the address of an object in a store."""

_REQUEST = "300s"  # for one request, its body included
_CONNECT = "10s"
_RETRIES = 4
_RETRYING = dt.timedelta(seconds=30)


def files_of(places: Collection[Place]) -> tuple[Path, ...]:
    """Return those of *places* that are files of this machine."""
    return tuple(place for place in places if isinstance(place, Path))


def addresses_of(places: Collection[Place]) -> tuple[str, ...]:
    """Return those of *places* that are addresses in a store."""
    return tuple(place for place in places if isinstance(place, str))


@attrs.frozen(kw_only=True)
class ObjectInfo:
    """What a store knows about an object without reading it.

    Attributes:
        name: Its name in the store, with "/" between folders.
        size: Bytes.
        version: What changes whenever its content does, such as an ETag; empty if the store has
            nothing of the kind, which means that the object is read in every run.
        modified_ns: When it was last changed, in nanoseconds since 1970, by the store's clock.
    """

    name: str
    size: int
    version: str
    modified_ns: int


@attrs.frozen(kw_only=True)
class Listing:
    """What is in a folder of a store, without what is in its subfolders.

    Attributes:
        objects: The objects.
        folders: The subfolders' names, without slashes.
    """

    objects: tuple[ObjectInfo, ...]
    folders: tuple[str, ...]


class ObjectReader(Protocol):
    """An object that is being read, once from its start to its end."""

    @property
    def info(self) -> ObjectInfo:
        """What is being read."""
        ...

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes, none at the end.

        Raises:
            OSError: It can't be read on; with ``errno.ESTALE`` if it changed meanwhile, which is
                found at its end at the latest.
        """
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Close the connection or the file."""
        ...


class Store(Protocol):
    """Named objects that are written whole or not at all.

    Its methods block; they are called in several threads at once. What fails raises `OSError`.
    """

    def find(self, name: str) -> ObjectInfo | None:
        """Return what is known about the object *name*, or None if there is none."""
        ...

    def open(self, name: str) -> ObjectReader:
        """Open the object *name* for reading.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def put(self, name: str, file: BinaryIO, *, size: int) -> None:
        """Make *file* the object *name*, durably: it is there whole, or not at all.

        Args:
            name: A name that is free.
            file: What to write, from where it stands to its end.
            size: How many bytes that is.

        Raises:
            FileExistsError: There is such an object already.
        """
        ...

    def list(self, folder: str) -> Listing:
        """Return what is in *folder*; nothing if there is no such folder. "" is the top."""
        ...


# A folder ---------------------------------------------------------------------------------


def _as_folder(folder: str | os.PathLike[str]) -> Path:
    check_path("folder", folder)
    return Path(folder)


@attrs.frozen
class LocalStore:
    """A folder as a store: for shares that machines mount in different places, and for tests.

    Links that lead out of the folder are not followed.

    Attributes:
        folder: The folder.

    Raises:
        InputError: It is not a path.
    """

    folder: Path = attrs.field(converter=_as_folder)

    def find(self, name: str) -> ObjectInfo | None:
        """Return what is known about a file; see `Store.find`."""
        try:
            found = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if stat.S_ISDIR(found.st_mode) else _info(name, found)

    def open(self, name: str) -> ObjectReader:
        """Open a file; see `Store.open`."""
        path = self._path(name)
        return _FileReader(path.open("rb", buffering=0), name)

    def put(self, name: str, file: BinaryIO, *, size: int) -> None:  # noqa: ARG002 - for others
        """Write a file; see `Store.put`."""
        target = self._path(name)
        make_folders(target.parent)
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
            with os.fdopen(fd, "wb") as written:
                shutil.copyfileobj(file, written, PIECE)
                written.flush()
                os.fsync(written.fileno())
            os.link(part, target)  # unlike a rename, it never replaces a file
        finally:
            part.unlink(missing_ok=True)
        sync_folder(target.parent)

    def list(self, folder: str) -> Listing:
        """List a folder; see `Store.list`."""
        objects, folders = list[ObjectInfo](), list[str]()
        with contextlib.suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # removed a moment ago
                        objects.append(_info(_joined(folder, entry.name), entry.stat()))
        return Listing(objects=tuple(objects), folders=tuple(folders))

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if "\0" in name or ".." in name.split("/") or not is_inside(path, self.folder):
            raise PermissionError(errno.EPERM, "leads out of the store", name)
        return path


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder.rstrip("/") else name


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    version = f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return ObjectInfo(name=name, size=found.st_size, version=version, modified_ns=found.st_mtime_ns)


@attrs.define(eq=False)
class _FileReader:
    file: io.FileIO
    name: str
    info: ObjectInfo = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.info = _info(self.name, os.fstat(self.file.fileno()))

    def read(self, size: int, /) -> bytes:
        data = self.file.read(size) or b""
        if not data and _info(self.name, os.fstat(self.file.fileno())) != self.info:
            raise _changed(self.name)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _changed(name: str) -> OSError:
    return OSError(errno.ESTALE, "changed while it was read", name)


# An object store --------------------------------------------------------------------------


def _is_obstore(_store: object, _field: object, value: object) -> None:
    check_offers("inner", value, ("get", "put", "list_with_delimiter"), "a store of obstore's")


@attrs.frozen
class ObjectStore:
    """Any store of the library obstore: S3 and its relatives, and others at your own risk.

    Writing needs conditional requests (``If-None-Match``), which S3 has.

    Example:
        >>> from obstore.store import S3Store  # doctest: +SKIP
        >>> def minio(bucket: str) -> ObjectStore:
        ...     return ObjectStore(S3Store(bucket, endpoint="https://minio.example"))
        >>> comet = CometSession(stores={"minio": minio})  # doctest: +SKIP

    Attributes:
        inner: The store of obstore.

    Raises:
        InputError: It is something else.
    """

    inner: Any = attrs.field(repr=False, validator=_is_obstore)  # its type is an extra's

    def find(self, name: str) -> ObjectInfo | None:
        """Ask for an object's head; see `Store.find`."""
        try:
            with _os_errors(name):
                return _object_info(_obstore().head(self.inner, name))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> ObjectReader:
        """Open an object; see `Store.open`."""
        with _os_errors(name):
            result = _obstore().get(self.inner, name)
            pieces = iter(result.stream(min_chunk_size=PIECE))
            return _ObjectReader(self, _object_info(result.meta), pieces)

    def put(self, name: str, file: BinaryIO, *, size: int) -> None:
        """Write an object; see `Store.put`."""
        put = functools.partial(_obstore().put, self.inner, name)
        with _os_errors(name):
            if size <= CREATE:
                put(file.read(), mode="create")
                return
        # No store writes parts on condition that the name is free.
        if self.find(name) is not None:
            raise FileExistsError(errno.EEXIST, "exists already", name)
        with _os_errors(name):
            put(file, use_multipart=True, chunk_size=CREATE, max_concurrency=2)

    def list(self, folder: str) -> Listing:
        """List a folder; see `Store.list`."""
        with _os_errors(folder):
            found = _obstore().list_with_delimiter(self.inner, folder.rstrip("/") or None)
        objects = [_object_info(each) for each in found["objects"]]
        # Consoles write an empty object for a folder.
        real = (each for each in objects if each.name.rstrip("/") != folder.rstrip("/"))
        names = (prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])
        return Listing(objects=tuple(real), folders=tuple(names))


@attrs.define(eq=False)
class _ObjectReader:
    store: ObjectStore
    info: ObjectInfo
    pieces: Iterator[bytes]
    _rest: memoryview = attrs.field(default=memoryview(b""), init=False)

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            with _os_errors(self.info.name):
                self._rest = memoryview(next(self.pieces, b""))
            if not self._rest and self.store.find(self.info.name) != self.info:
                raise _changed(self.info.name)
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pieces = iter(())  # drops the connection


def _object_info(meta: Mapping[str, object]) -> ObjectInfo:
    # `version` is not in listings, and the ETag is in all answers.
    modified = meta["last_modified"]
    if not isinstance(modified, dt.datetime):
        raise TypeError(modified)
    return ObjectInfo(
        name=str(meta["path"]),
        size=int(str(meta["size"])),
        version=str(meta.get("e_tag") or ""),
        modified_ns=int(modified.timestamp()) * 1_000_000_000,
    )


@contextlib.contextmanager
def _os_errors(name: str) -> Generator[None, None, None]:
    """Turn what obstore raises into `OSError`."""
    exceptions = _obstore().exceptions
    try:
        yield
    except exceptions.BaseError as error:
        number, text = errno.EIO, str(error).partition("\n")[0]
        if isinstance(error, exceptions.AlreadyExistsError):
            raise FileExistsError(errno.EEXIST, "exists already", name) from None
        if isinstance(error, exceptions.PreconditionError):
            number = errno.ESTALE
        elif isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            number, text = errno.EACCES, "the store refuses access"
        raise OSError(number, text, name) from None
    except FileNotFoundError:
        what = "is not there, or there is no such bucket"
        raise FileNotFoundError(errno.ENOENT, what, name) from None


def open_s3(bucket: str) -> ObjectStore:
    """Return the S3 bucket *bucket*, with credentials from the environment.

    These are ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN`` and
    ``AWS_REGION``, or the role of the machine, task or service account. ``AWS_ENDPOINT_URL_S3``
    or ``AWS_ENDPOINT_URL`` names another server than Amazon's; on this machine it may be plain
    http.

    Raises:
        MissingExtraError: The extra ``s3`` is not installed.
        InputError: It can't be a bucket.
    """
    _obstore()
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: ClientConfig = {"timeout": _REQUEST, "connect_timeout": _CONNECT}
    if endpoint and is_loopback(urlsplit(endpoint).hostname or ""):
        options["allow_http"] = True
    try:
        inner = S3Store(
            bucket,
            config={"endpoint": endpoint} if endpoint else None,
            client_options=options,
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRYING},
        )
    except _obstore().exceptions.BaseError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"s3://{bucket} can't be used: {reason}", field="source") from None
    return ObjectStore(inner)


@functools.cache
def _obstore():  # type: ignore[no-untyped-def]  # noqa: ANN202 - the module
    try:
        import obstore  # noqa: PLC0415 - an extra
        import obstore.exceptions  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("reading and writing s3:// needs obstore", extra="s3") from None
    return obstore


# Addresses --------------------------------------------------------------------------------

OpenStore = Callable[[str], Store]
"""Returns the store of a bucket, or of whatever is between ``://`` and the first slash."""

_SCHEME = re.compile("[a-z][a-z0-9]*")
_TAKEN = frozenset({"http", "https", "data", "file"})


@attrs.define(eq=False)
class Stores:
    """The stores that a session knows, by the schemes of addresses."""

    _makers: Mapping[str, OpenStore] = attrs.field(factory=dict[str, OpenStore])
    _opened: dict[str, Store] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_instance("stores", self._makers, Mapping, "functions by scheme")
        for scheme, maker in self._makers.items():
            check_call("stores", maker)
            if not _SCHEME.fullmatch(str(scheme)) or scheme in _TAKEN:
                raise InputError(
                    f"stores: {scheme!r} can't be the scheme of a store",
                    field="stores",
                    value=scheme,
                    limit="lower-case letters and digits; not http, https, data or file",
                )
        self._makers = {"s3": open_s3, **self._makers}

    def knows(self, text: str) -> bool:
        """Return True if *text* is the address of an object or folder in a store."""
        scheme, separator, _ = text.partition("://")
        return bool(separator) and scheme in self._makers

    def at(self, address: str) -> tuple[Store, str]:
        """Return the store that *address* is in, and the name there.

        Raises:
            InputError: It names no bucket.
            MissingExtraError: The store needs a library that is not installed.
        """
        scheme, _, rest = address.partition("://")
        bucket, _, name = rest.partition("/")
        if not bucket:
            raise InputError(
                f"{address} names no bucket",
                field="source",
                value=address,
                limit=f"{scheme}://bucket/name",
            )
        with self._lock:
            key = f"{scheme}://{bucket}"
            if key not in self._opened:
                self._opened[key] = self._makers[scheme](bucket)
            return self._opened[key], name


# Copies on this machine -------------------------------------------------------------------


_SPOOL = "comet-async-images-"


@functools.cache
def _spool(pid: int) -> Path:
    _remove_abandoned()
    folder = _new_folder()

    def remove() -> None:
        if os.getpid() == pid:  # not in a process that was forked off
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _new_folder() -> Path:
    """Make a folder whose lock this process holds to its end, however that comes."""
    made = Path(tempfile.mkdtemp(prefix=f".{_SPOOL}"))  # not yet a name that is looked for
    _lock(made)
    return made.rename(made.with_name(made.name[1:]))


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SPOOL}*"):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return the lock of *folder*; None if another process has it, or the system has none."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY | NO_FOLLOW)
    except OSError:  # removed a moment ago, or another user's
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def spool() -> Path:
    """Return this process's folder for copies of images; it ends with the process.

    What a killed process leaves behind is removed by the next one.
    """
    folder = _spool(os.getpid())
    if not folder.is_dir():  # removed by a program that cleans up temporary files
        _spool.cache_clear()
        folder = _spool(os.getpid())
    return folder
