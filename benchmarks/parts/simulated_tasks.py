"""Tasks that exist in memory only, on a clock that jumps: for waiting without a network."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from comet_async._wire.decode import Notification
from comet_async.errors import NotFoundError
from comet_async.models import ResultImage, Task, TaskPage, TaskStatus
from comet_async.testing import VirtualClock

_IMAGES = (ResultImage(index=0, url="https://example/a.png", task_id="t"),)


class _Jumps(selectors.SelectSelector):
    """A selector without files: what it waits for has come."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock."""
        if timeout is None:
            raise RuntimeError("nothing will ever happen here")
        self.now += timeout
        return []


class ExactLoop(asyncio.SelectorEventLoop):
    """A loop without a network, on which computing takes no time: a seed decides everything.

    `comet_async.testing.VirtualLoop` looks for real input before each jump, which is most of
    the time of a simulation that has none.
    """

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return the sum of all jumps."""
        return self._jumps.now


@attrs.define(eq=False)
class Life:
    """One task's life, in moments of the loop's clock."""

    id: str
    born: float
    ends: float


@attrs.define(eq=False)
class Tasks:
    """A server of tasks, and who calls back; a `TaskSource` and a `NotificationSource`.

    Attributes:
        clock: The loop's.
        schedule: None: the waiter's own.
        round_trip: Seconds of an exchange; the answer is made in the middle of it.
        lists: True for one whose list works.
        url: Where it would call back.
        lives: All tasks by id, oldest first.
        moments: When polls arrived: single ones, and pages.
    """

    clock: VirtualClock = attrs.field(factory=VirtualClock)
    schedule: None = None
    round_trip: float = 0.1
    lists: bool = False
    url: str = "https://example/hooks"
    lives: dict[str, Life] = attrs.field(factory=dict)
    moments: list[float] = attrs.field(factory=list)
    _listener: Callable[[Notification], object] | None = None

    def submit(self, duration: float) -> tuple[Task, Life]:
        """Take a task that will last *duration*; return its first snapshot and its life."""
        now = self.clock.monotonic()
        life = Life(f"t{len(self.lives)}", now, now + duration)
        self.lives[life.id] = life
        return self._snapshot(life, now), life

    def call_back(self, life: Life, after: float) -> None:
        """Report the end of a task, *after* seconds."""
        asyncio.get_running_loop().call_at(life.ends + after, self._report, life.id)

    def _report(self, task_id: str) -> None:
        if self._listener is not None:
            self._listener(Notification(task_id=task_id, status=TaskStatus.SUCCEED))

    def subscribe(self, listener: Callable[[Notification], object]) -> Callable[[], None]:
        """Call *listener* from now on."""
        self._listener = listener
        return lambda: None

    def last_notification(self, task_id: str, external_task_id: str | None = None) -> None:
        """Return nothing: no callback comes before the wait begins."""

    def _snapshot(self, life: Life, now: float) -> Task:
        done = now >= life.ends
        began = life.born + 0.1 * (life.ends - life.born)
        busy = now >= began
        status = TaskStatus.PROCESSING if busy else TaskStatus.SUBMITTED
        changed = life.ends if done else began if busy else life.born
        wall = self.clock.time() - self.clock.monotonic()
        return Task(
            id=life.id,
            status=TaskStatus.SUCCEED if done else status,
            images=_IMAGES if done else (),
            created_at=datetime.fromtimestamp(wall + life.born, UTC),
            updated_at=datetime.fromtimestamp(wall + changed, UTC),
        )

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Answer about one task."""
        del kind, timeout
        arrives = await self._exchange()
        return self._snapshot(self.lives[task_id], arrives)

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Answer with one page, newest first."""
        del kind
        arrives = await self._exchange()
        if not self.lists:
            raise NotFoundError("no such route", status=404)
        newest = reversed(self.lives.values())
        shown = itertools.islice(newest, (number - 1) * size, number * size)
        tasks = [self._snapshot(life, arrives) for life in shown]
        return TaskPage(tasks=tuple(tasks), number=number, size=size)

    async def _exchange(self) -> float:
        """Spend the time of an exchange; return when the poll arrives."""
        arrives = self.clock.monotonic() + self.round_trip / 2
        self.moments.append(arrives)
        await asyncio.sleep(self.round_trip)
        return arrives
