"""What a waiter tells while it works: frozen events for a hook, and the same as log records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import attrs

from comet_async.models import Task, TaskStatus

logger = logging.getLogger("comet_async.waiter")


@attrs.frozen(kw_only=True)
class Polled:
    """One task was asked about, and the server answered.

    Attributes:
        task_id: The task.
        kind: The task's kind.
        status: What the answer said.
        age: The task's age, seconds.
        seconds: How long the exchange took.
    """

    task_id: str
    kind: str
    status: TaskStatus | str
    age: float
    seconds: float


@attrs.frozen(kw_only=True)
class Folded:
    """One page of the server's list stood for many polls.

    Attributes:
        kind: The kind of the tasks.
        page: The page's number, from 1.
        tasks: How many tasks it showed.
        watched: How many of them are waited for.
        seconds: How long the exchange took.
    """

    kind: str
    page: int
    tasks: int
    watched: int
    seconds: float


@attrs.frozen(kw_only=True)
class Changed:
    """A task moved to another state.

    Attributes:
        task_id: The task.
        task: The new snapshot.
        previous: The state before; None when none was seen.
        delay: Seconds between the task's end and this moment, as well as the server's times
            tell; None while the task goes on.
    """

    task_id: str
    task: Task
    previous: TaskStatus | str | None
    delay: float | None = None


@attrs.frozen(kw_only=True)
class Retried:
    """A question failed for a reason that is none of the task's; it will be asked again.

    Attributes:
        task_id: The task.
        kind: The task's kind.
        error: Name of the error's class.
        failures: How many answers in a row failed.
        wait: Seconds until the next question, at the earliest.
    """

    task_id: str
    kind: str
    error: str
    failures: int
    wait: float


@attrs.frozen(kw_only=True)
class Notified:
    """A callback moved a task's next poll to now.

    Attributes:
        task_id: The task.
    """

    task_id: str


Event: TypeAlias = Polled | Folded | Changed | Retried | Notified
"""What an ``on_event=`` hook is called with."""

_LEVELS: dict[type[Event], int] = {Retried: logging.INFO}


class EventSink:
    """Passes events to a hook and to the log ``comet_async.waiter``.

    Each log record carries the event's name as ``comet_event`` and its fields as
    ``comet_<field>``. A hook that raises is logged once and then left alone.

    Args:
        hook: What is called with each event, in the event loop; None for nothing.
    """

    def __init__(self, hook: Callable[[Event], object] | None) -> None:
        self._hook = hook

    @property
    def listening(self) -> bool:
        """True when somebody wants to know: a poll should not make events for nobody."""
        return self._hook is not None or logger.isEnabledFor(logging.DEBUG)

    def tell(self, event: Event) -> None:
        """Pass *event* on."""
        level = _LEVELS.get(type(event), logging.DEBUG)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", _text(event), extra=_fields(event))
        if self._hook is None:
            return
        try:
            self._hook(event)
        except Exception:
            # Somebody else's display must not cost a paid result.
            self._hook = None
            logger.exception("on_event raised and is not called any more")


def _fields(event: Event) -> dict[str, object]:
    # A Task is left out: its raw answer holds signed addresses.
    names = (field.name for field in attrs.fields(type(event)) if field.name != "task")
    fields: dict[str, object] = {f"comet_{name}": getattr(event, name) for name in names}
    return fields | {"comet_event": type(event).__name__.lower()}


def _text(event: Event) -> str:
    match event:
        case Polled():
            return f"{event.task_id} is {event.status}, {event.age:.1f} s old"
        case Folded():
            return f"page {event.page} of the list shows {event.watched} tasks waited for"
        case Changed():
            return f"{event.task_id} is now {event.task.status}"
        case Retried():
            return f"{event.task_id}: {event.error}, asking again in {event.wait:.1f} s"
        case Notified():
            return f"{event.task_id}: a callback came, asking now"
