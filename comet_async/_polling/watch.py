"""Who waits for what, and who is due when: the waiter's plain data, without I/O."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import attrs

from comet_async.models import Task, TaskStatus

if TYPE_CHECKING:
    import asyncio


NEVER = math.inf

_NOTHING: MappingProxyType[str, object] = MappingProxyType({})


def rank_of(status: TaskStatus | str) -> int:
    """Return how far *status* is on the way; a word that nobody knows is in the middle."""
    return status.rank if isinstance(status, TaskStatus) else 1


def slim(task: Task) -> Task:
    """Return *task* without the server's own object, which is most of its weight."""
    return attrs.evolve(task, raw=_NOTHING, request_id=None)


class Watch(Protocol):
    """Somebody who waits for a task. Made by a waiter, held by a `WatchedTask`.

    Attributes:
        entry: The task; None before the watch began and after it ended.
        timeout: The limit that was given, seconds; None for no limit.
        deadline: When it ends, on the monotonic clock; `NEVER` for no limit.
        follows: True for one who wants to know of each change, not only of the end.
    """

    entry: WatchedTask | None
    timeout: float | None
    deadline: float

    @property
    def follows(self) -> bool:
        """True to be told of each change."""
        ...

    def changed(self, task: Task) -> None:
        """Take the first snapshot, or one in another state, if it follows."""

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""

    def failed(self, error: BaseException) -> None:
        """Take the reason why nothing more will come."""


@attrs.define(eq=False)
class FailureStreak:
    """A run of answers that were none.

    Attributes:
        since: When it began to count against the patience; None while it does not.
        at: When the last one came.
        error: What it was.
        count: How many failed in a row. Zero for an answer in words that nobody knows.
        parked: True while it waits for the retry budget.
    """

    since: float | None
    at: float
    error: Exception
    count: int = 0
    parked: bool = False


@attrs.define(eq=False)
class Hints:
    """What callbacks did to a task's polls.

    Attributes:
        waiting: True when one came and the poll that it asks for was not sent yet.
        obeyed: True when the poll that is on its way was asked for by one.
        useless: How many such polls in a row showed nothing new.
        after: When the next one may be obeyed.
    """

    waiting: bool = False
    obeyed: bool = False
    useless: int = 0
    after: float = 0.0


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
    """A task that somebody waits for. 100,000 of them may exist: no field is there for comfort.

    Attributes:
        id: The server's id.
        kind: The task's kind.
        n: How many images it makes, if known; 1 otherwise.
        born: When it was created, on our monotonic clock.
        seen: When it was last seen unfinished; 0 before.
        due: When to ask again; `NEVER` while somebody is asking.
        queued: Its live item in the timers; None without one.
        polls: How often it was asked about.
        asked: When it was last asked about by itself; 0 before, and after a failure.
        status: Its newest state; None before the first.
        task: A snapshot, if one was given or somebody follows; its state may be an older one.
        watches: Who waits: one `Watch`, or a list of them.
        deadline: The earliest of theirs.
        worker: The asyncio task that asks about it just now.
        trouble: The run of failures that it is in, if any.
        notifications: What callbacks did, if any came.
        result_check: Set while it is not clear that its result is complete.
        listed: True when the server's list showed it unfinished last, not an answer of its own.
        unlisted: True when the server's list left it out.
        gone: True when nobody waits any more.
    """

    __slots__ = (
        "asked",
        "born",
        "deadline",
        "due",
        "gone",
        "id",
        "kind",
        "listed",
        "n",
        "notifications",
        "polls",
        "queued",
        "result_check",
        "seen",
        "status",
        "task",
        "trouble",
        "unlisted",
        "watches",
        "worker",
    )

    def __init__(self, task_id: str, kind: str, n: int, born: float) -> None:
        self.id = task_id
        self.kind = kind
        self.n = n
        self.born = born
        self.seen = 0.0
        self.due = NEVER
        self.queued: tuple[float, WatchedTask] | None = None
        self.polls = 0
        self.asked = 0.0
        self.status: TaskStatus | str | None = None
        self.task: Task | None = None
        self.watches: Watch | list[Watch] | None = None
        self.deadline = NEVER
        self.worker: asyncio.Task[None] | None = None
        self.trouble: FailureStreak | None = None
        self.notifications: Hints | None = None
        self.result_check: ResultCheck | None = None
        self.listed = False
        self.unlisted = False
        self.gone = False

    def __lt__(self, other: WatchedTask) -> bool:
        return self.id < other.id  # only to break ties in a heap

    @property
    def all(self) -> list[Watch]:
        """Everybody who waits, as a list of its own."""
        if isinstance(self.watches, list):
            return list(self.watches)
        return [] if self.watches is None else [self.watches]

    @property
    def followed(self) -> bool:
        """True when somebody wants to know of each change."""
        if isinstance(self.watches, list):
            return any(watch.follows for watch in self.watches)
        return self.watches is not None and self.watches.follows

    @property
    def rank(self) -> int:
        """How far the task is on the way; -1 when nothing is known."""
        return -1 if self.status is None else rank_of(self.status)

    def snapshot(self) -> Task | None:
        """Return what is known about the task."""
        if self.status is None or self.task is None:
            return (
                None
                if self.status is None
                else Task(id=self.id, status=self.status, kind=self.kind)
            )
        if self.task.status == self.status:
            return self.task
        return attrs.evolve(self.task, status=self.status, updated_at=None)

    def add(self, watch: Watch) -> None:
        """Let *watch* wait too."""
        others = self.all
        self.watches = [*others, watch] if others else watch
        self.deadline = min(self.deadline, watch.deadline)
        watch.entry = self

    def remove(self, watch: Watch) -> bool:
        """Let *watch* go; True when nobody is left."""
        left = [other for other in self.all if other is not watch]
        self.watches = left if len(left) > 1 else left[0] if left else None
        self.deadline = min((other.deadline for other in left), default=NEVER)
        watch.entry = None
        return not left

    def dismiss(self) -> list[Watch]:
        """Let everybody go; return who it was."""
        watches, self.watches = self.all, None
        for watch in watches:
            watch.entry = None
        return watches


class TimerHeap:
    """A heap with one live item for each entry; entries that left are dropped when met."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, WatchedTask]] = []
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale

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
        entry.queued = when, entry
        heapq.heappush(self._heap, entry.queued)

    def drop(self, entry: WatchedTask) -> None:
        """Forget *entry*."""
        if entry.queued is None:
            return
        entry.queued = None
        self._stale += 1
        # As asyncio does with its timers: rebuilt when most of the heap is waste.
        if self._stale > max(64, len(self._heap) // 2):
            self._heap = [item for item in self._heap if item[1].queued is item]
            heapq.heapify(self._heap)
            self._stale = 0

    def earliest(self) -> float:
        """Return when the next entry wakes; `NEVER` when there is none."""
        while self._heap and self._heap[0][1].queued is not self._heap[0]:
            heapq.heappop(self._heap)
            self._stale -= 1
        return self._heap[0][0] if self._heap else NEVER

    def take(self, now: float) -> WatchedTask | None:
        """Return an entry that wakes at *now* or before; None when there is none."""
        while self._heap and self._heap[0][0] <= now:
            item = heapq.heappop(self._heap)
            if item[1].queued is item:
                item[1].queued = None
                return item[1]
            self._stale -= 1
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

    def name(self, entry: WatchedTask) -> None:
        """Find *entry* by its external id too, from now on."""
        if entry.task is not None and entry.task.external_task_id:
            self._external[entry.task.external_task_id] = entry

    def remove(self, entry: WatchedTask) -> None:
        """Forget *entry*."""
        self._kinds[entry.kind].pop(entry.id, None)
        name = entry.task.external_task_id if entry.task is not None else None
        if name and self._external.get(name) is entry:
            del self._external[name]
