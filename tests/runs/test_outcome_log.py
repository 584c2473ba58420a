"""The last outcome of each source, for reports."""

from __future__ import annotations

from pathlib import Path

from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import JobRecord, Limits, NewJob
from comet_async._journal.states import JobState
from comet_async._runs.outcome_log import OutcomeLog
from comet_async.errors import InputError
from comet_async.outcomes import Outcome, OutcomeStatus
from comet_async.testing import VirtualClock


def new_job(key: str) -> NewJob:
    """Return a job to plan."""
    return NewJob(
        key=key, kind="expand", account="a", params={}, n=1, source="a.png", image_sha="0"
    )


async def test_many_are_written_at_a_time(clock: VirtualClock) -> None:
    """Each write holds up to 200; the rest follows at the end."""
    journal = MemoryJournal()
    log = OutcomeLog(journal=journal, clock=clock, run="r", root=None)
    for number in range(250):
        await log.add(Outcome(source=f"{number}.png", status=OutcomeStatus.DONE))
    assert len(await journal.outcomes(limit=999)) == 200
    await log.flush()
    await log.flush()
    assert len(await journal.outcomes(limit=999)) == 250


async def test_reason_hint_and_files(clock: VirtualClock, tmp_path: Path) -> None:
    """Files are named from the output folder; an error gives reason and hint."""
    journal = MemoryJournal()
    log = OutcomeLog(journal=journal, clock=clock, run="r", root=tmp_path)
    copied = Outcome(
        source="a.png",
        status=OutcomeStatus.DONE,
        files=(tmp_path / "sub" / "a.png",),
        notes=("copied as it is",),
    )
    error = InputError("is GIF", field="image", hint="convert it")
    await log.add(copied)
    await log.add(Outcome(source="b.gif", status=OutcomeStatus.INVALID, error=error))
    await log.flush()
    first, second = await journal.outcomes()
    assert (first.files, first.copied, first.notes) == (("sub/a.png",), True, ("copied as it is",))
    assert (second.outcome, second.reason, second.hint) == ("invalid", "is GIF", "convert it")
    assert not second.copied


async def test_billed_in_this_run(clock: VirtualClock) -> None:
    """Only the run that had a job billed says so."""
    journal = MemoryJournal()
    (planned,) = await journal.plan([new_job("k")], now=0)
    sent = await journal.send(planned, now=0, post_deadline=9, limits=Limits(), run="first")
    assert isinstance(sent, JobRecord)
    await journal.move(sent, JobState.SUBMITTED, now=1, task_id="T")
    for run, billed in (("first", True), ("second", False)):
        log = OutcomeLog(journal=journal, clock=clock, run=run, root=None)
        await log.add(Outcome(source="a.png", status=OutcomeStatus.PENDING, external_task_id="k"))
        await log.flush()
        (last,) = await journal.outcomes()
        assert (last.key, last.billed) == ("k", billed)


async def test_a_journal_that_is_closed_stops_nothing(clock: VirtualClock) -> None:
    """Outcomes are for reports: losing them is no reason to fail."""
    journal = MemoryJournal()
    log = OutcomeLog(journal=journal, clock=clock, run="r", root=None)
    await log.add(Outcome(source="a.png", status=OutcomeStatus.DONE))
    await journal.aclose()
    await log.flush()
