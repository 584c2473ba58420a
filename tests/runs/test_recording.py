"""Jobs that are recorded without being run, for queues and workflow engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from comet_async import CometSession, ExpandRequest, Margins, Outcome, OutcomeStatus, SourceImage
from comet_async._runs import recording
from comet_async.errors import (
    IdempotencyConflictError,
    InputError,
    JournalRequiredError,
    RunStoppedError,
)
from comet_async.runs import Run
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.testing import VirtualClock
from comet_async.types import RecordedJob

WIDE = Margins(left=0.5, right=0.5)
Opener = Callable[[], CometSession]


@pytest.fixture
def opened(sandbox: Sandbox, clock: VirtualClock, tmp_path: Path) -> Opener:
    """Return what opens a session with the test's journal, as each process would."""

    def opener() -> CometSession:
        path = tmp_path / "journal.sqlite3"
        return CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path)

    return opener


async def recorded(opened: Opener, photos: Path, out: Path) -> dict[str, RecordedJob]:
    """Record a folder's jobs, and return them by the names of their images."""
    async with opened() as comet:
        jobs = [job async for job in comet.expand_folder(photos, out, WIDE).record()]
    assert len(jobs) == len({job.source for job in jobs})
    return {Path(job.source).name: job for job in jobs}


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_nothing_is_sent_and_any_process_can_run_the_jobs(
    sandbox: Sandbox,
    opened: Opener,
    photos: Path,
    tmp_path: Path,
    page: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keys are all that it takes; a later run over the folder finds everything there."""
    monkeypatch.setattr(recording, "_PAGE", page)
    monkeypatch.chdir(tmp_path)
    jobs = await recorded(opened, photos.relative_to(tmp_path), Path("wide"))
    assert sandbox.ledger.posts == []
    assert all(job.outcome is None for job in jobs.values())
    assert all(Path(job.source).is_absolute() for job in jobs.values())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    async with opened() as comet:
        for job in jobs.values():
            outcome = await comet.run_job(job.key or "")
            assert outcome.done
            assert outcome.files[0].is_relative_to(tmp_path / "wide")
    assert len(sandbox.ledger.charges) == 3
    monkeypatch.chdir(tmp_path)
    async with opened() as comet:
        again = [each async for each in comet.expand_folder("photos", "wide", WIDE)]
    assert [each.already_there for each in again] == [True] * 3
    assert len(sandbox.ledger.charges) == 3


@pytest.mark.parametrize("what", ["plan", "record"])
async def test_an_interruption_ends_it_although_the_source_does_not(
    sandbox: Sandbox, opened: Opener, photos: Path, what: str
) -> None:
    """Images that were begun with are reported; no further one is waited for."""
    closed = asyncio.Event()

    async def requests() -> AsyncGenerator[ExpandRequest, None]:
        try:
            yield ExpandRequest(image=photos / "dog.png", margins=WIDE)
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with opened() as comet:
        run = comet.expand_many(requests())
        asyncio.get_running_loop().call_later(500, run.interrupt)
        async with asyncio.timeout(600):
            found = [each async for each in (run.plan() if what == "plan" else run.record())]
        assert isinstance(run.stopped, RunStoppedError)
    assert len(found) == 1
    assert closed.is_set()
    assert sandbox.ledger.posts == []
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()  # else a later time limit of the caller would be none


async def test_an_interruption_does_not_hide_that_the_caller_is_cancelled(opened: Opener) -> None:
    """Both may come at once, in either order."""

    async def requests() -> AsyncGenerator[ExpandRequest, None]:
        await asyncio.Event().wait()
        yield ExpandRequest(image="never", margins=WIDE)

    async def plan(run: Run) -> None:
        async for _ in run.plan():
            pass

    async with opened() as comet:
        for first in (True, False):
            run = comet.expand_many(requests())
            task = asyncio.create_task(plan(run))
            await asyncio.sleep(1)
            actions = [run.interrupt, task.cancel]
            for action in actions if first else actions[::-1]:
                asyncio.get_running_loop().call_soon(action)
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("what", ["plan", "record"])
async def test_what_was_interrupted_before_begins_with_nothing(
    opened: Opener, photos: Path, tmp_path: Path, what: str
) -> None:
    """An interruption that comes before the first image is not forgotten."""
    async with opened() as comet:
        run = comet.expand_folder(photos, tmp_path / "wide", WIDE)
        run.interrupt()
        assert [each async for each in (run.plan() if what == "plan" else run.record())] == []


async def test_recording_again_changes_nothing(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path
) -> None:
    """The keys stay the same, and what is finished comes with its outcome."""
    first = await recorded(opened, photos, tmp_path / "wide")
    async with opened() as comet:
        await comet.run_job(first["dog.png"].key or "")
    second = await recorded(opened, photos, tmp_path / "wide")
    assert {name: job.key for name, job in second.items()} == {
        name: job.key for name, job in first.items()
    }
    done = second["dog.png"].outcome
    assert done is not None
    assert done.done
    assert second["cat.png"].outcome is None
    assert len(sandbox.ledger.charges) == 1


async def test_what_was_bought_again_is_what_is_recorded(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path
) -> None:
    """And not the task before it that failed."""
    dog = photos / "dog.png"
    sandbox.tasks.hold()
    async with opened() as comet:
        (first,) = [job async for job in comet.expand_folder(dog, tmp_path / "wide", WIDE).record()]
        failing = asyncio.create_task(comet.run_job(first.key or ""))
        (await sandbox.tasks.next()).fail()
        assert (await failing).status is OutcomeStatus.FAILED
        sandbox.tasks.release()
        (failed,) = [
            job async for job in comet.expand_folder(dog, tmp_path / "wide", WIDE).record()
        ]
        assert failed.outcome is not None
        assert failed.outcome.status is OutcomeStatus.FAILED
        again = comet.expand_folder(dog, tmp_path / "wide", WIDE, retry_failed=True)
        (job,) = [job async for job in again.record()]
        assert (job.outcome, job.key == first.key) == (None, False)
        assert (await comet.run_job(job.key or "")).done
        (last,) = [job async for job in comet.expand_folder(dog, tmp_path / "wide", WIDE).record()]
    assert last.key == job.key
    assert last.outcome is not None
    assert last.outcome.done
    assert len(sandbox.ledger.charges) == 2


async def test_what_can_not_be_recorded_says_why(
    sandbox: Sandbox,
    opened: Opener,
    photos: Path,
    tmp_path: Path,
    photo: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One bad image keeps no other from being recorded."""
    (photos / "notes.png").write_bytes(b"no image at all")
    monkeypatch.chdir(tmp_path)
    jobs = await recorded(opened, photos.relative_to(tmp_path), tmp_path / "wide")
    bad = jobs.pop("notes.png")
    assert bad.source == str(photos / "notes.png")
    broken = bad.outcome
    assert broken is not None
    assert broken.status is OutcomeStatus.INVALID
    assert [job.outcome for job in jobs.values()] == [None] * 3
    async with opened() as comet:
        image = SourceImage.from_bytes(photo, name="upload.png")
        run = comet.expand_many([ExpandRequest(image=image, margins=WIDE)])
        (job,) = [job async for job in run.record()]
    assert job.source == "upload.png"
    assert job.outcome is not None
    assert "memory" in str(job.outcome.error)
    assert sandbox.ledger.posts == []


async def test_a_conflict_keeps_no_other_from_being_recorded(
    sandbox: Sandbox, opened: Opener, photos: Path
) -> None:
    """An id of one's own that belongs to another request already."""
    dog, cat = photos / "dog.png", photos / "cat.png"
    requests = [
        ExpandRequest(image=dog, margins=WIDE, external_task_id="mine"),
        ExpandRequest(image=cat, margins=WIDE, external_task_id="mine"),
        ExpandRequest(image=cat, margins=WIDE),
    ]
    async with opened() as comet:
        jobs = [job async for job in comet.expand_many(requests).record()]
    errors = [job.outcome.error for job in jobs if job.outcome is not None]
    assert [type(error) for error in errors] == [IdempotencyConflictError]
    assert len({job.key for job in jobs if job.outcome is None}) == 2
    assert sandbox.ledger.posts == []


async def test_an_image_that_has_the_shape_is_copied(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path
) -> None:
    """Nobody need run anything for it."""
    async with opened() as comet:
        run = comet.expand_folder(photos, tmp_path / "wide", Margins.for_aspect("320:300"))
        jobs = [job async for job in run.record()]
    assert [job.outcome is not None and job.outcome.done for job in jobs] == [True] * 3
    assert sandbox.ledger.posts == []


async def test_the_unfinished_jobs_of_a_journal(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path
) -> None:
    """They can be queued again, if what queued them ended too soon."""
    jobs = await recorded(opened, photos, tmp_path / "wide")
    async with opened() as comet:
        await comet.run_job(jobs["cat.png"].key or "")
        left = [job async for job in comet.resume().record()]
    assert {job.key for job in left} == {jobs["dog.png"].key, jobs["sea.png"].key}
    assert {job.outcome for job in left} == {None}
    assert len(sandbox.ledger.charges) == 1


async def test_it_needs_a_journal(comet: CometSession, photos: Path, tmp_path: Path) -> None:
    """Without the session's own, no other process would know the jobs."""
    with pytest.raises(JournalRequiredError, match=r"record\(\)"):
        await anext(comet.expand_folder(photos, tmp_path / "wide", WIDE).record())


@pytest.mark.parametrize("how", ["run_job", "resume"])
async def test_a_name_that_is_taken_since_is_refused_before_anything_is_paid(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path, how: str
) -> None:
    """A file may have appeared where a recorded job's result belongs; without it, the job runs."""
    out = tmp_path / "wide"
    jobs = await recorded(opened, photos / "dog.png", out)
    key, taken = jobs["dog.png"].key or "", out / "dog.png"
    out.mkdir()
    taken.write_bytes(b"mine")
    async with opened() as comet:
        if how == "run_job":
            with pytest.raises(InputError, match="exists already"):
                await comet.run_job(key)
        else:
            assert [outcome.status async for outcome in comet.resume()] == ["invalid"]
        assert sandbox.ledger.posts == []
        taken.unlink()
        assert (await comet.run_job(key)).files == (taken,)


async def test_of_two_jobs_that_want_one_name_only_one_is_paid(
    sandbox: Sandbox, opened: Opener, photos: Path, tmp_path: Path
) -> None:
    """Nothing has the name yet when they are recorded, nor when they are run at the same time."""
    twin = tmp_path / "others" / "dog.png"
    twin.parent.mkdir()
    twin.write_bytes((photos / "cat.png").read_bytes())
    sources = photos / "dog.png", twin
    jobs = [(await recorded(opened, each, tmp_path / "wide"))["dog.png"] for each in sources]
    async with opened() as comet:
        ends = await asyncio.gather(
            *(comet.run_job(job.key or "") for job in jobs), return_exceptions=True
        )
    assert [each.done for each in ends if isinstance(each, Outcome)] == [True]
    (error,) = (each for each in ends if isinstance(each, InputError))
    assert "another request in progress" in str(error)
    assert len(sandbox.ledger.charges) == 1
