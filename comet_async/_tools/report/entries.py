"""What a journal knows of each source of a folder: facts only, no image is opened."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal

import attrs

from comet_async._images.rules import show
from comet_async._journal.records import (
    Destination,
    JobRecord,
    Journal,
    SourceOutcome,
    is_billed,
)
from comet_async._journal.states import BILLED, MEANINGS, JobState
from comet_async.geometry import Margins
from comet_async.outcomes import OutcomeStatus, from_record
from comet_async.requests import EXPAND

_PENDING = frozenset(
    {
        JobState.PLANNED,
        JobState.SENDING,
        JobState.UNKNOWN,
        JobState.SUBMITTED,
        JobState.STRANDED,
        JobState.SUCCEEDED,
        JobState.SAVING,
    }
)
_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED})
RESUME = "run the same command again to resume"

_SIDES = ("up", "down", "left", "right")


@attrs.frozen(kw_only=True)
class Entry:
    """One source and its last outcome.

    Attributes:
        source: The source as it was named.
        outcome: How it ended, or where it stands.
        reason: Why it is not done.
        hint: What to do about it.
        notes: What was done to the image before it was sent, one sentence each.
        files: The saved results by index, relative to the folder.
        record: Its job, or None when there is none.
        copied: True when it already had the wanted shape and was copied.
        already_there: True when the last run found it finished.
        first: False when an equal image before it has the same job, which is billed once.
        seconds: From sending the request to the end of the task.
        at: When it came to its outcome, in seconds since 1970.
    """

    source: str
    outcome: OutcomeStatus
    reason: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()
    files: Mapping[int, str] = attrs.field(factory=dict)
    record: JobRecord | None = None
    copied: bool = False
    already_there: bool = False
    first: bool = True
    seconds: float | None = None
    at: float | None = None

    @property
    def billed(self) -> bool:
        """True when its job was billed, in whichever run."""
        return self.record is not None and is_billed(self.record)

    @property
    def margins(self) -> Margins | None:
        """What was added at each side; None when that is not known."""
        if self.copied:
            return Margins()
        if self.record is None:
            return None
        shares = {side: self.record.params.get(f"{side}_expansion_ratio") for side in _SIDES}
        return Margins(**{k: float(v) for k, v in shares.items() if isinstance(v, int | float)})

    @property
    def prompt(self) -> str:
        """What was asked for."""
        prompt = None if self.record is None else self.record.params.get("prompt")
        return prompt if isinstance(prompt, str) else ""

    @property
    def cost(self) -> Decimal:
        """USD at list price; an estimate, and 0 for what was billed with another entry."""
        if self.record is None or not (self.billed and self.first):
            return Decimal(0)
        return (EXPAND.price or Decimal(0)) * self.record.n

    @property
    def units(self) -> Decimal:
        """What the server says it charged, in its own units."""
        if self.record is None or not self.first:
            return Decimal(0)
        return Decimal(self.record.units or 0)


async def read_entries(journal: Journal) -> list[Entry]:
    """Return what *journal* knows of each source, ordered by name."""
    seconds = await _durations(journal)
    found: dict[str, Entry] = {}
    by_job: dict[tuple[str, str | None], Entry] = {}
    after = ""
    while page := await journal.find(after=after):
        for record in page:
            places = await journal.destinations(record.key)
            for entry in _of_job(record, places, seconds.get(record.key)):
                name = identity(entry.source)
                found[name] = by_job[name, record.key] = entry
        after = page[-1].key
    async for last in all_outcomes(journal):
        name = identity(last.source)
        found[name] = _with_outcome(by_job.get((name, last.key)), last)
    return _billed_once(sorted(found.values(), key=lambda entry: natural(entry.source)))


async def all_outcomes(journal: Journal) -> AsyncGenerator[SourceOutcome, None]:
    """Yield the last outcome of each source, page by page: a journal may hold a million."""
    after = ""
    while page := await journal.outcomes(after=after):
        for outcome in page:
            yield outcome
        after = page[-1].source


def identity(source: str) -> str:
    """Return what tells sources apart: the same file may be named in several ways."""
    return source if "://" in source else os.path.abspath(source)  # noqa: PTH100 - text


def _with_outcome(job: Entry | None, last: SourceOutcome) -> Entry:
    """Return the entry of a source by its last outcome and its job, if it has one."""
    if job is None:
        job = Entry(source=last.source, outcome=OutcomeStatus(last.outcome), at=last.at)
    elif job.record is not None and job.record.updated_at > last.at:
        return attrs.evolve(job, notes=last.notes)  # it was decided or continued since then
    return attrs.evolve(
        job,
        source=last.source,
        outcome=OutcomeStatus(last.outcome),
        reason=last.reason,
        hint=_advice(job.record, last),
        notes=last.notes,
        files=job.files or dict(enumerate(last.files)),
        copied=last.copied,
        already_there=last.outcome == OutcomeStatus.DONE and not (last.copied or last.billed),
    )


def _advice(record: JobRecord | None, last: SourceOutcome) -> str:
    """Return what to do about an outcome: a job that is under way only needs another run."""
    if last.outcome != OutcomeStatus.PENDING or record is None or record.state not in _PENDING:
        return last.hint
    return RESUME + ("; what is billed is not billed again" if record.state in BILLED else "")


def _billed_once(entries: Sequence[Entry]) -> list[Entry]:
    """Mark all but the first of the entries that share a job."""
    seen: set[str] = set()
    marked = []
    for entry in entries:
        key = "" if entry.record is None else entry.record.key
        marked.append(attrs.evolve(entry, first=key not in seen))
        seen |= {key} - {""}
    return marked


async def _durations(journal: Journal) -> dict[str, float]:
    """Return how long each task took, from sending its request to its end, by key."""
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    for event in await journal.events():
        if event.new == JobState.SENDING:
            began[event.key] = event.at
            took.pop(event.key, None)
        elif event.new in _ENDED and event.key in began:
            took.setdefault(event.key, event.at - began[event.key])
    return took


def _of_job(record: JobRecord, places: Sequence[Destination], seconds: float | None) -> list[Entry]:
    """Return an entry for each source of a job: equal images share one."""
    outcome, reason, hint = _standing(record)
    return [
        Entry(
            source=place.source or record.source,
            outcome=outcome,
            reason=reason,
            hint=hint,
            files={file.index: file.name for file in place.files if file.kept},
            record=record,
            seconds=seconds,
            at=record.updated_at,
        )
        for place in places or [Destination(source=record.source, dest="")]
    ]


def _standing(record: JobRecord) -> tuple[OutcomeStatus, str, str]:
    """Return the outcome of a job as its record says, its reason and its remedy."""
    if record.state in _PENDING:
        return OutcomeStatus.PENDING, MEANINGS[record.state].rstrip("."), RESUME
    if record.state is JobState.REJECTED:
        return OutcomeStatus.REJECTED, record.message, ""
    ended = from_record(record.source, record, (), ())
    if ended.error is None:
        return ended.status, "", ""
    return ended.status, ended.error.message, ended.error.hint or ""


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people do: 2 before 10, capitals with small letters."""
    parts = re.split(r"(\d+)", show(text).casefold())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
