"""Tasks and their life: submitted, processing, succeed or failed; on the sandbox's own clock.

Asking never changes a task. What changes it is time, and the images being ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import attrs

from comet_async.clock import Clock
from comet_async.sandbox._api.checks import Kind, Order
from comet_async.sandbox._api.ids import Ids
from comet_async.sandbox._api.refusals import RefusalError
from comet_async.sandbox.options import Options, Profile

RISK = "Failure to pass the risk control system"
BAD_PIXELS = "Image pixel is invalid"
UNREACHABLE = "Something went wrong when we tried to get the contents of the file."
BROKEN = "The task failed for an internal reason"

logger = logging.getLogger(__name__)


class BadImageError(Exception):
    """The task can't start from this image; the text is what the service says."""


@attrs.define(eq=False, kw_only=True)
class SandboxTask:
    """One task.

    Attributes:
        id: The service's id.
        kind: What kind of task.
        order: What was asked for; without the images' bytes once they are no longer needed.
        profile: Through which gateway it came.
        created_ms: When it was accepted, in milliseconds since 1970.
        updated_ms: When its status last changed.
        started_ms: When it went from ``submitted`` to ``processing``; 0 before.
        status: Its status word.
        message: Why it failed.
        polls: How many answers told its status.
        engine: What painted its images.
    """

    id: str
    kind: Kind
    order: Order = attrs.field(repr=False)
    profile: Profile
    created_ms: int
    updated_ms: int
    started_ms: int = 0
    status: str = "submitted"
    message: str = ""
    polls: int = 0
    engine: str = ""

    @property
    def external_id(self) -> str:
        """The client's own id, or empty."""
        return self.order.external_task_id

    @property
    def done(self) -> bool:
        """True once nothing changes any more."""
        return self.status in {"succeed", "failed"}


class Maker(Protocol):
    """What makes a task's images."""

    async def __call__(self, task: SandboxTask) -> str:
        """Make and keep the images of *task*; return the engine's name.

        Raises:
            BadImageError: The task must fail.
        """
        ...


@attrs.define(eq=False, kw_only=True)
class Tasks:
    """All tasks of the account.

    Args:
        clock: Where time comes from.
        ids: Where ids and durations come from.
        options: The sandbox's switches.
        speed: How many times faster than real the tasks are.
        limit: How many images may be in flight; None for any number.
        make: What makes the images.
        changed: Called after each change of a task, its creation included.
    """

    clock: Clock
    ids: Ids
    options: Options
    speed: float
    limit: int | None
    make: Maker
    changed: Callable[[SandboxTask], None]
    _by_id: dict[str, SandboxTask] = attrs.field(factory=dict, init=False)
    _by_external_id: dict[str, SandboxTask] = attrs.field(factory=dict, init=False)
    _by_kind: dict[str, list[SandboxTask]] = attrs.field(factory=dict, init=False)
    _lives: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    in_flight: int = attrs.field(default=0, init=False)
    """Images of tasks that have not ended."""

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[SandboxTask]:
        """Return the tasks in order of creation."""
        return list(self._by_id.values())

    def get(self, task_id: str) -> SandboxTask | None:
        """Return the task with the service's id *task_id*."""
        return self._by_id.get(task_id)

    def find(self, external_id: str) -> SandboxTask | None:
        """Return the newest task with the client's id *external_id*."""
        return self._by_external_id.get(external_id)

    def visible(self, task: SandboxTask) -> bool:
        """Whether questions find the task already."""
        return self._now_ms() >= task.created_ms + round(self.options.not_found_for * 1000)

    def page(self, kind: Kind, number: int, size: int) -> list[SandboxTask]:
        """Return one page of the tasks of *kind*, in the order that the switch asks for."""
        listed = self._by_kind.get(kind.name, [])
        if self.options.not_found_for:
            listed = [task for task in listed if self.visible(task)]
        start = (number - 1) * size
        if self.options.list_order == "newest":
            end = max(0, len(listed) - start)
            return listed[max(0, end - size) : end][::-1]
        return listed[start : start + size]

    def admit(self, order: Order) -> None:
        """Check what depends on the account and on the words of the prompt.

        Raises:
            RefusalError: The task may not be created.
        """
        name = order.external_task_id
        if name and self.options.unique_external_ids and name in self._by_external_id:
            raise RefusalError(1201, f"external_task_id '{name}' already exists")
        if any(word in order.prompt for word in self.options.blocked_words):
            raise RefusalError(1301)
        if self.limit is not None and self.in_flight + order.n > self.limit:
            raise RefusalError(1303)

    def create(self, kind: Kind, order: Order, profile: Profile) -> SandboxTask:
        """Create a task and start its life; the caller has admitted it."""
        now = self._now_ms()
        task = SandboxTask(
            id=self.ids.task_id(now),
            kind=kind,
            order=order,
            profile=profile,
            created_ms=now,
            updated_ms=now,
        )
        self._by_id[task.id] = task
        self._by_kind.setdefault(kind.name, []).append(task)
        if task.external_id:
            self._by_external_id[task.external_id] = task
        self.in_flight += order.n
        self.changed(task)
        life = asyncio.create_task(self._live(task), name=f"sandbox task {task.id}")
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return task

    async def close(self) -> None:
        """Stop all lives where they are."""
        lives = list(self._lives)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _now_ms(self) -> int:
        return round(self.clock.time() * 1000)

    async def _live(self, task: SandboxTask) -> None:
        total = self.ids.between(self.options.task_seconds)
        waiting = min(total, self.ids.between(self.options.submitted_seconds))
        born = self.clock.monotonic()
        await self._sleep_until(born, waiting)
        task.started_ms = self._now_ms()
        self._change(task, "processing")
        try:
            task.engine = await self._work(task)
        except BadImageError as exc:
            task.message = str(exc)
            total = self.options.failure_seconds
        task.order = task.order.emptied()
        await self._sleep_until(born, total)
        self.in_flight -= task.order.n
        self._change(task, "failed" if task.message else "succeed")

    async def _work(self, task: SandboxTask) -> str:
        if any(word in task.order.prompt for word in self.options.risky_words):
            raise BadImageError(RISK)
        try:
            return await self.make(task)
        except BadImageError:
            raise
        except Exception:
            logger.exception("the images of task %s could not be made", task.id)
            raise BadImageError(BROKEN) from None

    async def _sleep_until(self, born: float, age: float) -> None:
        """Wait until the task is *age* seconds old, as a service *speed* times faster counts."""
        left = born + age / self.speed - self.clock.monotonic()
        if left > 0:
            await self.clock.sleep(left)

    def _change(self, task: SandboxTask, status: str) -> None:
        task.status = status
        task.updated_ms = max(self._now_ms(), task.updated_ms)
        self.changed(task)
