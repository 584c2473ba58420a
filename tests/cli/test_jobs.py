"""`comet-async jobs`: what the journal knows, and decisions by hand."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from comet_async import CometSession, ExpandRequest, Margins
from comet_async._journal.records import JobRecord, Limits, NewJob, SourceOutcome
from comet_async._journal.states import JobState
from comet_async.cli import journal_files
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import DEFAULT_KEY, Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

NOW = 1_767_225_600.0

# The moves that lead from "planned" to a state, besides the first one through "sending".
WAYS: dict[JobState, tuple[JobState, ...]] = {
    JobState.PLANNED: (),
    JobState.UNKNOWN: (JobState.UNKNOWN,),
    JobState.UNCERTAIN: (JobState.UNKNOWN, JobState.UNCERTAIN),
    JobState.SUBMITTED: (JobState.SUBMITTED,),
    JobState.STRANDED: (JobState.SUBMITTED, JobState.STRANDED),
    JobState.FAILED: (JobState.SUBMITTED, JobState.FAILED),
    JobState.SUCCEEDED: (JobState.SUBMITTED, JobState.SUCCEEDED),
    JobState.DONE: (JobState.SUBMITTED, JobState.SUCCEEDED, JobState.SAVING, JobState.DONE),
}


@attrs.define
class Folder:
    """An output folder with a journal in it."""

    path: Path

    async def add(self, name: str, state: JobState) -> JobRecord:
        """Write down a job in *state*."""
        async with await SqliteJournal.open(self.path / JOURNAL_NAME) as journal:
            job = NewJob(
                key=f"ce1-{name}",
                kind="expand",
                account="account",
                params={},
                n=1,
                source=f"{name}.png",
                image_sha=name,
                dest=name,
            )
            (record,) = await journal.plan([job], now=NOW)
            if WAYS[state]:
                sent = await journal.send(
                    record, now=NOW, post_deadline=NOW + 60, limits=Limits(), run="run"
                )
                assert isinstance(sent, JobRecord)
                record = sent
            for step in WAYS[state]:
                task = {"task_id": f"task-{name}"} if step is JobState.SUBMITTED else {}
                record = await journal.move(record, step, now=NOW, why="test", **task)  # type: ignore[arg-type]  # one key
            return record

    async def state(self, name: str) -> JobState:
        """Return how the job stands."""
        async with await SqliteJournal.open(self.path / JOURNAL_NAME) as journal:
            record = await journal.get(f"ce1-{name}")
            assert record is not None
            return record.state


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """Return a folder with a job that is done and one that is uncertain."""
    made = Folder(tmp_path / "wide")
    await made.add("dog", JobState.DONE)
    await made.add("cat", JobState.UNCERTAIN)
    return made


async def test_shows_what_is_not_done(comet: Command, folder: Folder) -> None:
    """Finished jobs are a number, the others a row each, with what they mean."""
    ended = await comet("jobs", folder.path)
    assert ended.status == 0
    assert "cat.png\tce1-cat" in ended.out
    assert "dog.png" not in ended.out
    assert "1 job done: the images are saved" in ended.err
    assert "1 job uncertain: whether it was paid can't be determined; you decide" in ended.err


async def test_shows_all(comet: Command, folder: Folder) -> None:
    """--all shows the finished ones as well."""
    assert "dog.png\tce1-dog\ttask-dog" in (await comet("jobs", folder.path, "--all")).out


async def test_a_failure_that_was_made_good_is_history(comet: Command, folder: Folder) -> None:
    """Its image has a later job, which says how it stands; --all shows both."""
    for name in ("owl", "fox", "fox.2", "elk", "elk.2", "elk.3"):
        await folder.add(name, JobState.FAILED if name != "elk.3" else JobState.DONE)
    ended = await comet("jobs", folder.path)
    rows = [line.split("\t")[:3] for line in ended.out.splitlines()[1:]]
    assert [row[2] for row in rows if row[0] == "failed"] == ["ce1-owl", "ce1-fox.2"]
    assert "2 jobs failed: the server tried and failed" in ended.err
    assert "3 jobs failed and tried again since (see --all)" in ended.err
    ended = await comet("jobs", folder.path, "--all")
    assert ended.out.count("\nfailed\t") == 5
    assert "3 jobs failed and tried again since\n" in ended.err


async def test_finished_jobs_are_counted_and_not_read(
    comet: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal may hold a million of them."""
    read: list[JobState] = []
    find = SqliteJournal.find

    async def seen(*args: Any, **options: Any) -> list[JobRecord]:
        found = await find(*args, **options)
        read.extend(record.state for record in found)
        return found

    monkeypatch.setattr(SqliteJournal, "find", seen)
    ended = await comet("jobs", folder.path)
    assert "1 job done" in ended.err
    assert read
    assert JobState.DONE not in read


async def test_a_folder_that_may_only_be_read(
    comet: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a backup: its jobs are shown, from a copy of the journal."""
    opened = os.open

    def refuse_lock(path: Path, *words: int, **more: int) -> int:
        if str(path).startswith(str(folder.path)) and str(path).endswith(".lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, *words, **more)

    monkeypatch.setattr(os, "open", refuse_lock)
    ended = await comet("jobs", folder.path)
    assert ended.status == 0
    assert "1 job done" in ended.err
    assert "using this journal" not in ended.err


async def test_shows_each_source(comet: Command, folder: Folder) -> None:
    """Those that never became a job, too, and those that share one."""
    async with await SqliteJournal.open(folder.path / JOURNAL_NAME) as journal:
        await journal.save_outcomes(
            [
                SourceOutcome(source="dog.png", outcome="done", key="ce1-dog", at=NOW),
                SourceOutcome(source="same.png", outcome="done", key="ce1-dog", at=NOW),
                SourceOutcome(source="bad.png", outcome="invalid", reason="is GIF", at=NOW),
                SourceOutcome(source="wide.png", outcome="done", copied=True, at=NOW),
                SourceOutcome(source="late.png", outcome="pending", at=NOW),
            ]
        )
    ended = await comet("jobs", folder.path)
    rows = [line.split("\t") for line in ended.out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["uncertain", "cat.png"],
        ["invalid", "bad.png"],
        ["pending", "late.png"],
    ]
    assert rows[1][-1] == "is GIF"
    assert "1 image invalid: can't be used as given; nothing was sent" in ended.err
    ended = await comet("jobs", folder.path, "--all")
    assert "equal\tsame.png\tce1-dog" in ended.out
    assert "copied\twide.png" in ended.out
    lines = (await comet("jobs", folder.path, "--json")).lines
    assert [(line["source"], line["state"], line["outcome"]) for line in lines] == [
        ("dog.png", "done", "done"),
        ("cat.png", "uncertain", None),
        ("bad.png", None, "invalid"),
        ("late.png", None, "pending"),
        ("same.png", None, "done"),
        ("wide.png", None, "done"),
    ]
    assert len({frozenset(line) for line in lines}) == 1  # the same fields in each
    uncertain = (await comet("jobs", folder.path, "--uncertain", "--json")).lines
    assert [line["source"] for line in uncertain] == ["cat.png"]


async def test_shows_uncertain_ones(comet: Command, folder: Folder) -> None:
    """--uncertain leaves out all that need no decision."""
    await folder.add("owl", JobState.SUBMITTED)
    ended = await comet("jobs", folder.path, "--uncertain", "--json")
    assert [line["key"] for line in ended.lines] == ["ce1-cat"]
    assert ended.lines[0]["state"] == "uncertain"
    assert ended.err == ""


async def test_says_that_none_is_uncertain(comet: Command, tmp_path: Path) -> None:
    """A request for uncertain jobs shows them, not only the others."""
    made = Folder(tmp_path)
    await made.add("owl", JobState.SUBMITTED)
    ended = await comet("jobs", made.path, "--uncertain")
    assert ended.out == ""
    assert "no job is uncertain" in ended.err


async def test_shows_a_job_step_by_step(comet: Command, folder: Folder) -> None:
    """--events tells the moves of one job, oldest first."""
    ended = await comet("jobs", folder.path, "--events", "ce1-cat")
    words = [line.split("\t")[2] for line in ended.out.splitlines()]
    assert words == ["to", "planned", "sending", "unknown", "uncertain"]
    ended = await comet("jobs", folder.path, "--events", "ce1-cat", "--json")
    assert [line["new"] for line in ended.lines] == words[1:]


async def _submit(sandbox: Sandbox, own_id: str | None, photo: bytes) -> str:
    """Return the id of a task that exists on the server."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url) as session:
        request = ExpandRequest(image=photo, margins=Margins(up=0.5), external_task_id=own_id)
        return (await session.submit(request)).id


async def test_attach(comet: Command, sandbox: Sandbox, folder: Folder, photo: bytes) -> None:
    """A task that you found makes the job submitted: the next run waits for it."""
    task_id = await _submit(sandbox, "ce1-cat", photo)
    ended = await comet("jobs", folder.path, "attach", "ce1-cat", task_id)
    assert ended.status == 0
    assert "the next run waits for it" in ended.err
    assert await folder.state("cat") is JobState.SUBMITTED
    assert f"\t{task_id}\t" in (await comet("jobs", folder.path)).out


async def test_attach_refuses_a_slip(
    comet: Command, sandbox: Sandbox, folder: Folder, photo: bytes
) -> None:
    """An id that the server does not know, or another request's, changes nothing."""
    ended = await comet("jobs", folder.path, "attach", "ce1-cat", "878")
    assert (ended.status, "has no task 878" in ended.err) == (2, True)
    other = await _submit(sandbox, None, photo)
    ended = await comet("jobs", folder.path, "attach", "ce1-cat", other)
    assert (ended.status, "another request" in ended.err) == (2, True)
    assert await folder.state("cat") is JobState.UNCERTAIN


async def test_attach_refuses_the_task_of_another_job(comet: Command, folder: Folder) -> None:
    """One task can't be two jobs' results."""
    ended = await comet("jobs", folder.path, "attach", "ce1-cat", "task-dog")
    assert ended.status == 2
    assert "belongs to the job ce1-dog" in ended.err
    assert await folder.state("cat") is JobState.UNCERTAIN


async def test_resubmit_asks_for_consent(comet: Command, folder: Folder) -> None:
    """It may pay twice, so it needs the long option."""
    words = ("jobs", folder.path, "resubmit", "ce1-cat")
    ended = await comet(*words)
    assert ended.status == 2
    assert "--i-accept-double-charge" in ended.err
    assert await folder.state("cat") is JobState.UNCERTAIN
    assert (await comet(*words, "--i-accept-double-charge")).status == 0
    assert await folder.state("cat") is JobState.PLANNED


async def test_abandon(comet: Command, folder: Folder) -> None:
    """It is given up for good."""
    assert (await comet("jobs", folder.path, "abandon", "ce1-cat")).status == 0
    assert await folder.state("cat") is JobState.ABANDONED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attach",), "attach which job?"),
        (("attach", "ce1-cat"), "attach needs a task id"),
        (("abandon", "ce1-cat", "878"), "abandon needs no task id"),
        (("abandon", "ce1-nobody"), "the journal has no job ce1-nobody"),
        (("abandon", "ce1-dog"), "ce1-dog is done, not uncertain"),
        (("--events", "ce1-nobody"), "the journal has no job ce1-nobody"),
        (("burn", "ce1-cat"), "burn"),
    ],
)
async def test_refuses(comet: Command, folder: Folder, words: tuple[str, ...], said: str) -> None:
    """A decision that makes no sense is refused with what would."""
    ended = await comet("jobs", folder.path, *words)
    assert ended.status == 2
    assert said in ended.err


async def test_an_unknown_job_is_looked_up_first(comet: Command, folder: Folder) -> None:
    """As long as a run can find out for free, there is nothing to decide."""
    await folder.add("owl", JobState.UNKNOWN)
    ended = await comet("jobs", folder.path, "abandon", "ce1-owl")
    assert ended.status == 2
    assert "looks the job up, free of charge" in ended.err


async def test_shows_a_journal_in_use(comet: Command, folder: Folder) -> None:
    """While a run holds the journal, it is shown as it stood a moment ago."""
    async with await SqliteJournal.open(folder.path / JOURNAL_NAME):
        ended = await comet("jobs", folder.path)
        refused = await comet("jobs", folder.path, "abandon", "ce1-cat")
    assert ended.status == 0
    assert "a run is using this journal" in ended.err
    assert "ce1-cat" in ended.out
    assert refused.status == 2


async def test_an_empty_journal(comet: Command, tmp_path: Path) -> None:
    """A run that was broken off before its first image leaves one."""
    async with await SqliteJournal.open(tmp_path / JOURNAL_NAME):
        pass
    ended = await comet("jobs", tmp_path)
    assert ended.status == 0
    assert "the journal is empty" in ended.err


async def test_no_journal(comet: Command, tmp_path: Path) -> None:
    """A folder that no run wrote to is named as such."""
    ended = await comet("jobs", tmp_path)
    assert ended.status == 2
    assert "has no journal" in ended.err


async def test_a_file_that_is_no_journal(comet: Command, tmp_path: Path) -> None:
    """It is refused, and no lock file appears beside it."""
    file = tmp_path / "dog.jpg"
    file.write_bytes(b"an image")
    ended = await comet("jobs", file)
    assert ended.status == 2
    assert "is not a journal" in ended.err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "words",
    [
        ("jobs",),
        ("report",),
        ("expand", "https://example.com/a.png", "--up", "1", "--dry-run", "--sandbox", "--out"),
    ],
)
async def test_a_journal_of_another_user(
    comet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A folder that can't be looked into is wrong usage, and no run would change that."""

    def refusing(plain: Callable[[Path], bool]) -> Callable[[Path], bool]:
        def look(path: Path) -> bool:
            if path.parent == tmp_path / ".comet-async":
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path)

        return look

    for name in ("is_file", "exists"):
        monkeypatch.setattr(type(tmp_path), name, refusing(getattr(Path, name)))
    ended = await comet(*words, tmp_path)
    assert ended.status == 2
    assert "can't be read: Permission denied" in ended.err
    assert "run the same command again" not in ended.err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JobState.UNKNOWN, JobState.PLANNED),
        (JobState.UNCERTAIN, JobState.PLANNED),
        (JobState.SUBMITTED, JobState.FAILED),
        (JobState.STRANDED, JobState.FAILED),
        (JobState.SUCCEEDED, JobState.EXPIRED),
        (JobState.DONE, JobState.DONE),
    ],
)
async def test_what_a_dead_sandbox_left_is_buried(
    tmp_path: Path, before: JobState, after: JobState
) -> None:
    """Its tasks ended with it: they are planned anew or failed, and done ones stay."""
    made = Folder(tmp_path)
    await made.add("owl", before)
    async with await SqliteJournal.open(tmp_path / JOURNAL_NAME) as journal:
        await journal_files.abandon_ended_sandbox_jobs(journal, now=NOW)
    assert await made.state("owl") is after


async def test_jobs_of_a_dead_sandbox_say_so(comet: Command, tmp_path: Path) -> None:
    """Nobody should look for what the service did wrong."""
    made = Folder(tmp_path)
    await made.add("owl", JobState.SUBMITTED)
    async with await SqliteJournal.open(tmp_path / JOURNAL_NAME) as journal:
        await journal_files.abandon_ended_sandbox_jobs(journal, now=NOW)
    ended = await comet("jobs", made.path)
    assert "its sandbox has ended: painted again by the next run" in ended.out
