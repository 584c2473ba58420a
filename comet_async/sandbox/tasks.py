"""Tasks and their life: submitted, processing, succeed or failed; on the sandbox's own clock.

Polling never changes a task. What changes it is time, its images being ready, and the test that
takes it in hand with `SandboxTask.succeed`, `SandboxTask.fail` and `SandboxTask.hold`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import attrs

from comet_async.clock import Clock
from comet_async.errors import InputError
from comet_async.sandbox._api.checks import Kind, Order
from comet_async.sandbox._api.ids import Ids
from comet_async.sandbox._api.refusals import RefusalError
from comet_async.sandbox.options import Options, Profile

RISK = "Failure to pass the risk control system"
BAD_PIXELS = "Image pixel is invalid"
UNREACHABLE = "Something went wrong when we tried to get the contents of the file."
BROKEN = "The task failed for an internal reason"

_logger = logging.getLogger(__name__)


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
        polls: How many answers showed its status.
        engine: What painted its images; ``canned`` for images from the test.
        size: Width and height of its first image in pixels; (1, 1) before, and if unknown.
        held: Whether it waits for the test to end it.
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
    size: tuple[int, int] = (1, 1)
    held: bool = False
    _tasks: Tasks = attrs.field(repr=False, alias="tasks")

    @property
    def external_id(self) -> str:
        """The client's own id, or empty."""
        return self.order.external_task_id

    @property
    def done(self) -> bool:
        """True once nothing changes any more."""
        return self.status in {"succeed", "failed"}

    def succeed(self, *images: bytes) -> None:
        """Let the task succeed now, or as soon as its images are painted.

        Args:
            images: Files to serve as its results, in order, instead of painted images. They need
                not be images at all. The last one serves for the rest if there are fewer than
                were ordered.

        Raises:
            InputError: The task has ended.
        """
        self._tasks.take_over(self, lambda: self._tasks.finish(self, images))

    def fail(self, message: str = BROKEN) -> None:
        """Let the task fail now.

        Args:
            message: The reason that the API gives.

        Raises:
            InputError: The task has ended, or *message* is empty.
        """
        if not message:
            raise InputError(
                "a failed task needs a message", field="message", value=message, limit="some text"
            )
        self._tasks.take_over(self, None)
        self._tasks.end(self, message)

    def hold(self) -> None:
        """Keep the task as it is until `succeed`, `fail` or `release`.

        Raises:
            InputError: The task has ended.
        """
        self._tasks.take_over(self, None)
        self.held = True

    def release(self) -> None:
        """Let a held task continue as if it had never been held; its clock kept running.

        Raises:
            InputError: The task has ended.
        """
        self._tasks.take_over(self, lambda: self._tasks.live(self))


class Maker(Protocol):
    """What makes a task's images."""

    async def __call__(self, task: SandboxTask, images: Sequence[bytes] = ()) -> str:
        """Make the images of *task*, or take *images*; keep them, and return the engine's name.

        Raises:
            BadImageError: The task must fail.
        """
        ...


@attrs.frozen
class _Span:
    """When a task was born, on the clock's monotonic scale, and how long its phases last."""

    born: float
    submitted: float
    total: float


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
    _spans: dict[str, _Span] = attrs.field(factory=dict, init=False)
    _lives: dict[str, asyncio.Task[None]] = attrs.field(factory=dict, init=False)
    _running: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _holding: bool = attrs.field(default=False, init=False)
    _arrived: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _returned: int = attrs.field(default=0, init=False)
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
        """Return True once polls find the task."""
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
            held=self._holding,
            tasks=self,
        )
        total = self.ids.between(self.options.task_seconds)
        submitted = min(total, self.ids.between(self.options.submitted_seconds))
        self._spans[task.id] = _Span(self.clock.monotonic(), submitted, total)
        self._by_id[task.id] = task
        self._by_kind.setdefault(kind.name, []).append(task)
        if task.external_id:
            self._by_external_id[task.external_id] = task
        self.in_flight += order.n
        self.changed(task)
        if not task.held:
            self._start(task, self.live(task))
        self._arrived.set()
        return task

    async def close(self) -> None:
        """Stop all lives where they are."""
        running = list(self._running)
        for life in running:
            life.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # ------------------------------------------------------------------ in the test's hands

    async def next(self) -> SandboxTask:
        """Wait for the next task that was created; the first call returns the first task."""
        while self._returned == len(self._by_id):
            self._arrived.clear()
            await self._arrived.wait()
        self._returned += 1
        return next(itertools.islice(self._by_id.values(), self._returned - 1, None))

    def hold(self) -> None:
        """Hold all tasks that have not ended, and each new one, until the test ends them."""
        self._holding = True
        for task in self.all():
            if not task.done:
                task.hold()

    def release(self) -> None:
        """Let all held tasks continue, and new ones run by themselves again."""
        self._holding = False
        for task in self.all():
            if task.held:
                task.release()

    def clear(self) -> None:
        """Forget all tasks; those that have not ended stop."""
        for life in self._running:
            life.cancel()
        for known in (self._by_id, self._by_external_id, self._by_kind, self._spans, self._lives):
            known.clear()
        self.in_flight = self._returned = 0

    def take_over(
        self, task: SandboxTask, life: Callable[[], Coroutine[Any, Any, None]] | None
    ) -> None:
        """Replace the life of *task*.

        Raises:
            InputError: The task has ended, or was cleared away.
        """
        if task.done or self._by_id.get(task.id) is not task:
            how = f"ended: its status is {task.status}" if task.done else "been cleared away"
            raise InputError(
                f"task {task.id} has {how}",
                field="task",
                value=task.id,
                limit="a task that has not ended",
            )
        task.held = False
        previous = self._lives.pop(task.id, None)
        if previous is not None:
            previous.cancel()
        if life is not None:
            self._start(task, life())

    # ------------------------------------------------------------------ life

    async def live(self, task: SandboxTask) -> None:
        """Lead *task* through its life, from wherever it is."""
        span = self._spans[task.id]
        await self._sleep_until(span.born, span.submitted)
        self._begin(task)
        risky = any(word in task.order.prompt for word in self.options.risky_words)
        message = RISK if risky else await self._make(task)
        await self._sleep_until(span.born, self.options.failure_seconds if message else span.total)
        self.end(task, message)

    async def finish(self, task: SandboxTask, images: Sequence[bytes]) -> None:
        """Lead *task* to its end without waiting; *images* replace its own, if there are any."""
        self._begin(task)
        self.end(task, await self._make(task, images))

    def end(self, task: SandboxTask, message: str) -> None:
        """End *task*: it failed if *message* says why."""
        task.message = message
        task.order = task.order.emptied()
        self._spans.pop(task.id, None)
        self.in_flight -= task.order.n
        self._change(task, "failed" if message else "succeed")

    def _start(self, task: SandboxTask, life: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(life, name=f"sandbox task {task.id}")
        self._lives[task.id] = running
        self._running.add(running)
        running.add_done_callback(lambda done: self._forget(task.id, done))

    def _forget(self, task_id: str, done: asyncio.Task[None]) -> None:
        self._running.discard(done)
        if self._lives.get(task_id) is done:
            del self._lives[task_id]

    def _begin(self, task: SandboxTask) -> None:
        if task.status == "submitted":
            task.started_ms = self._now_ms()
            self._change(task, "processing")

    async def _make(self, task: SandboxTask, images: Sequence[bytes] = ()) -> str:
        """Make the task's images unless they are made; return why it must fail, or nothing."""
        if task.engine and not images:
            return ""
        try:
            task.engine = await self.make(task, images)
        except BadImageError as exc:
            return str(exc)
        except Exception:
            _logger.exception("the images of task %s could not be made", task.id)
            return BROKEN
        task.order = task.order.emptied()
        return ""

    async def _sleep_until(self, born: float, age: float) -> None:
        """Wait until the task is *age* seconds old, as a service *speed* times faster counts."""
        left = born + age / self.speed - self.clock.monotonic()
        if left > 0:
            await self.clock.sleep(left)

    def _now_ms(self) -> int:
        return round(self.clock.time() * 1000)

    def _change(self, task: SandboxTask, status: str) -> None:
        task.status = status
        task.updated_ms = max(self._now_ms(), task.updated_ms)
        self.changed(task)
