"""A journal whose files are removed, replaced or truncated, while it is open and between runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import comet_async
from comet_async._journal.states import JobState
from comet_async.errors import JournalLostError
from comet_async.journal import SqliteJournal, recover
from tests.support.journal_contract import NOW, planned, step, walked

if TYPE_CHECKING:
    from collections.abc import Callable

S = JobState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a folder's journal is."""
    return tmp_path / "out" / ".comet-async" / "journal.sqlite3"


def remove_folder(path: Path) -> None:
    """Remove the output folder with all that is in it."""
    shutil.rmtree(path.parent.parent)


def remove_files(path: Path) -> None:
    """Remove the journal and all that lies beside it."""
    for file in list(path.parent.iterdir()):
        file.unlink()


def replace_file(path: Path) -> None:
    """Put a copy of the journal in its place, as a tool that syncs folders does."""
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def truncate(path: Path, ending: str = "") -> None:
    """Make a file empty."""
    os.truncate(f"{path}{ending}", 0)


LOSSES: list[tuple[Callable[[Path], object], str]] = [
    (remove_folder, "was removed"),
    (lambda path: path.parent.parent.rename(path.parents[2] / "elsewhere"), "was removed"),
    (remove_files, "was removed"),
    (Path.unlink, "sqlite3 was removed"),
    (lambda path: path.with_name(f"{path.name}-wal").unlink(), "-wal was removed"),
    (lambda path: path.with_name(f"{path.name}.lock").unlink(), ".lock was removed"),
    (replace_file, "sqlite3 was replaced"),
    (truncate, "sqlite3 was truncated"),
    (lambda path: truncate(path, "-wal"), "-wal was truncated"),
]
NAMES = ["folder", "moved", "files", "main", "wal", "lock", "replaced", "truncated", "wal cut"]


@pytest.mark.parametrize(("lose", "text"), LOSSES, ids=NAMES)
@pytest.mark.parametrize("written", [False, True], ids=["at once", "after a write"])
async def test_nothing_is_sent_once_a_file_is_lost(
    path: Path, lose: Callable[[Path], object], text: str, *, written: bool
) -> None:
    """The next request does not leave; what is on its way may still be recorded."""
    async with await SqliteJournal.open(path) as journal:
        sent, waiting = await walked(journal, S.SENDING), await planned(journal, 1)
        lose(path)
        if written:  # it makes a truncated file long again
            await journal.move(sent, S.SUBMITTED, now=NOW, task_id="t")
        for _ in range(2):
            with pytest.raises(JournalLostError, match=text) as caught:
                await step(journal, waiting, S.SENDING)
        assert await journal.get(waiting.key) == waiting
    assert caught.value.field == "verify_remote"
    assert "verify_remote=True" in str(caught.value)


@pytest.mark.parametrize(
    "lose", [remove_folder, remove_files, Path.unlink], ids=["folder", "files", "main"]
)
async def test_the_next_opening_knows_of_the_loss(
    path: Path, lose: Callable[[Path], object]
) -> None:
    """An empty journal does not take the place of a lost one unnoticed."""
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED)
        waiting = await planned(journal, 1)
        lose(path)
        with pytest.raises(JournalLostError):
            await step(journal, waiting, S.SENDING)
    for _ in range(2):
        with pytest.raises(JournalLostError, match="was removed"):
            await SqliteJournal.open(path)
    assert not path.exists()


async def test_an_unharmed_journal_is_not_suspected(path: Path) -> None:
    """Checkpoints, openings and jobs that were not accepted are no loss."""
    for number in range(3):
        async with await SqliteJournal.open(path) as journal:
            sent = await walked(journal, S.SENDING, number)
            back = await journal.move(sent, S.PLANNED, now=NOW)
            with contextlib.closing(sqlite3.connect(path)) as outside:
                outside.execute("PRAGMA wal_checkpoint").fetchall()
            await step(journal, back, S.SENDING)


CHILD = """
import asyncio, os, signal, sys
from comet_async.journal import SqliteJournal, Limits, NewJob

async def main():
    journal = await SqliteJournal.open(sys.argv[1])
    for number in range(5):
        job = NewJob(key=f"k{number}", kind="expand", account="", params={}, n=1, source="",
                     image_sha="")
        (record,) = await journal.plan([job], now=1)
        await journal.send(record, now=2, post_deadline=3, limits=Limits(), run="r")
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def killed_after_five_sends(path: Path) -> None:
    """Run a process that is killed when it has sent five jobs."""
    root = Path(comet_async.__file__).parent.parent
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


async def test_a_killed_process_loses_nothing(path: Path) -> None:
    """With all its files, the journal opens at once."""
    killed_after_five_sends(path)
    async with await SqliteJournal.open(path) as journal:
        assert await journal.counts() == {S.UNKNOWN: 5}


@pytest.mark.parametrize(
    "lose",
    [
        lambda path: path.with_name(f"{path.name}-wal").unlink(),
        lambda path: truncate(path, "-wal"),
        lambda path: os.truncate(f"{path}-wal", os.path.getsize(f"{path}-wal") * 2 // 3),  # noqa: PTH202 - in a lambda, on text
        Path.unlink,
    ],
    ids=["wal", "wal cut", "wal cut in the middle", "main"],
)
async def test_what_is_lost_after_a_kill_is_noticed(
    path: Path, lose: Callable[[Path], object]
) -> None:
    """Without its log the database is a valid, older journal: only the mark shows it."""
    killed_after_five_sends(path)
    lose(path)
    for _ in range(2):
        with pytest.raises(JournalLostError, match="verify_remote=True"):
            await SqliteJournal.open(path)


async def test_a_restored_backup_is_noticed(path: Path) -> None:
    """A copy that is older than the last request is refused, a current one is not."""
    backup = path.with_name("backup")
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED)
    shutil.copy(path, backup)
    async with await SqliteJournal.open(path) as journal:
        assert await journal.counts() == {S.SUBMITTED: 1}
        await walked(journal, S.SUBMITTED, 1)
    shutil.copy(backup, path)
    with pytest.raises(JournalLostError, match="older than what was sent"):
        await SqliteJournal.open(path)


async def test_a_foreign_journal_in_its_place_is_noticed(path: Path, tmp_path: Path) -> None:
    """Another journal knows nothing of what was sent by this one, however much it sent itself."""
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED)
    async with await SqliteJournal.open(tmp_path / "other") as journal:
        for number in range(3):
            await walked(journal, S.SUBMITTED, number)
    shutil.copy(tmp_path / "other", path)
    with pytest.raises(JournalLostError, match="older than what was sent"):
        await SqliteJournal.open(path)


async def test_continuing_on_purpose(path: Path) -> None:
    """With verify_remote it opens, until `trust` also without; nothing counts as tried before."""
    backup = path.with_name("backup")
    async with await SqliteJournal.open(path) as journal:
        sent = await walked(journal, S.SENDING)
        await journal.move(sent, S.PLANNED, now=NOW)
    shutil.copy(path, backup)
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED, 1)
    shutil.copy(backup, path)
    for _ in range(2):
        async with await SqliteJournal.open(path, verify_remote=True) as journal:
            record = await journal.get(sent.key)
            assert record is not None
            assert (record.state, record.attempt) == (S.PLANNED, 0)
            record = await step(journal, record, S.SENDING)
            await journal.move(record, S.PLANNED, now=NOW)
        with pytest.raises(JournalLostError):
            await SqliteJournal.open(path)
    async with await SqliteJournal.open(path, verify_remote=True) as journal:
        await journal.trust()
        await walked(journal, S.SUBMITTED, 2)
    async with await SqliteJournal.open(path) as journal:
        assert sum((await journal.counts()).values()) == 2


async def test_starting_over_on_purpose(path: Path) -> None:
    """Who removes the whole folder starts over; who removes the lock file trusts the copy."""
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED)
    path.unlink()
    path.with_name(f"{path.name}.lock").unlink()
    async with await SqliteJournal.open(path) as journal:
        assert await journal.counts() == {}


async def test_a_recovered_journal_counts_on(path: Path) -> None:
    """Recovery keeps the mark, of a damaged journal and of one that is older than its mark."""
    killed_after_five_sends(path)
    await recover(path)
    async with await SqliteJournal.open(path):
        pass
    path.write_bytes(b"garbage")
    await recover(path)
    async with await SqliteJournal.open(path):
        pass


async def test_a_recovered_old_copy_stays_old(path: Path) -> None:
    """Recovery can't bring back jobs that the copy never had."""
    async with await SqliteJournal.open(path) as journal:
        await planned(journal)
    shutil.copy(path, path.with_name("backup"))
    async with await SqliteJournal.open(path) as journal:
        await walked(journal, S.SUBMITTED, 1)
    shutil.copy(path.with_name("backup"), path)
    await recover(path)
    with pytest.raises(JournalLostError):
        await SqliteJournal.open(path)


async def test_a_mark_that_cannot_be_written_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has committed already; the mark may fall behind."""
    async with await SqliteJournal.open(path) as journal:
        record = await planned(journal)

        def write(_handle: int, _data: bytes) -> int:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            sent = await step(journal, record, S.SENDING)
    async with await SqliteJournal.open(path, boot=journal.boot) as journal:
        assert await journal.get(record.key) == sent
