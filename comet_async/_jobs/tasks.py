"""What a session's waiters poll: the server's tasks, and with them the jobs of its journals."""

from __future__ import annotations

import attrs

from comet_async._backoff import Backoff
from comet_async._http.api import Api, Submission
from comet_async._jobs.active import ActiveJobs
from comet_async._journal.transitions import check_task_of
from comet_async.clock import Clock
from comet_async.errors import SessionClosedError
from comet_async.models import Task, TaskPage
from comet_async.requests import kind_named
from comet_async.schedules import ScheduleLike


@attrs.define(eq=False)
class SessionTasks:
    """The tasks of a session's account; see `comet_async.waiter.TaskSource`.

    Any caller's poll may be the first to see the end of a job's task. So each end is recorded
    here, in the journal that has the job.

    Attributes:
        api: Where they are polled.
        schedule: When, for waiters without a schedule of their own.
        backoff: How long to wait after failures.
        journals: The jobs of the journals that are open.
        closed: True when the session was closed.
    """

    api: Api
    schedule: ScheduleLike
    backoff: Backoff
    journals: set[ActiveJobs] = attrs.field(factory=set, init=False)
    closed: bool = attrs.field(default=False, init=False)

    @property
    def clock(self) -> Clock:
        """The session's clock."""
        return self.api.clock

    def submission(self, task_id: str) -> Submission | None:
        """Return when this session submitted a task, if it did so lately."""
        return self.api.submissions.find(task_id)

    def check_open(self) -> None:
        """Refuse to work for a closed session.

        Raises:
            SessionClosedError: It was closed.
        """
        if self.closed:
            raise closed_error()

    async def poll(self, task_id: str, *, kind: str, timeout: float | None = None) -> Task:
        """Poll a task once, without retries.

        Raises:
            CometError: There was no good answer.
        """
        self.check_open()
        task = await self.api.get(task_id, kind=kind_named(kind), timeout=timeout)
        for active in list(self.journals):
            if (record := active.running(task_id)) is not None:
                check_task_of(record, task)
        if task.done:
            await self.observe(task)
        return task

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Read a page of the list once, without retries.

        Raises:
            CometError: There was no good answer.
        """
        self.check_open()
        page = await self.api.page(number, size, kind=kind_named(kind))
        for task in page.tasks:
            if task.done:
                await self.observe(task)
        return page

    async def observe(self, task: Task) -> None:
        """Record the end of a job's task, if *task* shows it."""
        for active in list(self.journals):
            await active.observe(task)


def closed_error() -> SessionClosedError:
    """Return the error of using a closed session."""
    return SessionClosedError("the session is closed", hint="nothing was sent; open a new session")
