"""What happens to jobs and tasks, as frozen events for a hook and as log records.

`CometSession` and `TaskWaiter` call their ``on_event=`` with each event. The same events are log
records: those about jobs go to the logger ``comet_async`` (whatever concerns money at INFO or
WARNING), those about polls to ``comet_async.waiter``. No event holds a key, a request body or a
signed URL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import TypeAlias

import attrs

from comet_async._validation import check_call
from comet_async.models import Task, TaskStatus

_jobs = logging.getLogger("comet_async")
_waiter = logging.getLogger("comet_async.waiter")


@attrs.frozen(kw_only=True)
class Polled:
    """A task was polled, and the server answered.

    Attributes:
        task_id: The task.
        kind: The task's kind.
        status: The status in the answer.
        age: The task's age in seconds.
        seconds: How long the request took.
    """

    task_id: str
    kind: str
    status: TaskStatus | str
    age: float
    seconds: float


@attrs.frozen(kw_only=True)
class ListPolled:
    """A page of the server's list was read in place of many polls.

    Attributes:
        kind: The kind of the tasks.
        page: The page's number, from 1.
        tasks: How many tasks it shows.
        watched: How many of them are being waited for.
        seconds: How long the request took.
    """

    kind: str
    page: int
    tasks: int
    watched: int
    seconds: float


@attrs.frozen(kw_only=True)
class Changed:
    """A task's status changed.

    Attributes:
        task_id: The task.
        task: The new snapshot.
        previous: The status before; None if none was seen.
        delay: Seconds between the task's end and now, by the server's timestamps; None while
            the task is running.
    """

    task_id: str
    task: Task
    previous: TaskStatus | str | None
    delay: float | None = None


@attrs.frozen(kw_only=True)
class Retried:
    """A poll failed for a reason that does not concern the task; it will be repeated.

    Attributes:
        task_id: The task.
        kind: The task's kind.
        error: Name of the error's class.
        failures: How many polls failed in a row.
        wait: Seconds until the next poll, at the earliest.
    """

    task_id: str
    kind: str
    error: str
    failures: int
    wait: float


@attrs.frozen(kw_only=True)
class Notified:
    """A notification (callback) moved a task's next poll to now.

    Attributes:
        task_id: The task.
    """

    task_id: str


@attrs.frozen(kw_only=True)
class JobEvent:
    """Something that happened to a paid job.

    Attributes:
        key: The job's key, which is the task's ``external_task_id``.
        kind: The kind of task, such as ``"expand"``.
        task_id: The server's id, once it is known.
    """

    key: str
    kind: str
    task_id: str | None = None


@attrs.frozen(kw_only=True)
class SlotAwaited(JobEvent):
    """A job has been waiting for a slot for several seconds.

    The log has one line for all jobs that wait, at WARNING if a call such as ``expand`` waits and
    the journal is not shared.

    Attributes:
        seconds: For how long.
        used: Slots in use.
        limit: Slots there are.
        holders: Some of the jobs that hold slots: their keys, with what is known of them.
    """

    seconds: float
    used: int
    limit: int
    holders: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Submitted(JobEvent):
    """The server accepted the request: it is billed.

    Attributes:
        n: How many images were ordered.
        seconds: How long the request took.
    """

    n: int
    seconds: float


@attrs.frozen(kw_only=True)
class NotAccepted(JobEvent):
    """The request did not reach the server, or was turned away for now: it is sent again.

    Nothing was billed for it.

    Attributes:
        error: Name of the error's class.
        message: What happened.
    """

    error: str
    message: str


@attrs.frozen(kw_only=True)
class Duplicate(JobEvent):
    """The server knew the job's key from an earlier request: nothing is billed again."""


@attrs.frozen(kw_only=True)
class AnswerLost(JobEvent):
    """The answer to a paid request was lost; it may have been accepted and will be looked up.

    Attributes:
        error: Name of the error's class.
        message: What happened.
    """

    error: str
    message: str


@attrs.frozen(kw_only=True)
class LookedUp(JobEvent):
    """The server was asked what became of a request.

    Attributes:
        found: True if its task was found, False if it is proven absent, None if neither.
    """

    found: bool | None


@attrs.frozen(kw_only=True)
class Recovered(JobEvent):
    """The task of a request whose answer was lost was found; it is billed once.

    There is no `Submitted` for it.

    Attributes:
        n: How many images were ordered.

            .. versionadded:: 0.2.0
    """

    n: int


@attrs.frozen(kw_only=True)
class Resubmitted(JobEvent):
    """A request that the server provably never accepted is sent again.

    Attributes:
        attempt: How often it has been sent before.
    """

    attempt: int


@attrs.frozen(kw_only=True)
class Saved(JobEvent):
    """All images of a job are saved.

    Attributes:
        files: The files on this machine, in the order of the images.
        urls: The addresses in a store, likewise.
        seconds: How long downloading and saving took.
    """

    files: tuple[Path, ...]
    urls: tuple[str, ...] = ()
    seconds: float


@attrs.frozen(kw_only=True)
class Failed(JobEvent):
    """A job ended without a result, or can't continue now.

    Attributes:
        error: Name of the error's class.
        message: What happened.
        sent: Whether the request was sent; see `CometError.sent`.
    """

    error: str
    message: str
    sent: bool | None


PollEvent: TypeAlias = Polled | ListPolled | Changed | Retried | Notified
Event: TypeAlias = PollEvent | JobEvent
"""What an ``on_event=`` hook is called with."""

_LEVELS: dict[type[Event], int] = {
    SlotAwaited: logging.INFO,
    NotAccepted: logging.INFO,
    Submitted: logging.INFO,
    Duplicate: logging.INFO,
    AnswerLost: logging.WARNING,
    Recovered: logging.INFO,
    Resubmitted: logging.WARNING,
    Saved: logging.INFO,
    Failed: logging.WARNING,
    Retried: logging.INFO,
}


class EventSink:
    """Passes events to a hook and to the log.

    Each log record carries the event's name as ``comet_event`` and its fields as
    ``comet_<field>``. A hook that raises is logged once and not called again.

    Args:
        hook: Called with each event, in the event loop; None for nothing.

    Raises:
        InputError: It can't be called.
    """

    def __init__(self, hook: Callable[[Event], object] | None = None) -> None:
        check_call("on_event", hook)
        self._hook = hook

    @property
    def listening(self) -> bool:
        """True if a poll's events reach anyone; otherwise they need not be made."""
        return self._hook is not None or _waiter.isEnabledFor(logging.DEBUG)

    def emit(
        self, event: Event, *, level: int | None = None, context: Context | None = None
    ) -> None:
        """Pass *event* on.

        Args:
            event: The event.
            level: The level of the log record, if not the event's usual one.
            context: Where to run the hook and the log's handlers; the current one by default.
        """
        if context is not None:  # a copy: a hook may cause another event
            context.copy().run(self._pass_on, event, level)
        else:
            self._pass_on(event, level)

    def _pass_on(self, event: Event, level: int | None) -> None:
        if level is None:
            level = _LEVELS.get(type(event), logging.DEBUG)
        logger = _logger(event)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", _text(event), extra=_fields(event))
        self.call(event)

    def call(self, event: Event) -> None:
        """Call the hook with *event*, unless it has raised before; log nothing else."""
        if self._hook is None:
            return
        try:
            self._hook(event)
        except Exception:
            # A display that fails must not cost a paid result.
            self._hook = None
            logger = _logger(event)
            logger.exception("on_event raised an exception and will not be called again")


def _logger(event: Event) -> logging.Logger:
    return _jobs if isinstance(event, JobEvent) else _waiter


def _fields(event: Event) -> dict[str, object]:
    # Not the Task itself: its raw answer holds signed URLs.
    names = (field.name for field in attrs.fields(type(event)) if field.name != "task")
    fields: dict[str, object] = {f"comet_{name}": getattr(event, name) for name in names}
    return fields | {"comet_event": type(event).__name__.lower()}


def _text(event: Event) -> str:
    return _job_text(event) if isinstance(event, JobEvent) else _poll_text(event)


def _poll_text(event: PollEvent) -> str:
    match event:
        case Polled():
            return f"task {event.task_id} is {event.status} after {event.age:.1f} s"
        case ListPolled():
            return f"page {event.page} of the list shows {event.watched} tasks being waited for"
        case Changed():
            return f"task {event.task_id} is now {event.task.status}"
        case Retried():
            return f"task {event.task_id}: {event.error}; polling again in {event.wait:.1f} s"
        case Notified():
            return f"task {event.task_id}: a notification arrived; polling now"


def _job_text(event: JobEvent) -> str:  # noqa: C901, PLR0911 - one line for each event
    job = f"{event.key} (task {event.task_id})" if event.task_id else event.key
    match event:
        case SlotAwaited():
            held = f"{event.used} of {event.limit} are held by {', '.join(event.holders)}"
            return f"{job} has been waiting for a slot for {event.seconds:.0f} s: {held}"
        case Submitted():
            return f"{job} was accepted and is billed"
        case NotAccepted():
            return f"{job} was not accepted ({event.message}); trying again"
        case Duplicate():
            return f"{job} was accepted earlier; nothing is billed again"
        case AnswerLost():
            return f"the answer to {job} was lost ({event.message}); looking it up"
        case LookedUp():
            found = {True: "found", False: "proven absent", None: "not found, which proves nothing"}
            return f"{job} was looked up: {found[event.found]}"
        case Recovered():
            return f"{job} was found on the server; it is billed once"
        case Resubmitted():
            return f"{job} is sent again: the server never accepted it"
        case Saved():
            return f"{job} is saved: {', '.join(map(str, (*event.files, *event.urls)))}"
        case Failed():
            return f"{job}: {event.error}: {event.message}"
        case _:
            return job
