"""What a waiter asks and what its parts share: interfaces and a few counters."""

from __future__ import annotations

from typing import Protocol

import attrs

from comet_async.agenda import Watched
from comet_async.clock import Clock
from comet_async.events import Teller
from comet_async.models import Task, TaskPage
from comet_async.pacing import Pacer
from comet_async.patience import Patience
from comet_async.retrying import ScheduleLike


class TaskSource(Protocol):
    """What a waiter asks; `CometSession` is one."""

    @property
    def clock(self) -> Clock:
        """The clock that deadlines and ages are measured with."""
        ...

    @property
    def schedule(self) -> ScheduleLike:
        """When to ask, for waiters that are not told."""
        ...

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Ask once for a task, without trying again.

        Args:
            task_id: The task.
            kind: Its kind.
            timeout: Seconds for the exchange; the session's own limit when None.

        Raises:
            CometError: There was no good answer.
        """
        ...

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Ask once for a page of the list, without trying again.

        Raises:
            CometError: There was no good answer.
        """
        ...


class Shortcut(Protocol):
    """Another way to learn about tasks of one kind than asking about each."""

    def takes(self, entry: Watched, now: float) -> bool:
        """Take a due task over; False to have it asked about by itself."""
        ...

    def pace(self, entry: Watched) -> float:
        """Return how many times denser than one by one the questions about it should be."""
        ...

    def asked(self, entry: Watched, task: Task) -> None:
        """Compare the answer about one task with what the shortcut showed before."""
        ...

    def cancel(self) -> None:
        """Stop: nobody waits any more."""
        ...


@attrs.define(eq=False)
class Counters:
    """What a waiter has done so far; `TaskWaiter` describes each."""

    polls: int = 0
    list_calls: int = 0
    hints: int = 0
    retries: int = 0
    finished: int = 0
    delay_total: float = 0.0
    delay_longest: float = 0.0


@attrs.define(eq=False, kw_only=True)
class Shared:
    """What the pollers of one waiter have in common, whatever loop they run in.

    Attributes:
        source: What is asked.
        pacer: When.
        patience: What is borne.
        teller: Who is told.
        concurrency: Questions at a time in one loop.
        named: True to find tasks by external id too.
        counters: What was done.
    """

    source: TaskSource
    pacer: Pacer
    patience: Patience
    teller: Teller
    concurrency: int
    named: bool
    counters: Counters = attrs.field(factory=Counters)
