"""Names and folders that survive a power cut, and hashes of files."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Refuses to open a symbolic link; 0 on Windows, which has no such flag."""

# SMB, some FUSE and old kernels: the folder's names can't be synced on request there.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def is_inside(path: Path, folder: Path) -> bool:
    """Return True if *path* is *folder* or in it, wherever links lead.

    `Path.resolve` raises a RuntimeError for a circle of links before Python 3.13; such a path is
    taken for what it is called, and can't be opened.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def make_folders(folder: Path) -> None:
    """Make *folder* and those above it; the names of the new ones are durable.

    Raises:
        OSError: The disk refuses.
    """
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable, as far as its file system can.

    Raises:
        OSError: The disk refuses.
    """
    if os.name != "posix":  # a folder can't be opened on Windows
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
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
