"""Recording the jobs of a run, for other processes, or for later."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

import attrs

from comet_async._addresses import url_scheme
from comet_async._images.source import SourceImage
from comet_async._journal.records import JobRecord, NewJob
from comet_async._journal.states import READY, WITHOUT_RESULT, JobState
from comet_async._runs.batch import Batch
from comet_async._runs.items import Item, Planned
from comet_async._runs.parallel import in_parallel
from comet_async.errors import CometError, IdempotencyConflictError, InputError
from comet_async.outcomes import Outcome, from_error, from_record
from comet_async.secret import repr_redacted

_PAGE = 500  # jobs that are recorded in one transaction
_ENDED = WITHOUT_RESULT | {JobState.ABANDONED}

Record: TypeAlias = Callable[[Sequence[NewJob]], Awaitable[Sequence[JobRecord]]]
"""Records jobs, and returns what the journal knows of them, in their order."""

Draft: TypeAlias = tuple[Item, Planned | CometError | None]
"""An image, and its job or why it can't have one; None if its job is recorded already."""


@attrs.frozen(kw_only=True)
class RecordedJob:
    """One image whose job is in the journal, for `comet_async.CometSession.run_job`.

    Attributes:
        source: The image as it was named; a path is absolute.
        key: The key of its job, or None if it has none.
        outcome: Its outcome if its job need not be run: it is finished, its task failed earlier,
            the image already had the wanted shape, or can't be used. Otherwise None.
    """

    source: str = attrs.field(repr=repr_redacted)
    key: str | None = None
    outcome: Outcome | None = None


def can_be_run(job: NewJob, record: JobRecord) -> bool:
    """Return True if *job*, whose *record* the journal has, can be brought further."""
    if record.state in _ENDED:
        return False
    return record.state not in READY or job.dest is not None


def absolute(source: str) -> str:
    """Return a path from the root, for processes that work in another folder."""
    return source if url_scheme(source) or source == "-" else os.path.abspath(source)  # noqa: PTH100 - links stay as they are named


async def recorded(
    batch: Batch, items: AsyncGenerator[Item, None], record: Record
) -> AsyncGenerator[RecordedJob, None]:
    """Record the jobs of *items*, many in one transaction, and yield them.

    Args:
        batch: Loads and checks them.
        items: The images.
        record: Records jobs.

    Raises:
        JournalError: The journal can't be used.
    """
    recording: asyncio.Task[list[RecordedJob]] | None = None
    try:
        async with aclosing(_pages(batch, items)) as pages:
            async for page in pages:
                # While a page is written, the images of the next one are read.
                written, recording = recording, asyncio.create_task(_record(batch, page, record))
                for each in [] if written is None else await written:
                    yield each
        for each in [] if recording is None else await recording:
            yield each
    finally:
        if recording is not None:
            recording.cancel()
            await asyncio.gather(recording, return_exceptions=True)


async def _pages(
    batch: Batch, items: AsyncGenerator[Item, None]
) -> AsyncGenerator[list[Draft], None]:
    """Load and check *items*, several at a time; what is found in their files is remembered."""
    page: list[Draft] = []
    async with aclosing(in_parallel(items, partial(_draft, batch), batch.workers)) as drafts:
        async for draft in drafts:
            page.append(draft)
            if len(page) >= _PAGE:
                yield page
                page = []
    await batch.planner.memory.flush()
    if page:
        yield page


async def _draft(batch: Batch, item: Item) -> Draft:
    if item.record is not None or item.outcome is not None:
        return item, item.planned
    try:
        return item, await batch.planner.draft(item)
    except CometError as error:
        return item, error


async def _record(batch: Batch, page: Sequence[Draft], record: Record) -> list[RecordedJob]:
    found: list[RecordedJob] = []
    items: list[Item] = []
    for item, draft in page:
        if item.record is not None:
            found.append(RecordedJob(source=item.source, key=item.record.key))
        elif (outcome := item.outcome or await _own_outcome(batch, item, draft)) is not None:
            found.append(attrs.evolve(_ended(outcome), source=_source(item)))
        elif isinstance(draft, Planned):
            item = draft.item  # noqa: PLW2901 - with the name that an earlier run gave its result
            items.append(attrs.evolve(item, source=absolute(item.source), planned=draft))
    while items:
        items = await _record_planned(batch, items, record, found)
    return found


async def _record_planned(
    batch: Batch, items: Sequence[Item], record: Record, found: list[RecordedJob]
) -> list[Item]:
    """Add the jobs of *items* to *found*; return items whose images were bought again later."""
    planned: list[tuple[Planned, NewJob]] = []
    for item in await batch.planner.finished(items):
        if item.outcome is not None:
            found.append(_ended(item.outcome))
        elif item.planned is not None:
            job = attrs.evolve(batch.planner.as_job(item.planned), source=item.source)
            planned.append((attrs.evolve(item.planned, item=item), job))
    bought_again: list[Item] = []
    records = await _recorded([job for _, job in planned], record)
    for (plan, job), known in zip(planned, records, strict=True):
        if isinstance(known, CometError):
            found.append(_ended(from_error(job.source, known)))
            continue
        later = await batch.planner.bought_again(plan, known)
        if later is not None:
            bought_again.append(attrs.evolve(later.item, planned=later))
        else:
            outcome = None if can_be_run(job, known) else from_record(job.source, known)
            found.append(RecordedJob(source=job.source, key=job.key, outcome=outcome))
    return bought_again


async def _recorded(
    jobs: Sequence[NewJob], record: Record
) -> Sequence[JobRecord | IdempotencyConflictError]:
    try:
        return await record(jobs)
    except IdempotencyConflictError as error:
        if len(jobs) == 1:
            return [error]
    # One of them contradicts the journal. The others are recorded all the same.
    return [known for job in jobs for known in await _recorded([job], record)]


def _ended(outcome: Outcome) -> RecordedJob:
    return RecordedJob(source=outcome.source, key=outcome.external_task_id, outcome=outcome)


def _source(item: Item) -> str:
    """Return what an image is called; a path from the root."""
    given = () if item.request is None else item.request.images().values()
    in_memory = not all(isinstance(each, str | os.PathLike) for each in given)
    return item.source if in_memory else absolute(item.source)


def _can_be_found(image: SourceImage) -> bool:
    return (image.path or image.url or image.address) is not None


async def _own_outcome(
    batch: Batch, item: Item, draft: Planned | CometError | None
) -> Outcome | None:
    """Return the outcome of an image whose job another process can't run, or None."""
    try:
        if isinstance(draft, CometError):
            raise draft
        if draft is None:
            return None
        if draft.already_satisfied:
            return await batch.copy(draft)
        images = draft.images.values()
        if len(images) > 1 or not all(map(_can_be_found, images)):
            raise InputError(
                "a worker can't read images in memory, or several images",
                field="image",
                value=item.source,
                limit="one image: a file, a URL, or an address in a store",
            )
    except CometError as error:
        return from_error(item.source, error)
    return None
