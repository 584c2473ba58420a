"""A server of tasks in memory, for tests of whoever waits: every answer and fault is scripted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from comet_async._http.api import Submission
from comet_async.errors import NotFoundError
from comet_async.models import ResultImage, Task, TaskPage, TaskStatus
from comet_async.schedules import ScheduleLike
from comet_async.testing import VirtualClock

Fault = Callable[[str, int], BaseException | Task | None]
"""What a poll gets instead of the truth: by task id and number of the poll, from 1."""

IMAGES = (ResultImage(index=0, url="https://cdn.example/a.png"),)
"""What a task that succeeded shows."""


@attrs.define(eq=False)
class Script:
    """One task's life; moments are the loop's."""

    id: str
    born: float
    started: float
    ends: float
    failed: bool = False
    external_task_id: str | None = None


@attrs.define(eq=False)
class TaskServer:
    """Answers polls as a server with these tasks would; a `TaskSource`.

    Attributes:
        clock: The loop's.
        latency: Seconds that an exchange takes; None answers without a turn of the loop.
        fault: What goes wrong; nothing by default.
        ahead: Seconds that our wall clock is ahead of the server's.
        submits: True if its tasks count as submitted by this session.
        lists: What a list call does: "off" (it fails), "on", "empty", "stale" (as it was at first).
        asked: Each poll that arrived: when, and for which task.
        pages: Each list call that arrived: when, number, size.
        busy: How many exchanges go on now, and at most did.
    """

    clock: VirtualClock = attrs.field(factory=VirtualClock)
    schedule: ScheduleLike = None
    latency: float | None = 0.05
    fault: Fault = lambda _id, _number: None
    ahead: float = 0.0
    submits: bool = False
    lists: str = "off"
    hidden: frozenset[str] = frozenset()
    has_times: bool = True
    scripts: dict[str, Script] = attrs.field(factory=dict)
    polled: list[tuple[float, str]] = attrs.field(factory=list)
    pages: list[tuple[float, int, int]] = attrs.field(factory=list)
    timeouts: list[float | None] = attrs.field(factory=list)
    busy: int = 0
    busiest: int = 0
    _counts: Counter[str] = attrs.field(factory=Counter)

    def submit(
        self,
        duration: float,
        *,
        task_id: str | None = None,
        failed: bool = False,
        starts: float = 0.1,
        age: float = 0.0,
        external_task_id: str | None = None,
    ) -> Task:
        """Take a task that will last *duration*; return its first snapshot.

        Args:
            duration: Seconds to its end.
            task_id: Its id; counted up by default.
            failed: End it as failed.
            starts: Share of its life after which it is ``processing``.
            age: How long ago it was created.
            external_task_id: Our id for it.
        """
        now = self.clock.monotonic() - age
        task_id = task_id or f"t{len(self.scripts)}"
        script = Script(
            task_id, now, now + starts * duration, now + duration, failed, external_task_id
        )
        self.scripts[task_id] = script
        return self.snapshot(script, now)

    def finished(self, duration: float) -> Task:
        """Return the last snapshot of a new task that lasted *duration*, and ended just now."""
        task = self.submit(duration, age=duration)
        return self.snapshot(self.scripts[task.id], self.clock.monotonic())

    def snapshot(self, script: Script, now: float) -> Task:
        """Return *script*'s task as it is at *now*."""
        status, changed = TaskStatus.SUBMITTED, script.born
        if now >= script.ends:
            status = TaskStatus.FAILED if script.failed else TaskStatus.SUCCEED
            changed = script.ends
        elif now >= script.started:
            status, changed = TaskStatus.PROCESSING, script.started
        return Task(
            id=script.id,
            status=status,
            message="too dark" if status is TaskStatus.FAILED else "",
            images=IMAGES if status is TaskStatus.SUCCEED else (),
            created_at=self._moment(script.born),
            updated_at=self._moment(changed),
            external_task_id=script.external_task_id,
            raw={"task_id": script.id},
        )

    def _moment(self, moment: float) -> datetime | None:
        if not self.has_times:
            return None
        wall = self.clock.time() - (self.clock.monotonic() - moment) - self.ahead
        return datetime.fromtimestamp(wall, UTC)

    def submission(self, task_id: str) -> Submission | None:
        """Return when the task was submitted, if that was done here."""
        if not self.submits or task_id not in self.scripts:
            return None
        born = self.scripts[task_id].born
        return Submission(born - 0.05, born + 0.05)

    @property
    def polls(self) -> int:
        """How many polls arrived."""
        return len(self.polled)

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Answer about one task."""
        del kind
        now = self.clock.monotonic()
        self.polled.append((now, task_id))
        self.timeouts.append(timeout)
        self._counts[task_id] += 1
        wrong = self.fault(task_id, self._counts[task_id])
        await self._exchange()
        if isinstance(wrong, BaseException):
            raise wrong
        if wrong is not None:
            return wrong
        if task_id not in self.scripts:
            raise NotFoundError(f"no task {task_id}", status=404)
        return self.snapshot(self.scripts[task_id], now)

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Answer with one page, newest first."""
        del kind
        now = self.clock.monotonic()
        self.pages.append((now, number, size))
        await self._exchange()
        if self.lists == "off":
            raise NotFoundError("no such route", status=404)
        if self.lists == "broken":
            raise ValueError("a bug somewhere")
        if self.lists == "hangs":
            await asyncio.sleep(1000)
        seen = -1.0 if self.lists == "stale" else now
        shown = [script for script in self.scripts.values() if script.id not in self.hidden]
        newest = sorted(shown, key=lambda script: -script.born) if self.lists != "empty" else []
        tasks = [self.snapshot(script, seen) for script in newest]
        start = (number - 1) * size
        return TaskPage(tasks=tuple(tasks[start : start + size]), number=number, size=size)

    async def _exchange(self) -> None:
        if self.latency is None:
            return
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.busy -= 1
