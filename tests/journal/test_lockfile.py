"""The journal's place on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from comet_async import CometSession
from comet_async._journal.lockfile import FileLock, Mark, make_file, make_folder, on_network
from comet_async.errors import InputError, JournalBusyError, JournalError
from comet_async.journal import SqliteJournal

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = r"""
/dev/vda / ext4 rw,relatime 0 0
server:/home {root}/home nfs4 rw,vers=4.2 0 0
/dev/vdb {root}/home/local ext4 rw 0 0
//nas/my\040photos {root}/my\040photos cifs rw 0 0
me@host: {root}/remote fuse.sshfs rw 0 0
tmpfs {root}/twice tmpfs rw 0 0
server:/twice {root}/twice nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("disk", False),
        ("home", True),
        ("home/me/photos", True),
        ("home/local/photos", False),
        ("homestead", False),
        ("my photos/wide", True),
        ("remote", True),
        ("twice", True),
    ],
)
def test_network_disks_are_recognised(tmp_path: Path, folder: str, *, expected: bool) -> None:
    """The innermost, latest mount decides."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.strip().format(root=tmp_path) + "\n")
    assert on_network(tmp_path / folder, mounts) is expected


def test_without_a_list_of_mounts_a_disk_is_a_disk(tmp_path: Path) -> None:
    """Systems without /proc are taken at their word."""
    assert not on_network(tmp_path, tmp_path / "nothing")


def test_the_list_of_this_system_is_understood(tmp_path: Path) -> None:
    """The real list can be read, whatever it holds."""
    assert on_network(tmp_path) in {True, False}


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    """A link could make us empty a file of somebody else's."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "journal.lock").symlink_to(victim)
    with pytest.raises(JournalError, match=r"journal\.lock"):
        FileLock(tmp_path / "journal")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("function", ["flock", "lockf"], ids=["our lock", "SQLite's locks"])
def test_a_disk_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    """Without a lock two processes could pay for the same images: the error says what to do."""

    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, function, no_lock)
    with pytest.raises(JournalError, match=r"has no file locks.*choose a folder on a local disk"):
        FileLock(tmp_path / "journal")


def test_another_refusal_is_not_called_a_lack_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else the system says is passed on."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(JournalError, match="Input/output error"):
        FileLock(tmp_path / "journal")


def test_locks_of_nfs_are_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the second kind of lock collides with the first: both are there."""

    def taken(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(fcntl, "lockf", taken)
    FileLock(tmp_path / "journal").release()


def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal says so, and the lock is free again."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(JournalError, match=r"lock: No space left.*free some space"):
            FileLock(tmp_path / "journal")
    FileLock(tmp_path / "journal").release()


def test_a_link_is_no_journal(tmp_path: Path) -> None:
    """Two names of one database would have two locks."""
    (tmp_path / "real").touch()
    (tmp_path / "journal").symlink_to(tmp_path / "real")
    with pytest.raises(JournalError, match=r"journal: it is a symbolic link.*the file itself"):
        FileLock(tmp_path / "journal")


@pytest.mark.parametrize("name", ["journal", "journal.lock"])
def test_what_is_no_file_stays_as_it_is(tmp_path: Path, name: str) -> None:
    """As root, `--journal /dev/null` took the null device from all other users."""
    os.mkfifo(tmp_path / name, 0o666)
    (tmp_path / name).chmod(0o666)
    with pytest.raises(JournalError, match=r"it is a device or a pipe.*choose a file"):
        FileLock(tmp_path / "journal")
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_mark_is_kept_from_owner_to_owner(tmp_path: Path) -> None:
    """The next owner finds what the last one wrote; an old lock file has no mark."""
    (tmp_path / "journal.lock").write_text("4711\n")
    for mark in (None, Mark("id", 1), Mark("id", 2)):
        lock = FileLock(tmp_path / "journal")
        assert lock.mark == mark
        lock.write_mark(Mark("id", 1 if mark is None else mark.sends + 1))
        lock.release()


@pytest.mark.parametrize("text", ["", "garbage", "1 id x", "\0" * 99, "1 \xff 5"])
def test_a_lock_file_of_any_content_can_be_locked(tmp_path: Path, text: str) -> None:
    """What is in it is help, not a condition."""
    (tmp_path / "journal.lock").write_text(text, "latin-1")
    FileLock(tmp_path / "journal").release()


def test_a_lock_without_a_name_in_it(tmp_path: Path) -> None:
    """Between taking a lock and signing it there is a moment."""
    lock = FileLock(tmp_path / "journal")
    (tmp_path / "journal.lock").write_text("")
    with pytest.raises(JournalBusyError, match="another process") as caught:
        FileLock(tmp_path / "journal")
    assert caught.value.pid is None
    lock.release()


def test_a_file_where_a_folder_belongs(tmp_path: Path) -> None:
    """The system's words say what is wrong."""
    (tmp_path / "out").write_text("")
    with pytest.raises(JournalError, match=r"Not a directory|File exists"):
        make_folder(tmp_path / "out" / ".comet-async")
    with pytest.raises(JournalError, match="Not a directory"):
        make_file(tmp_path / "out" / "journal")


def test_a_journal_in_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the journal's and names the way out, not the bare refusal of the system."""

    def refused(path: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr(type(tmp_path), "lstat", refused)
    with pytest.raises(JournalError, match=r"journal: Permission denied.*choose a folder"):
        FileLock(tmp_path / "journal")


@pytest.mark.parametrize("name", [":memory:", "file:jobs.sqlite3?mode=ro"])
async def test_a_name_of_sqlite_for_what_is_no_file_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a file of that name in the working folder, which remembers for ever."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not the path of a file"):
        await SqliteJournal.open(name)
    with pytest.raises(InputError, match="leave journal= out") as caught:
        CometSession("a-key", journal=name)
    assert caught.value.field == "journal"
    assert not list(tmp_path.iterdir())
