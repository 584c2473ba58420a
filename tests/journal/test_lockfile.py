"""The journal's place on the disk."""

from __future__ import annotations

import errno
import fcntl
from typing import TYPE_CHECKING

import pytest

from comet_async._journal.lockfile import FileLock, make_file, make_folder, on_network
from comet_async.errors import JournalBusyError, JournalError

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


def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock two processes could pay for the same images."""

    def flock(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(JournalError, match="No locks available"):
        FileLock(tmp_path / "journal")


def test_a_lock_without_a_name_in_it(tmp_path: Path) -> None:
    """Between taking a lock and signing it there is a moment."""
    lock = FileLock(tmp_path / "journal")
    (tmp_path / "journal.lock").write_text("")
    with pytest.raises(JournalBusyError, match="unknown id") as caught:
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
