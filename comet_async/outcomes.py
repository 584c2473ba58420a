"""What became of one image, in the words that programs and people read."""

from __future__ import annotations

import enum
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs

from comet_async._journal.records import JobRecord
from comet_async._journal.states import READY, JobState
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConfigError,
    InputError,
    OutcomeUnknownError,
    RejectedError,
    ResultExpiredError,
    ResultMissingError,
    RouteUnavailableError,
    TaskFailedError,
)
from comet_async.models import Task, TaskStatus
from comet_async.secret import repr_redacted
from comet_async.stores import Place, addresses_of, files_of


class OutcomeStatus(enum.StrEnum):
    """How one image's job ended, or where it stands."""

    DONE = "done"
    """The images are there; their files, too, if any were wanted."""
    FAILED = "failed"
    """The task failed, its result has expired, or you abandoned it."""
    REJECTED = "rejected"
    """The API refused the request; nothing was billed."""
    INVALID = "invalid"
    """Refused before anything was sent."""
    UNCERTAIN = "uncertain"
    """It may have been billed, and no lookup can settle it; see the error's hint."""
    PENDING = "pending"
    """Not ended; running again continues with it."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one image.

    Attributes:
        source: The image as it was named.
        status: How it ended, or where it stands.
        task: The newest snapshot of its task, or None when there is none.
        files: What was saved on this machine, in the order of the images.
        urls: What was saved in a store, as addresses such as ``s3://bucket/wide/dog.png``.
        error: Why it is not done; None if it is, or if nothing went wrong so far.
        external_task_id: Our own id of its task; also its key in the journal.
        notes: What was done to the image before sending, one sentence each.
        already_there: True when an earlier run had saved its files, and they are still there.
    """

    source: str = attrs.field(repr=repr_redacted)
    status: OutcomeStatus
    task: Task | None = None
    files: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()
    error: CometError | None = None
    external_task_id: str | None = None
    notes: tuple[str, ...] = ()
    already_there: bool = False

    @property
    def done(self) -> bool:
        """True when the images are there."""
        return self.status is OutcomeStatus.DONE

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as a dictionary for JSON: for an API's answer, a log or a queue.

        Its keys are the attributes' names; ``task`` and ``error`` are as `Task.as_dict` and
        `CometError.as_dict` return them, or None. The task holds signed URLs.
        """
        return {
            "source": self.source,
            "status": str(self.status),
            "task": None if self.task is None else self.task.as_dict(),
            "files": [str(path) for path in self.files],
            "urls": list(self.urls),
            "error": None if self.error is None else self.error.as_dict(),
            "external_task_id": self.external_task_id,
            "notes": list(self.notes),
            "already_there": self.already_there,
        }


def from_error(source: str, error: CometError, *, task: Task | None = None) -> Outcome:
    """Return the outcome of a job that *error* kept from continuing.

    Args:
        source: The image as it was named.
        error: Why it can't continue now.
        task: The newest snapshot of its task, if it has one.
    """
    status = OutcomeStatus.PENDING
    if isinstance(error, InputError | ConfigError):
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
        task=task,
        error=error,
        external_task_id=error.external_task_id,
    )


def from_record(
    source: str,
    record: JobRecord,
    saved: Collection[Place] = (),
    notes: tuple[str, ...] = (),
    *,
    task: Task | None = None,
    already_there: bool = False,
) -> Outcome:
    """Return the outcome of a job that came as far as *record* says.

    Args:
        source: The image as it was named.
        record: The job.
        saved: Where its images were saved.
        notes: What was done to the image before sending.
        task: The newest snapshot of its task; by default what the journal knows of it.
        already_there: Whether nothing had to be fetched.
    """
    task = task or as_task(record)
    status, error = _ending(record, task)
    if record.state in READY and 0 < len(record.images) < record.n:
        notes = (*notes, f"the server made {len(record.images)} of {record.n} images")
    return Outcome(
        source=source,
        status=status,
        task=task,
        files=files_of(saved),
        urls=addresses_of(saved),
        error=error,
        external_task_id=record.key,
        notes=notes,
        already_there=already_there,
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
                hint="change the image or the prompt; with a journal, only a run with "
                "retry_failed=True buys it again",
            )
        case JobState.UNKNOWN | JobState.UNCERTAIN:
            return OutcomeStatus.UNCERTAIN, OutcomeUnknownError(
                f"request {key} may have been accepted and billed: "
                f"{record.message or 'the answer was lost'}",
                task_id=task_id,
                external_task_id=key,
                status=record.status,
                code=record.code,
                request_id=record.request_id,
                sent=True,
                hint=f"do not submit it again: look {key} up later; with a journal each run does "
                "that, free of charge",
            )
        case JobState.EXPIRED:
            return OutcomeStatus.FAILED, ResultExpiredError(
                "the result is no longer on the server", task_id=task_id, external_task_id=key
            )
        case JobState.ABANDONED:
            return OutcomeStatus.FAILED, RejectedError(
                "it was abandoned by hand", task_id=task_id, external_task_id=key
            )
        case _:
            return _reached(record, task)


def _reached(record: JobRecord, task: Task | None) -> tuple[OutcomeStatus, CometError | None]:
    """Return the ending of a job that nothing went wrong with."""
    if record.state not in READY:
        return OutcomeStatus.PENDING, None
    if record.images:
        return OutcomeStatus.DONE, None
    return OutcomeStatus.PENDING, ResultMissingError(
        "the task succeeded, but shows no image that can be read",
        task=task,
        task_id=record.task_id,
        external_task_id=record.key,
        hint="it is billed; the next run looks again",
    )


_STATUSES = {
    JobState.SUCCEEDED: TaskStatus.SUCCEED,
    JobState.SAVING: TaskStatus.SUCCEED,
    JobState.DONE: TaskStatus.SUCCEED,
    JobState.EXPIRED: TaskStatus.SUCCEED,
    JobState.FAILED: TaskStatus.FAILED,
}


def as_task(record: JobRecord) -> Task | None:
    """Return what the journal knows of the record's task, or None when it has none.

    The server's own times are not among that.
    """
    if record.task_id is None:
        return None
    images = tuple(
        image.as_result(task_id=record.task_id, kind=record.kind) for image in record.images
    )
    return Task(
        id=record.task_id,
        status=_STATUSES.get(record.state, TaskStatus.SUBMITTED),
        message=record.message,
        external_task_id=record.key,
        images=images,
        units=None if record.units is None else Decimal(record.units),
        kind=record.kind,
        request_id=record.request_id,
    )
