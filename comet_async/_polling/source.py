"""What a waiter polls: a `CometSession`, or any object with the same few methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from comet_async.clock import Clock
from comet_async.models import Task, TaskPage
from comet_async.schedules import ScheduleLike

if TYPE_CHECKING:
    from comet_async._http.api import Submission


class TaskSource(Protocol):
    """What a waiter polls; `CometSession` is one.

    Two more things are used if they are there: the method ``submission(task_id)`` returns when
    the task was submitted here, if it was; the attribute ``closed`` is True once nothing can be
    polled any more.
    """

    @property
    def clock(self) -> Clock:
        """The clock that deadlines and ages are measured with."""
        ...

    @property
    def schedule(self) -> ScheduleLike:
        """When to poll, for waiters without a schedule of their own."""
        ...

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Poll a task once, without trying again.

        Args:
            task_id: The task.
            kind: Its kind.
            timeout: Seconds for the exchange; the session's own limit when None.

        Raises:
            CometError: There was no good answer.
        """
        ...

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Get a page of the list once, without trying again.

        Raises:
            CometError: There was no good answer.
        """
        ...


def submission_of(source: TaskSource, task_id: str) -> Submission | None:
    """Return when the task was submitted through *source*, if it knows."""
    find: Callable[[str], Submission | None] | None = getattr(source, "submission", None)
    return None if find is None else find(task_id)


def is_closed(source: TaskSource) -> bool:
    """Return True if *source* says that it was closed."""
    return bool(getattr(source, "closed", False))
