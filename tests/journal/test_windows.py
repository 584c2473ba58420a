"""The package without what only POSIX systems have, as far as that can be simulated on one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import comet_async
from comet_async import _fs

# What Windows lacks, hidden from our modules: POSIX-only modules can't be imported by them, and
# POSIX-only names of `os` and `signal` are gone.
WITHOUT_POSIX = """
import asyncio, builtins, os, pkgutil, signal, sqlite3, sys, tempfile, subprocess, shutil
import aiohttp, aiohttp.web, attrs, tenacity, yarl

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
OS = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "fchmod", "pread", "pwrite", "getuid", "geteuid",
      "getgid", "chown", "fork")
SIGNALS = ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGPIPE", "SIGTSTP", "SIGCONT")

real = builtins.__import__

def limited(name, globals=None, *rest, **more):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("comet_async") and name.partition(".")[0] in MODULES:
        raise ImportError(f"{name} is not available, needed by {importer}")
    return real(name, globals, *rest, **more)

builtins.__import__ = limited
for name in OS:
    delattr(os, name)
for name in SIGNALS:
    delattr(signal, name)
"""

IMPORT_ALL = """
import comet_async
for module in pkgutil.walk_packages(comet_async.__path__, "comet_async."):
    if not module.name.endswith("__main__"):
        try:
            __import__(module.name)
        except ImportError as error:
            # An extra that is not installed here.
            if "comet_async" in str(error):
                raise
for name in comet_async.__all__:
    getattr(comet_async, name)
"""

USE_JOURNAL = """
import filelock
filelock.FileLock = filelock.SoftFileLock  # the library's lock for POSIX needs what is hidden

from comet_async.errors import JournalBusyError
from comet_async.journal import NewJob, SqliteJournal

async def main(path):
    async with await SqliteJournal.open(path) as journal:
        job = NewJob(key="k", kind="expand", account="", params={}, n=1, source="", image_sha="")
        await journal.plan([job], now=1)
        try:
            await SqliteJournal.open(path)
        except JournalBusyError as error:
            assert error.pid == os.getpid(), error
        else:
            raise AssertionError("two owners")
    async with await SqliteJournal.open(path) as journal:
        assert (await journal.get("k")).state == "planned"

asyncio.run(main(sys.argv[1]))
"""


def run(program: str, *arguments: str) -> None:
    """Run *program* in a process of its own."""
    root = Path(comet_async.__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + program, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=120,
        check=True,
    )


@pytest.mark.program
def test_every_module_can_be_imported() -> None:
    """Nothing that only POSIX has is used while a module is imported."""
    run(IMPORT_ALL)


def test_a_journal_is_locked_by_the_library(tmp_path: Path) -> None:
    """Without `fcntl` the journal opens, is written, and has one owner."""
    pytest.importorskip("filelock")
    run(USE_JOURNAL, str(tmp_path / "out" / "journal.sqlite3"))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"journal.sqlite3", "journal.sqlite3.lock"} <= names


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get
)
def test_a_folder_that_cannot_be_synced_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Shares of SMB and some FUSE file systems answer so; that is no reason to refuse them."""

    def fsync(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    _fs.make_folders(tmp_path / "a" / "b")
    _fs.sync_folder(tmp_path / "a")


def test_a_folder_that_fails_to_sync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is reported."""

    def fsync(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        _fs.sync_folder(tmp_path)


def test_a_folder_is_not_synced_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder can't be opened there."""
    monkeypatch.setattr(os, "name", "nt")
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args))
    _fs.sync_folder(tmp_path)
    monkeypatch.undo()
    assert opened == []
