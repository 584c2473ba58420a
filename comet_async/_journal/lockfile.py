"""The journal's place on the disk: private to its user, and one owner at a time.

Rule of this file: files and locks only; what is in the journal is not its business.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path

import attrs

from comet_async._fs import make_folders, sync_folder
from comet_async.errors import JournalBusyError, JournalError

# WAL needs memory shared between processes, which these can't give.
# https://sqlite.org/wal.html#overview (second disadvantage)
_NETWORK = frozenset({"9p", "afs", "ceph", "cifs", "coda", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"})
_NETWORK_FUSE = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs")


@attrs.define(eq=False)
class FileLock:
    """Exclusive ownership of *path*, by a lock on a file beside it.

    The kernel frees the lock when its owner ends, however it ends. The file beside stays:
    removing it would let a third process lock a file that a second still waits for.

    Raises:
        JournalBusyError: Another owner has it; says which process.
        JournalError: The file can't be made or locked.
    """

    path: Path
    _handle: int = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        name = self.path.with_name(f"{self.path.name}.lock")
        try:
            self._handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _refused(name, error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = self._busy()
            self.release()
            raise busy from None
        except OSError as error:
            self.release()
            raise _refused(name, error) from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next owner in."""
        os.close(self._handle)

    def _busy(self) -> JournalBusyError:
        text = os.pread(self._handle, 32, 0)
        pid = int(text) if text.strip().isdigit() else None
        owner = "this process" if pid == os.getpid() else f"process {pid or 'of an unknown id'}"
        return JournalBusyError(
            f"the journal {self.path} is in use by {owner}",
            pid=pid,
            hint="use one CometSession for both"
            if pid == os.getpid()
            else "wait for it to end, or choose another output folder",
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
    """Make *path*, empty, if it is not there; nobody but its user may read it.

    SQLite gives the files that it makes beside it (``-wal``, ``-shm``) the same mode.

    Raises:
        JournalError: It can't be made, or belongs to somebody else.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
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
    """Tell whether *folder* lies on a file system of the network.

    Where the system has no list of mounts (macOS), the answer is no.
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
    return JournalError(
        f"the journal can't use {path}: {error.strerror or error}",
        hint="nothing was sent: choose a folder that may be written to",
    )
