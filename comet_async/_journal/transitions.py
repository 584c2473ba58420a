"""What a record becomes by each operation of a journal, and the errors that refuse one.

Both journals change records by these functions only, so they can't drift apart.
"""

from __future__ import annotations

import secrets
from operator import attrgetter
from typing import Any

import attrs

from comet_async._journal.keys import canonical, names_another
from comet_async._journal.records import CALLBACK, Changes, JobRecord, NewJob
from comet_async._journal.states import JobState, Move, check_move
from comet_async.errors import (
    DecodeError,
    DownloadError,
    IdempotencyConflictError,
    JournalError,
    StaleRecordError,
)
from comet_async.models import Task
from comet_async.secret import redact

_CHANGES = frozenset(Changes.__annotations__)
_FIELDS = tuple(field.name for field in attrs.fields(JobRecord))
_values = attrgetter(*_FIELDS)


def planned(job: NewJob, *, now: float) -> JobRecord:
    """Return the first record of *job*."""
    return JobRecord(
        key=job.key,
        kind=job.kind,
        account=job.account,
        state=JobState.PLANNED,
        params=job.params,
        n=job.n,
        source=job.source,
        image_sha=job.image_sha,
        created_at=now,
        updated_at=now,
    )


def replanned(known: JobRecord, job: NewJob, *, now: float) -> JobRecord:
    """Return *known* after *job* was planned again: *known* itself, unless it is incomplete.

    The account stays: it is compared with the session's own before anything is sent.

    Raises:
        IdempotencyConflictError: *job* is another request under the same key.
    """
    if not known.kind:  # from a recovered journal in which only the key was readable
        return _next(
            known,
            now,
            kind=job.kind,
            account=job.account,
            params=job.params,
            n=job.n,
            source=job.source,
            image_sha=job.image_sha,
        )
    if _request(known) != _request(job):
        raise IdempotencyConflictError(
            f"the key {job.key} was used for another request",
            field="external_task_id",
            value=job.key,
            hint="choose another one, or repeat the request as it was",
        )
    return known


def moved(
    record: JobRecord, new: JobState, *, now: float, changes: Changes
) -> tuple[Move, JobRecord]:
    """Return the move of *record* to *new* and the record after it.

    Raises:
        JournalError: There is no such move, or it is the one that `Journal.send` makes.
    """
    move = check_move(record.state, new)
    if new is JobState.SENDING:
        raise JournalError("only send() enters 'sending': it checks the limits")
    # What may be sent again is counted again when it is sent.
    run = None if new in {JobState.PLANNED, JobState.REJECTED} else record.run
    return move, _next(record, now, state=new, **{"run": run, **_cleaned(changes)})


def is_refunded(move: Move, before: JobRecord, after: JobRecord) -> bool:
    """Return True if a move takes the job out of its run's count.

    So does one to ``unknown`` without a run: the server had the request already.
    """
    refunded = move.unpaid or move.new is JobState.UNKNOWN
    return refunded and before.run is not None and after.run is None


def noted(record: JobRecord, *, now: float, changes: Changes) -> JobRecord:
    """Return *record* with *changes*."""
    return _next(record, now, **_cleaned(changes))


def sending(
    record: JobRecord, *, now: float, post_deadline: float, boot: str, run: str
) -> JobRecord:
    """Return *record* as it is while its request is on the way.

    Raises:
        JournalError: It is not planned.
    """
    check_move(record.state, JobState.SENDING)
    return _next(
        record,
        now,
        state=JobState.SENDING,
        boot=boot,
        run=run,
        attempt=record.attempt + 1,
        sent_at=now,
        post_deadline=post_deadline,
        # Details of the previous attempt must not be read as details of this one.
        message="",
        status=None,
        code=None,
        request_id=None,
    )


def stale(record: JobRecord, actual: JobRecord | None) -> StaleRecordError:
    """Return the error of a change that was based on *record* while *actual* holds."""
    found = f"{actual.state} ({actual.fence})" if actual else "nothing"
    return StaleRecordError(
        f"job {record.key} was expected as {record.state} ({record.fence}), found {found}",
        hint="another part of the program moved it; read the job again",
        task_id=record.task_id,
        external_task_id=record.key,
    )


def check_task_of(record: JobRecord, task: Task) -> None:
    """Refuse an answer to a poll of a job's task that is about another job of ours.

    A cache on the way may mix answers up. The other image must not be saved as this one's.

    Raises:
        DecodeError: It is.
    """
    if names_another(record.key, task.external_task_id):
        raise DecodeError(
            f"the answer about task {task.id} is about another job ({task.external_task_id})",
            path="$.data.task_info.external_task_id",
            sent=True,
            task_id=task.id,
            external_task_id=record.key,
        )


def unknown_key(key: str) -> JournalError:
    """Return the error of asking for a job that is not there."""
    return JournalError(f"the journal has no job {key}", external_task_id=key)


def unknown_destination(key: str, dest: str) -> JournalError:
    """Return the error of saving a file where none was planned."""
    return JournalError(f"job {key} has no destination {dest}", external_task_id=key)


def taken(record: JobRecord, name: str) -> DownloadError:
    """Return the error of saving a file as *name*, which another job's file has."""
    return DownloadError(
        f"{name} is the result of another image",
        task_id=record.task_id,
        external_task_id=record.key,
        hint="choose another folder",
    )


def closed() -> JournalError:
    """Return the error of using a journal after its end."""
    return JournalError("the journal is closed")


def _request(job: JobRecord | NewJob) -> tuple[str, int, str, str]:
    asked = {name: value for name, value in job.params.items() if name != CALLBACK}
    return job.kind, job.n, job.image_sha, canonical(asked)


def _next(record: JobRecord, now: float, **changes: Any) -> JobRecord:
    # As attrs.evolve does, which looks each field up by itself: four times the work.
    fields: dict[str, Any] = dict(zip(_FIELDS, _values(record), strict=True))
    fields.update(changes, fence=record.fence + 1, updated_at=now)
    return JobRecord(**fields)


def _cleaned(changes: Changes) -> Changes:
    """Return *changes* with texts from outside redacted."""
    if unknown := changes.keys() - _CHANGES:
        raise TypeError(f"not a change of a job: {', '.join(sorted(unknown))}")
    cleaned = changes.copy()
    if message := changes.get("message"):
        cleaned["message"] = redact(message)
    if note := changes.get("note"):
        cleaned["note"] = redact(note)
    return cleaned


def new_boot() -> str:
    """Return a name for one opening of a journal."""
    return secrets.token_hex(8)
