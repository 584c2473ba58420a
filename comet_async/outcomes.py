"""What became of one image, in the words that programs and people read."""

from __future__ import annotations

import enum
from decimal import Decimal
from pathlib import Path

import attrs

from comet_async._journal.records import JobRecord
from comet_async._journal.states import JobState
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    InputError,
    OutcomeUnknownError,
    RejectedError,
    ResultExpiredError,
    RouteUnavailableError,
    TaskFailedError,
)
from comet_async.models import Task, TaskStatus


class OutcomeStatus(enum.StrEnum):
    """How one image's job ended, or where it stands."""

    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    INVALID = "invalid"
    UNCERTAIN = "uncertain"
    PENDING = "pending"


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one image.

    Attributes:
        source: The image as it was named.
        status: ``done``; ``failed`` (the task failed), ``rejected`` (the API refused it),
            ``invalid`` (refused before sending), ``uncertain`` (it may be paid; see the
            error's hint), ``pending`` (not ended; running again goes on with it).
        task: The newest snapshot of its task, or None when there is none.
        files: What was saved, in the order of the images.
        error: Why it is not done.
        external_task_id: Our own id of its task; also its key in the journal.
        notes: What was done to the image before sending, one sentence each.
    """

    source: str
    status: OutcomeStatus
    task: Task | None = None
    files: tuple[Path, ...] = ()
    error: CometError | None = None
    external_task_id: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """True when the images are there."""
        return self.status is OutcomeStatus.DONE


def from_error(source: str, error: CometError) -> Outcome:
    """Return the outcome of a job that *error* kept from going on."""
    status = OutcomeStatus.PENDING
    if isinstance(error, InputError):
        status = OutcomeStatus.INVALID
    elif isinstance(
        error, RejectedError | AuthenticationError | AccountError | RouteUnavailableError
    ):
        # While a paid task is waited for, an account problem leaves it pending.
        status = OutcomeStatus.PENDING if error.task_id else OutcomeStatus.REJECTED
    elif isinstance(error, OutcomeUnknownError):
        status = OutcomeStatus.UNCERTAIN
    elif isinstance(error, ResultExpiredError):
        status = OutcomeStatus.FAILED
    return Outcome(
        source=source,
        status=status,
        error=error,
        external_task_id=error.external_task_id,
    )


def from_record(
    source: str, record: JobRecord, files: tuple[Path, ...], notes: tuple[str, ...]
) -> Outcome:
    """Return the outcome of a job that came as far as *record* says."""
    task = as_task(record)
    status, error = _ending(record, task)
    return Outcome(
        source=source,
        status=status,
        task=task,
        files=files,
        error=error,
        external_task_id=record.key,
        notes=notes,
    )


def _ending(record: JobRecord, task: Task | None) -> tuple[OutcomeStatus, CometError | None]:
    key, task_id = record.key, record.task_id
    match record.state:
        case JobState.FAILED:
            return OutcomeStatus.FAILED, TaskFailedError(
                f"the task failed: {record.message or 'no reason given'}",
                task=task,
                task_id=task_id,
                external_task_id=key,
                hint="it is not bought again by itself; mend the image, or use "
                "retry_failed=True (on the command line --retry-failed)",
            )
        case JobState.UNCERTAIN:
            return OutcomeStatus.UNCERTAIN, OutcomeUnknownError(
                f"it may have been accepted and paid: {record.message or 'the answer was lost'}",
                task_id=task_id,
                external_task_id=key,
                hint="it is looked at again, free, at each run; or decide with comet-async jobs",
            )
        case JobState.EXPIRED:
            return OutcomeStatus.FAILED, ResultExpiredError(
                "the result is no longer on the server", task_id=task_id, external_task_id=key
            )
        case JobState.ABANDONED:
            return OutcomeStatus.FAILED, RejectedError(
                "given up by hand", task_id=task_id, external_task_id=key
            )
        case _:
            return OutcomeStatus.DONE, None


def as_task(record: JobRecord) -> Task | None:
    """Return what the journal knows of the record's task, or None when it has none.

    The server's own times are not among that.
    """
    if record.task_id is None:
        return None
    states = {
        JobState.SUCCEEDED: TaskStatus.SUCCEED,
        JobState.SAVING: TaskStatus.SUCCEED,
        JobState.DONE: TaskStatus.SUCCEED,
        JobState.EXPIRED: TaskStatus.SUCCEED,
        JobState.FAILED: TaskStatus.FAILED,
    }
    images = tuple(
        image.as_result(task_id=record.task_id, kind=record.kind) for image in record.images
    )
    return Task(
        id=record.task_id,
        status=states.get(record.state, TaskStatus.SUBMITTED),
        message=record.message,
        external_task_id=record.key,
        images=images,
        units=None if record.units is None else Decimal(record.units),
        kind=record.kind,
        request_id=record.request_id,
    )
