"""The files of a journal: private to their user, one owner at a time, and still the same ones.

The lock file ``….lock`` beside the database says which process has the journal open, and holds the
*mark*: the journal's id and how many requests it has sent. The mark is written after the commit
that it belongs to and is never synced, so it may fall behind the database, but is never ahead of
it. A database that is behind its mark has lost something.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import attrs

from comet_async._fs import NO_FOLLOW, make_folders, sync_folder
from comet_async.errors import JournalBusyError, JournalError, JournalLostError

# WAL needs memory shared between processes, which these can't give.
# https://sqlite.org/wal.html#overview (second disadvantage)
_NETWORK = frozenset({"9p", "afs", "ceph", "cifs", "coda", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"})
_NETWORK_FUSE = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_PROBED_BYTE = 2**30  # far behind the text of the lock file


@attrs.frozen
class Mark:
    """What a journal has sent so far.

    Attributes:
        journal: The id of the database.
        sends: How often it entered ``sending``.
    """

    journal: str
    sends: int


@attrs.define(eq=False)
class FileLock:
    """Exclusive ownership of *path*, by a lock on a file beside it.

    The kernel releases the lock when its owner ends, however it ends. The file beside stays:
    removing it would let a third process lock a file that a second still waits for.

    Attributes:
        path: The database.
        mark: The mark as it was last read or written; None while there is none.

    Raises:
        JournalBusyError: Another owner has it; says which process.
        JournalError: The file can't be made or locked, or *path* is a symbolic link.
    """

    path: Path
    mark: Mark | None = attrs.field(default=None, init=False)
    _handle: int = attrs.field(init=False, repr=False)
    _unlock: Callable[[], object] = attrs.field(default=lambda: None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        name = beside(self.path, ".lock")
        for file in (self.path, name):
            try:
                mode = file.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # its folder is somebody else's
                raise _refused(file, error) from error
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise JournalError(
                    f"the journal can't use {file}: it is a device or a pipe, not a file",
                    hint="nothing was sent: choose a file in a folder on a local disk",
                )
            if stat.S_ISLNK(mode):
                raise JournalError(
                    f"the journal can't use {file}: it is a symbolic link",
                    hint="nothing was sent: give the file itself, so that each journal has one"
                    " name and one lock",
                )
        try:
            self._handle = os.open(name, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600)
        except OSError as error:
            raise _refused(name, error) from error
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._handle)
            pid, self.mark = self._read()
            try:
                self._unlock = _lock(self._handle, self.path)
            except BlockingIOError:
                raise self._busy(pid) from None
            except OSError as error:
                raise _refused(name, error) from error
            undo.pop_all()
        try:
            self._write(self._handle)
        except OSError as error:
            self.release()
            raise _refused(name, error) from error

    def write_mark(self, mark: Mark) -> None:
        """Record what the journal has sent."""
        self.mark = mark
        # The mark is a second witness; the database has committed already.
        with contextlib.suppress(OSError):
            self._write(self._handle)

    def leave_mark(self) -> None:
        """Write the mark for the next owner if the lock file was removed."""
        with contextlib.suppress(OSError, JournalError):
            make_folder(self.path.parent)
            handle = os.open(
                beside(self.path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o600
            )
            try:
                self._write(handle)
            finally:
                os.close(handle)

    def is_removed(self) -> bool:
        """Return True if the lock file's name no longer leads to the file that is locked."""
        try:
            return not os.path.samestat(
                os.stat(beside(self.path, ".lock")),  # noqa: PTH116 - before each request
                os.fstat(self._handle),
            )
        except OSError:
            return True

    def release(self) -> None:
        """Release the lock."""
        self._unlock()
        os.close(self._handle)

    def _read(self) -> tuple[int | None, Mark | None]:
        os.lseek(self._handle, 0, os.SEEK_SET)
        words = os.read(self._handle, 256).split()
        pid = int(words[0]) if words and words[0].isdigit() else None
        if len(words) < 3 or not (words[1].isalnum() and words[2].isdigit()):  # noqa: PLR2004 - the three words
            return pid, None  # an earlier version wrote no mark
        return pid, Mark(words[1].decode("ascii"), int(words[2]))

    def _write(self, handle: int) -> None:
        # Always as long, and in one call: a crash leaves the old text or the new one.
        text = f"{os.getpid():<20d}\n"
        if self.mark is not None:
            text += f"{self.mark.journal:<32} {self.mark.sends:020d}\n"
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode("ascii"))

    def _busy(self, pid: int | None) -> JournalBusyError:
        if pid == os.getpid():
            return JournalBusyError(
                f"the journal {self.path} is open in this process already",
                pid=pid,
                hint="use one CometSession for both",
            )
        owner = "another process" if pid is None else f"process {pid}"
        return JournalBusyError(
            f"the journal {self.path} is locked by {owner}; a journal serves one process",
            pid=pid,
            hint="wait for it to end, or give each process a journal of its own",
        )


def _lock(handle: int, path: Path) -> Callable[[], object]:
    """Lock the lock file of *path*, open as *handle*; return what releases more than a close.

    Raises:
        BlockingIOError: Another owner has it.
        OSError: The file system has no locks.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return _lock_by_library(path)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # SQLite locks ranges of bytes, which some file systems lack although they have the other kind.
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _PROBED_BYTE)
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, _PROBED_BYTE)
    except BlockingIOError:
        pass  # NFS makes one kind of the other; both are there
    return lambda: None


def _lock_by_library(path: Path) -> Callable[[], object]:
    import filelock  # noqa: PLC0415 - required on Windows only

    # A file of its own: on Windows nobody else can read one that is locked.
    lock = filelock.FileLock(beside(path, ".lck"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError from None
    return lock.release


@attrs.define(eq=False)
class FileWatch:
    """Notices when the files of an open database are removed, replaced or truncated.

    A file whose name is gone can still be written to, without any error; whatever is written is
    lost when the process ends. So the names are compared with what they led to.

    Attributes:
        change: What was noticed first, or None. It stays: the database is no longer complete.
    """

    lock: FileLock
    change: str | None = attrs.field(default=None, init=False)
    _seen: dict[str, os.stat_result] = attrs.field(factory=dict, init=False)

    def look(self) -> None:
        """Compare the files with what was recorded; to be called before each commit.

        A write after a truncation makes the file long again, so it must be noticed before.
        """
        if self.change is None:
            self.change = self._find_change()
            if self.change is not None:
                self.lock.leave_mark()

    def record(self, mark: Mark) -> None:
        """Record the files as they are after a commit, and what was sent."""
        if mark != self.lock.mark:
            self.lock.write_mark(mark)
        for ending in ("", "-wal"):
            with contextlib.suppress(OSError):  # `look` reports it
                found = self._stat(ending)
                if os.path.samestat(found, self._seen.setdefault(ending, found)):
                    self._seen[ending] = found

    def check(self) -> None:
        """Check that nothing was lost; to be called before a request is sent.

        Raises:
            JournalLostError: A name no longer leads to the file, or the file became shorter.
        """
        if self.change is not None:
            raise lost(f"{self.change} while the journal was in use")

    def _find_change(self) -> str | None:
        for ending, known in self._seen.items():
            name = f"{self.lock.path}{ending}"
            try:
                found = self._stat(ending)
            except OSError:
                return f"{name} was removed"
            if not os.path.samestat(found, known):
                return f"{name} was replaced"
            if found.st_size < known.st_size:
                return f"{name} was truncated"
        return f"{self.lock.path}.lock was removed" if self.lock.is_removed() else None

    def _stat(self, ending: str) -> os.stat_result:
        return os.stat(f"{self.lock.path}{ending}")  # noqa: PTH116 - around each commit


def lost(what: str) -> JournalLostError:
    """Return the error for a journal that no longer knows all that was sent."""
    return JournalLostError(
        f"{what}: what was sent may be missing from it",
        hint="nothing more is sent; use verify_remote=True, so that each job is looked up on the"
        " server before it is sent",
    )


def make_folder(folder: Path) -> None:
    """Make *folder* for its user alone; one that is there stays as it is.

    Raises:
        JournalError: It can't be made.
    """
    try:
        make_folders(folder.parent)
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(folder.parent)
    except OSError as error:
        raise _refused(folder, error) from error


def make_file(path: Path) -> None:
    """Make *path*, empty, if it is not there; only its user may read it.

    SQLite gives the files that it makes beside it (``-wal``, ``-shm``) the same mode.

    Raises:
        JournalError: It can't be made, or belongs to another user.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600)
        try:
            if hasattr(os, "fchmod"):  # not on Windows
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
        sync_folder(path.parent)
    except OSError as error:
        raise _refused(path, error) from error


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return *path* so that a later change of the working folder does not matter."""
    return Path(path).absolute()


def beside(path: Path, ending: str) -> Path:
    """Return the file that belongs to *path* and has *ending* after its name."""
    return path.with_name(path.name + ending)


def unused(path: Path) -> Path:
    """Return the first name for a damaged *path* that no file has."""
    names = (beside(path, f".damaged-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def on_network(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Return True if *folder* is on a network file system.

    Where the system has no list of mounts (macOS, Windows), the answer is False.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    real, longest, kind = folder.resolve(), -1, ""
    for line in lines:
        _device, point, name, *_rest = line.split(" ")
        point = point.replace(r"\040", " ")
        if real.is_relative_to(point) and len(point) >= longest:  # a later mount hides an earlier
            longest, kind = len(point), name
    return kind in _NETWORK or kind.startswith(_NETWORK_FUSE)


def _refused(path: Path, error: OSError) -> JournalError:
    if error.errno in _NO_LOCKS:
        return JournalError(
            f"the journal can't use {path}: its file system has no file locks"
            f" ({error.strerror or error})",
            hint="nothing was sent: choose a folder on a local disk; without locks two processes"
            " could pay for the same image",
        )
    return JournalError(
        f"the journal can't use {path}: {error.strerror or error}",
        hint="nothing was sent: free some space on its disk"
        if error.errno in _FULL
        else "nothing was sent: choose a folder that may be written to, and name a file in it",
    )
