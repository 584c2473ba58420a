"""The waiter's plain data, without I/O: which tasks are watched, and when each is due."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import attrs

from comet_async.models import Task, TaskStatus

if TYPE_CHECKING:
    import asyncio


NEVER = math.inf

_EMPTY: MappingProxyType[str, object] = MappingProxyType({})


def rank_of(status: TaskStatus | str) -> int:
    """Return how far *status* is on the way; an unknown one counts as in the middle."""
    return status.rank if isinstance(status, TaskStatus) else 1


def without_raw(task: Task) -> Task:
    """Return *task* without the server's own object, which is most of its size."""
    return attrs.evolve(task, raw=_EMPTY, request_id=None)


Reason = Callable[[], BaseException]
"""Makes the error that ends a wait, only when it is raised: of a hundred thousand waits that end at
once, few may be awaited."""


class Watch(Protocol):
    """One wait for a task. Made by a waiter, held by a `WatchedTask`.

    Attributes:
        entry: The task; None before the wait began and after it ended.
        timeout: The limit that was given, in seconds; None for no limit.
        deadline: When it ends, on the monotonic clock; `NEVER` for no limit.
    """

    entry: WatchedTask | None
    timeout: float | None
    deadline: float

    @property
    def follows(self) -> bool:
        """True if it wants each change, not only the end."""
        ...

    def changed(self, task: Task) -> None:
        """Take the first snapshot, or one in another state, if it follows."""

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""

    def failed(self, reason: Reason) -> None:
        """Take the reason why nothing more will come."""


@attrs.define(eq=False)
class FailureStreak:
    """Failed polls in a row, or answers with an unknown status.

    Attributes:
        since: When it began to count against the error budget; None while it does not.
        at: When the last one came.
        error: What it was.
        count: How many polls failed in a row. Zero for an unknown status.
        parked: True while it waits for the retry budget.
    """

    since: float | None
    at: float
    error: Exception
    count: int = 0
    parked: bool = False


@attrs.define(eq=False)
class NotificationState:
    """What callbacks did to a task's polls.

    Attributes:
        pending: True if one came and the poll that it causes was not sent yet.
        caused_poll: True if the poll on its way was caused by one.
        useless: How many such polls in a row showed nothing new.
        not_before: When the next one may cause a poll.
    """

    pending: bool = False
    caused_poll: bool = False
    useless: int = 0
    not_before: float = 0.0


@attrs.define(eq=False)
class ResultCheck:
    """A task that succeeded, or seems to have, and has not shown its whole result yet.

    Attributes:
        since: When that was first seen.
        counted_at: When as many images as now were first seen.
        images: How many readable images it shows.
        polls: How many answers have shown it so.
    """

    since: float
    counted_at: float
    images: int
    polls: int = 0


class WatchedTask:
    """A task that is waited for. 100,000 exist at once, so every field has to earn its memory.

    Attributes:
        id: The server's id.
        kind: The task's kind.
        n: How many images it makes, if known; 1 otherwise.
        created: When it was created, on our monotonic clock.
        own: True if that is known from our own request, not from the server's clock.
        alive_at: When it was last known to be unfinished; `-NEVER` before.
        due: When to poll next; `NEVER` while a poll is on its way.
        queued: Its live item in the timers; None without one.
        polls: How often it was polled.
        polled_at: When it was last polled by itself; `-NEVER` before, and after a failure.
        status: Its newest status; None before the first.
        task: A snapshot, if one was given or a watch follows; its status may be an older one.
        watches: The waits for it: one `Watch`, or a list of them.
        deadline: The earliest of theirs.
        worker: The asyncio task that polls it just now.
        failures: The streak of failures that it is in, if any.
        notified: What callbacks did, if any came.
        result_check: Set while it is not clear that its result is complete.
        listed: True if the server's list showed it unfinished last, not a poll of its own.
        unlisted: True if the server's list left it out.
        gone: True once it is not waited for any more.
    """

    __slots__ = (
        "alive_at",
        "created",
        "deadline",
        "due",
        "failures",
        "gone",
        "id",
        "kind",
        "listed",
        "n",
        "notified",
        "own",
        "polled_at",
        "polls",
        "queued",
        "result_check",
        "status",
        "task",
        "unlisted",
        "watches",
        "worker",
    )

    def __init__(self, task_id: str, kind: str, n: int, created: float) -> None:
        self.id = task_id
        self.kind = kind
        self.n = n
        self.created = created
        self.own = False
        self.alive_at = -NEVER
        self.due = NEVER
        self.queued: tuple[float, int] | None = None
        self.polls = 0
        self.polled_at = -NEVER
        self.status: TaskStatus | str | None = None
        self.task: Task | None = None
        self.watches: Watch | list[Watch] | None = None
        self.deadline = NEVER
        self.worker: asyncio.Task[None] | None = None
        self.failures: FailureStreak | None = None
        self.notified: NotificationState | None = None
        self.result_check: ResultCheck | None = None
        self.listed = False
        self.unlisted = False
        self.gone = False

    @property
    def all_watches(self) -> list[Watch]:
        """The waits for it, as a new list."""
        if isinstance(self.watches, list):
            return list(self.watches)
        return [] if self.watches is None else [self.watches]

    @property
    def followed(self) -> bool:
        """True if one of its waits wants each change."""
        if isinstance(self.watches, list):
            return any(watch.follows for watch in self.watches)
        return self.watches is not None and self.watches.follows

    @property
    def seen_alive(self) -> bool:
        """True if it was ever known to be unfinished."""
        return self.alive_at > -NEVER

    @property
    def rank(self) -> int:
        """How far the task is on the way; -1 if nothing is known."""
        return -1 if self.status is None else rank_of(self.status)

    def snapshot(self) -> Task | None:
        """Return what is known about the task."""
        if self.status is None:
            return None
        if self.task is None:
            return Task(id=self.id, status=self.status, kind=self.kind)
        if self.task.status == self.status:
            return self.task
        return attrs.evolve(self.task, status=self.status, updated_at=None)

    def add(self, watch: Watch) -> None:
        """Add a wait."""
        others = self.all_watches
        self.watches = [*others, watch] if others else watch
        self.deadline = min(self.deadline, watch.deadline)
        watch.entry = self

    def remove(self, watch: Watch) -> bool:
        """Remove a wait; return True if it was the last."""
        left = [other for other in self.all_watches if other is not watch]
        self.watches = left if len(left) > 1 else left[0] if left else None
        self.deadline = min((other.deadline for other in left), default=NEVER)
        watch.entry = None
        return not left

    def remove_all(self) -> list[Watch]:
        """Remove and return all waits."""
        watches, self.watches = self.all_watches, None
        for watch in watches:
            watch.entry = None
        return watches


class TimerHeap:
    """A heap with one live item for each task; items of tasks that left are dropped when met.

    The items are numbers only: Python's garbage collector does not count those. With the tasks in
    them, a round of polls would be followed by a collection that looks at all that waits.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._live: dict[int, WatchedTask] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._live)

    def put(self, entry: WatchedTask) -> None:
        """Wake *entry* when it is due, or at its deadline if that is earlier.

        Putting it off costs nothing: it is met at its old time, and put again.
        """
        when = min(entry.due, entry.deadline)
        if entry.queued is not None:
            if entry.queued[0] <= when:
                return
            self.drop(entry)
        if when == NEVER:
            return
        entry.queued = item = when, next(self._numbers)
        self._live[item[1]] = entry
        heapq.heappush(self._heap, item)

    def drop(self, entry: WatchedTask) -> None:
        """Remove *entry*."""
        if entry.queued is None:
            return
        del self._live[entry.queued[1]]
        entry.queued = None
        # As asyncio does with its timers: rebuilt when most of the heap is waste.
        if len(self._heap) - len(self._live) > max(64, len(self._heap) // 2):
            self._heap = [item for item in self._heap if item[1] in self._live]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Remove all tasks at once: one by one, the heap would be rebuilt again and again."""
        for entry in self._live.values():
            entry.queued = None
        self._heap, self._live = [], {}

    def earliest(self) -> float:
        """Return when the next task wakes; `NEVER` if there is none."""
        while self._heap and self._heap[0][1] not in self._live:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER

    def take(self, now: float) -> WatchedTask | None:
        """Return a task that wakes at *now* or before; None if there is none."""
        while self._heap and self._heap[0][0] <= now:
            entry = self._live.pop(heapq.heappop(self._heap)[1], None)
            if entry is not None:
                entry.queued = None
                return entry
        return None


class WatchIndex:
    """All tasks that are waited for in one event loop, by kind and id."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, WatchedTask]] = {}
        self._external: dict[str, WatchedTask] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __bool__(self) -> bool:
        return any(self._kinds.values())

    def __iter__(self) -> Iterator[WatchedTask]:
        for entries in list(self._kinds.values()):
            yield from list(entries.values())

    def of_kind(self, kind: str) -> dict[str, WatchedTask]:
        """Return the tasks of *kind* by their ids."""
        return self._kinds.setdefault(kind, {})

    def find(self, task_id: str | None, external_task_id: str | None) -> WatchedTask | None:
        """Return the task of one of these ids, whatever its kind."""
        for entries in self._kinds.values():
            if task_id in entries:
                return entries[task_id]
        return self._external.get(external_task_id or "")

    def add_external_id(self, entry: WatchedTask) -> None:
        """Find *entry* by its external id too, from now on."""
        if entry.task is not None and entry.task.external_task_id:
            self._external[entry.task.external_task_id] = entry

    def remove(self, entry: WatchedTask) -> None:
        """Remove *entry*."""
        self._kinds[entry.kind].pop(entry.id, None)
        external = entry.task.external_task_id if entry.task is not None else None
        if external and self._external.get(external) is entry:
            del self._external[external]
