"""What can be asked of an account without paying anything."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

from comet_async.api import MAX_PAGE, MAX_PAGE_SIZE, Api
from comet_async.catalog import kind_named
from comet_async.clock import Clock
from comet_async.errors import NotFoundError
from comet_async.expand import EXPAND
from comet_async.models import Task, TaskPage
from comet_async.recovery import Lookup
from comet_async.retrying import ask


class TaskReader:
    """Asks for tasks; the half of a session that costs nothing."""

    _api: Api

    @property
    def clock(self) -> Clock:
        """The clock that the session goes by."""
        return self._api.clock

    async def get(self, task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Ask for a task by the server's id; what may pass is asked again a few times.

        Args:
            task_id: The server's id.
            kind: Which kind of task.

        Raises:
            NotFoundError: The server knows no such task.
            CometError: The server can't be asked.
        """
        question = functools.partial(self._api.get, task_id, kind=kind_named(kind))
        return await ask(question, clock=self.clock)

    async def find(self, external_task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Ask for a task by one's own id, in each way that gateways understand.

        Args:
            external_task_id: The id that was sent with the request.
            kind: Which kind of task.

        Raises:
            NotFoundError: No answer was about this id. On a gateway that does not pass ids
                on, that does not mean that there is no task.
            AuthenticationError: The key was refused.
            AccountError: The account may not ask.
        """
        lookup = Lookup(self._api)
        finding = await lookup.look(kind_named(kind), external_task_id, known=None)
        if finding.task is None:
            msg = f"no task was found under the external id {external_task_id!r}"
            hint = "the gateway may not look tasks up by external id: comet-async doctor tells"
            raise NotFoundError(msg, external_task_id=external_task_id, hint=hint)
        return finding.task

    async def list_tasks(
        self, *, kind: str = EXPAND.name, page_size: int = 30
    ) -> AsyncIterator[Task]:
        """Yield the account's tasks, page by page, in the server's order.

        Args:
            kind: Which kind of tasks.
            page_size: 1 to 500; 30 by default.

        Raises:
            CometError: A page can't be read. CometAPI documents no list.
        """
        for number in range(1, MAX_PAGE + 1):
            question = functools.partial(self._api.page, number, page_size, kind=kind_named(kind))
            page = await ask(question, clock=self.clock)
            for task in page.tasks:
                yield task
            if page.last:
                return

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Ask once for a task, without trying again; for `TaskWaiter`.

        Raises:
            CometError: There was no good answer.
        """
        return await self._api.get(task_id, kind=kind_named(kind), timeout=timeout)

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Ask once for a page of the list, without trying again; for `TaskWaiter`.

        Raises:
            CometError: There was no good answer.
        """
        return await self._api.page(number, min(size, MAX_PAGE_SIZE), kind=kind_named(kind))
