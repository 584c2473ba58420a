"""Getting out of a damaged journal what can still be read."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from comet_async._journal.keys import content_key
from comet_async._journal.states import JobState
from comet_async.errors import (
    IdempotencyConflictError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
)
from comet_async.journal import Recovered, SqliteJournal, recover
from tests.support.journal_contract import NOW, image, new_job, saved, step

if TYPE_CHECKING:
    from pathlib import Path

    from comet_async._journal.records import JobRecord, NewJob
    from comet_async.testing import VirtualClock

S = JobState
NUMBER = 200
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the journal is."""
    return tmp_path / "journal.sqlite3"


def job_of(number: int) -> NewJob:
    """Return a job as the library makes it."""
    sha = f"{number:064x}"
    key = content_key("expand", {"image": sha}, {})
    return new_job(number, key=key, image_sha=sha, params={"prompt": "x" * 400})


async def fill(path: Path) -> None:
    """Write a journal of some pages: every second job submitted, the others planned."""
    async with await SqliteJournal.open(path, boot="first") as journal:
        jobs = await journal.plan([job_of(number) for number in range(NUMBER)], now=NOW)
        for job in jobs[::2]:
            sent = await step(journal, job, S.SENDING)
            await step(journal, sent, S.SUBMITTED, task_id=f"t-{job.key}", images=(image(),))
        await journal.save_file(jobs[0].key, "photos/0", saved())
        await journal.write_meta("fact", 1)


def damage(path: Path, page: int, length: int = PAGE) -> None:
    """Overwrite a page, counted from 0, with what a dying disk might leave."""
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xa5" * length)


def page_of(path: Path, text: bytes) -> int:
    """Return the number of the first page that holds *text*."""
    return path.read_bytes().index(text) // PAGE


def garbage(path: Path) -> None:
    """Write what is no journal."""
    path.write_bytes(b"garbage")


def is_garbage(path: Path) -> bool:
    """Tell whether the file is still what `garbage` wrote."""
    return path.read_bytes() == b"garbage"


async def jobs_of(path: Path) -> dict[str, JobRecord]:
    """Return all jobs of the journal, by key."""
    async with await SqliteJournal.open(path) as journal:
        return {job.key: job for job in await journal.find()}


def unknown(records: dict[str, JobRecord]) -> set[str]:
    """Return the keys of the jobs that must be looked up."""
    return {key for key, record in records.items() if record.state is S.UNKNOWN}


async def test_a_lost_page_costs_a_few_rows(path: Path, clock: VirtualClock) -> None:
    """All others are as they were; those of the page are known by their keys."""
    await fill(path)
    before = await jobs_of(path)
    damage(path, page_of(path, b'"}photos/100.png'))
    with pytest.raises(JournalCorruptError, match="recover"):
        await SqliteJournal.open(path)
    recovered = await recover(path, clock=clock)
    after = await jobs_of(path)
    assert (recovered.jobs + recovered.lost, 0 < recovered.lost < 20) == (NUMBER, True)
    assert after.keys() == before.keys()
    assert {key for key, job in after.items() if not job.kind} <= unknown(after)
    assert sum(after[key] == before[key] for key in before) >= NUMBER / 2 - recovered.lost


async def test_a_very_long_gap_is_taken_for_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for the next readable row ends; what lies behind is known by its keys."""
    await fill(path)
    damage(path, page_of(path, b'"}photos/100.png'))
    monkeypatch.setattr("comet_async._journal.repair._LONGEST_GAP", 1)
    recovered = await recover(path)
    assert recovered.lost > NUMBER / 3
    assert recovered.jobs + recovered.lost == NUMBER


async def test_nothing_that_could_be_sent_is_trusted(path: Path, clock: VirtualClock) -> None:
    """A row that says "planned" may be older than the request; it is looked up first."""
    await fill(path)
    before = await jobs_of(path)
    await recover(path, clock=clock)
    after = await jobs_of(path)
    planned = {key for key, job in before.items() if job.state is S.PLANNED}
    assert unknown(after) == planned
    record = after[planned.pop()]
    assert (record.sent_at, record.post_deadline) == (NOW, record.updated_at)


async def test_a_folder_with_the_name_of_a_copy_is_passed_over(path: Path) -> None:
    """Somebody may keep copies of their own there."""
    await fill(path)
    path.with_name(f"{path.name}-copies").mkdir()
    assert (await recover(path)).jobs == NUMBER


async def test_a_refusal_is_not_trusted(path: Path, clock: VirtualClock) -> None:
    """The next run sends such a job again, and may have done so before the file was damaged."""
    async with await SqliteJournal.open(path) as journal:
        (job,) = await journal.plan([job_of(0)], now=NOW)
        sent = await step(journal, job, S.SENDING)
        await step(journal, sent, S.REJECTED, message="too dark")
    await recover(path, clock=clock)
    assert unknown(await jobs_of(path)) == {job.key}


async def test_everything_else_comes_along(path: Path) -> None:
    """Events, destinations, files and facts are copied too."""
    await fill(path)
    async with await SqliteJournal.open(path) as journal:
        events = await journal.events(job_of(0).key)
        places = await journal.destinations(job_of(0).key)
    await recover(path)
    async with await SqliteJournal.open(path) as journal:
        assert await journal.events(job_of(0).key) == events
        assert await journal.destinations(job_of(0).key) == places
        assert await journal.read_meta("fact") == 1
        assert (await journal.events(job_of(1).key))[-1].new == "unknown"


async def test_without_its_first_page_the_keys_are_left(path: Path) -> None:
    """No table can be read any more, but each key is found in the bytes."""
    await fill(path)
    before = await jobs_of(path)
    damage(path, 0)
    recovered = await recover(path)
    assert (recovered.jobs, recovered.lost) == (0, NUMBER)
    after = await jobs_of(path)
    assert unknown(after) == before.keys()
    # The search of the server's list must not end too early.
    assert {record.sent_at for record in after.values()} == {0}


async def test_planning_again_completes_a_lost_job(path: Path) -> None:
    """The same command over the same images fills in what was lost, and sends nothing."""
    await fill(path)
    damage(path, 0)
    await recover(path)
    async with await SqliteJournal.open(path) as journal:
        (record,) = await journal.plan([job_of(7)], now=NOW)
        assert (record.state, record.kind, record.n) == (S.UNKNOWN, "expand", 1)
        assert record == await journal.get(record.key)
        with pytest.raises(IdempotencyConflictError):
            await journal.plan([new_job(7, key=record.key)], now=NOW)


async def test_keys_in_the_log_count_too(path: Path) -> None:
    """What was not yet moved from the write-ahead log into the file is found there."""
    async with await SqliteJournal.open(path) as journal:
        await journal.plan([job_of(0)], now=NOW)
        copy = path.parent / "copy" / path.name
        copy.parent.mkdir()
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    damage(copy, 0, length=1)
    await recover(copy)
    assert unknown(await jobs_of(copy)) == {job_of(0).key}
    assert (copy.parent / f"{path.name}.damaged-1-wal").stat().st_size


async def test_the_damaged_file_is_kept(path: Path) -> None:
    """Each recovery keeps what it found, under a name of its own, and leaves nothing else."""
    garbage(path)
    first = await recover(path)
    assert first == Recovered(jobs=0, lost=0, damaged=path.with_name(f"{path.name}.damaged-1"))
    assert is_garbage(first.damaged)
    assert (await recover(path)).damaged.name.endswith(".damaged-2")
    names = {file.name.removeprefix(path.name) for file in path.parent.iterdir()}
    assert names == {"", ".lock", ".damaged-1", ".damaged-2"}
    assert {f"{file.stat().st_mode & 0o777:o}" for file in path.parent.iterdir()} == {"600"}


async def test_a_recovery_that_was_cut_off_is_repeated(path: Path) -> None:
    """What an earlier try left behind is neither used nor in the way."""
    await fill(path)
    keys = set(await jobs_of(path))
    shutil.copy(path, f"{path}.damaged-1")
    for ending in (".new", ".new-journal"):
        path.with_name(path.name + ending).write_bytes(b"half")
    damage(path, 0)
    assert (await recover(path)).lost == NUMBER
    assert unknown(await jobs_of(path)) == keys


async def test_rows_that_make_no_sense_become_unknown(path: Path) -> None:
    """A row may be readable and yet be rubbish."""
    await fill(path)
    async with await SqliteJournal.open(path) as journal:
        writer = journal._writer
        for row, change in ((NUMBER - 1, "images = '['"), (NUMBER, "state = 'blue'")):
            sql = f"UPDATE job SET {change} WHERE id = {row}"  # noqa: S608 - our own words
            await writer.run("", lambda db, sql=sql: db.execute(sql))
    recovered = await recover(path)
    assert (recovered.jobs, recovered.lost) == (NUMBER - 2, 2)
    lost = [job_of(NUMBER - 2).key, job_of(NUMBER - 1).key]
    assert set(lost) < unknown(await jobs_of(path))
    async with await SqliteJournal.open(path) as journal:
        for key in lost:  # nothing of what belonged to the rows' numbers sticks to the new rows
            assert await journal.destinations(key) == ()
            assert [event.new for event in await journal.events(key)] == ["unknown"]


async def test_a_journal_in_use_is_not_recovered(path: Path) -> None:
    """Its owner would lose what it writes meanwhile."""
    async with await SqliteJournal.open(path):
        with pytest.raises(JournalBusyError):
            await recover(path)


async def test_nothing_is_recovered_from_nothing(path: Path) -> None:
    """A wrong path must not end in an empty journal."""
    with pytest.raises(JournalError, match="no journal"):
        await recover(path)
    assert [file.name for file in path.parent.iterdir()] == []


async def test_a_recovery_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the copy: the damaged file stays where it is."""

    def copyfile(*_: object) -> None:
        raise OSError(28, "No space left on device")

    garbage(path)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(JournalError, match="No space left"):
        await recover(path)
    assert is_garbage(path)
