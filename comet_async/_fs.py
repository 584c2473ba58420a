"""Names and folders that survive a power cut, and hashes of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


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
