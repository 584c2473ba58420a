"""The iterators over waited-for tasks: what they hold, and how they are left.

They are classes and not async generators on purpose. A generator that is cancelled in the middle
of a step is over, and one that is left early is closed at some later time; these can be continued
after a timeout, an error or a cancellation, and stop polling as soon as they are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Protocol, Self, final

from comet_async._polling.completion import has_result
from comet_async._polling.poller import Poller
from comet_async._polling.watch import NEVER, Reason, Watch, WatchedTask, rank_of
from comet_async.models import Task

DEFAULT_KIND = "expand"

# Tasks taken from an iterable before others in the loop get their turn.
_BATCH = 200

Start = Callable[[Watch, Task | str, str, int], Poller]
"""Adds a watch in the running loop."""


def kind_of(task: Task | str, kind: str | None) -> str:
    """Return the kind that was given, or the task's own."""
    return kind or (task.kind if isinstance(task, Task) else DEFAULT_KIND)


class Inbox:
    """What arrived and was not taken yet; any number of readers may wait for it."""

    __slots__ = ("_readers", "items")

    def __init__(self) -> None:
        self.items: list[Task | Reason] = []
        self._readers: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self.items)

    def put(self, item: Task | Reason) -> None:
        """Add an *item*."""
        self.items.append(item)
        self.wake_reader()

    def pop(self) -> Task | Reason:
        """Remove and return the next item."""
        return self.items.pop(0)

    def take(self, *, last: bool) -> Task:
        """Return the next item, or raise it; if it is the *last*, wake all readers."""
        item = self.pop()
        if last and not self:
            self.wake_all()
        if isinstance(item, Task):
            return item
        raise item()

    def clear(self) -> None:
        """Drop all items."""
        self.items.clear()

    def wake_reader(self) -> None:
        """Let one waiting reader look again."""
        while self._readers:
            reader = self._readers.pop(0)
            if not reader.done():
                reader.set_result(None)
                return

    def wake_all(self) -> None:
        """Let all waiting readers look again."""
        while self._readers:
            self.wake_reader()

    async def arrival(self) -> None:
        """Wait until there may be an item."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            await reader
        except BaseException:
            if reader in self._readers:
                self._readers.remove(reader)
            else:
                self.wake_reader()  # this one was woken, and can't look
            raise


class OrderedInbox(Inbox):
    """An inbox that gives tasks in the order in which they ended, as the server says.

    What has no time, an error among it, keeps its place after what was there before.
    """

    __slots__ = ("_arrivals", "_heap", "_latest")

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, Task | Reason]] = []
        self._arrivals = 0
        self._latest = -NEVER

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, item: Task | Reason) -> None:
        """Add an *item*."""
        ended = item.updated_at if isinstance(item, Task) else None
        moment = self._latest if ended is None else ended.timestamp()
        self._latest = max(self._latest, moment)
        self._arrivals += 1
        heapq.heappush(self._heap, (moment, self._arrivals, item))
        self.wake_reader()

    def pop(self) -> Task | Reason:
        """Remove and return the task that ended first."""
        return heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        """Drop all items."""
        self._heap.clear()


class Feed(Protocol):
    """What a stream draws from."""

    def step(self) -> Coroutine[object, object, Task]:
        """Return the next task; raise `StopAsyncIteration` at the end."""
        ...

    def stop(self) -> None:
        """Stop waiting. Called in the loop of the steps."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in; None before the first and after the last."""
        ...


@final
class TaskStream(AsyncIterator[Task]):
    """An iterator over tasks, made by `TaskWaiter.transitions` and `TaskWaiter.as_completed`.

    It may be left at any time, by ``break``, an error or cancellation: then it stops polling as
    soon as it is dropped, or at once by ``aclose()`` or at the end of ``async with``. After an
    error, a timeout or a cancelled step the iteration can be continued. Several readers may step
    it at once; each item goes to one of them.
    """

    __slots__ = ("__weakref__", "_feed")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[object, object, Task]:
        return self._feed.step()

    async def aclose(self) -> None:
        """Stop waiting. The tasks themselves continue."""
        self._feed.stop()

    async def __aenter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop waiting."""
        self._feed.stop()

    def __del__(self) -> None:
        # The garbage collector may run this anywhere, even amid the scheduler's own work.
        loop = self._feed.loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._feed.stop)


class Transitions:
    """The states of one task; `TaskWaiter.transitions` describes them."""

    __slots__ = (
        "_inbox",
        "_kind",
        "_n",
        "_over",
        "_poller",
        "_rank",
        "_shown",
        "_start",
        "_task",
        "deadline",
        "entry",
        "timeout",
    )

    follows = True

    def __init__(
        self, start: Start, task: Task | str, timeout: float | None, *, kind: str, n: int
    ) -> None:
        self.entry: WatchedTask | None = None
        self.timeout = timeout
        self.deadline = NEVER
        self._start = start
        self._task = task
        self._kind = kind
        self._n = n
        self._poller: Poller | None = None
        self._inbox = Inbox()
        self._rank = -1
        self._shown: tuple[str, ...] = ()
        self._over = False
        if isinstance(task, Task) and (has_result(task) or not task.done):
            self.changed(task)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in."""
        return self._poller.loop if self._poller is not None else None

    async def step(self) -> Task:
        """Return the next state."""
        self._follow()
        while not self._inbox:
            if self._over:
                raise StopAsyncIteration
            self._follow()  # another reader may have got the error that ended the wait
            await self._inbox.arrival()
        return self._inbox.take(last=self._poller is None)

    def _follow(self) -> None:
        """Wait for the task, unless that is done already or all is over."""
        if self._poller is None and not self._over:
            self._poller = self._start(self, self._task, self._kind, self._n)

    def stop(self) -> None:
        """Stop waiting."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.leave(self)
        self._over = True
        self._inbox.clear()
        self._inbox.wake_all()

    def changed(self, task: Task) -> None:
        """Take a snapshot, unless its status was shown or passed before."""
        rank, status = rank_of(task.status), str(task.status)
        if rank < self._rank or status in self._shown:
            return
        self._rank, self._shown, self._task = rank, (*self._shown, status), task
        self._over = task.done
        self._inbox.put(task)

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""
        self._poller = None
        self.changed(task)
        self._over = True
        self._inbox.wake_all()

    def failed(self, reason: Reason) -> None:
        """Take the reason why nothing more comes; the next step after it waits again."""
        self._poller = None
        self._inbox.put(reason)


class _Item:
    """One task of an `AsCompleted`."""

    __slots__ = ("_feed", "deadline", "entry", "timeout")

    follows = False

    def __init__(self, feed: AsCompleted, timeout: float | None) -> None:
        self.entry: WatchedTask | None = None
        self.timeout = timeout
        self.deadline = NEVER
        self._feed = feed

    def changed(self, task: Task) -> None:
        """Do nothing: the end counts."""

    def ended(self, task: Task) -> None:
        self._feed.arrived(self, task)

    def failed(self, reason: Reason) -> None:
        self._feed.arrived(self, reason)


class AsCompleted:
    """Tasks as they end; `TaskWaiter.as_completed` describes them."""

    def __init__(
        self,
        start: Start,
        tasks: Iterable[Task | str] | AsyncIterable[Task | str],
        timeout: float | None,
        *,
        kind: str | None,
        n: int,
        prefetch: int,
    ) -> None:
        self._start = start
        self._timeout = timeout
        self._kind = kind
        self._n = n
        self._prefetch = prefetch
        self._tasks = None if isinstance(tasks, AsyncIterable) else iter(tasks)
        self._source = tasks if isinstance(tasks, AsyncIterable) else None
        self._puller: asyncio.Task[None] | None = None
        self._space: asyncio.Future[None] | None = None
        self._exhausted = False
        self._poller: Poller | None = None
        self._live: set[_Item] = set()
        self._inbox = OrderedInbox()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in."""
        if self._puller is not None:
            return self._puller.get_loop()
        return self._poller.loop if self._poller is not None else None

    @property
    def _full(self) -> bool:
        return len(self._live) + len(self._inbox) >= self._prefetch

    async def step(self) -> Task:
        """Return the next task that ended."""
        while True:
            await self._fill()
            if self._inbox:
                break
            if self._exhausted and not self._live:
                raise StopAsyncIteration
            await self._inbox.arrival()
        if self._space is not None and not self._space.done():
            self._space.set_result(None)
        return self._inbox.take(last=self._exhausted and not self._live)

    def stop(self) -> None:
        """Stop waiting."""
        self._exhausted = True
        self._tasks = self._source = None
        if self._puller is not None:
            self._puller.cancel()
            self._puller = None
        live, self._live = self._live, set()
        if self._poller is not None:
            self._poller.leave_all(live)
        self._poller = None
        self._inbox.clear()
        self._inbox.wake_all()

    def arrived(self, item: _Item, result: Task | Reason) -> None:
        """Take the end of one wait."""
        self._live.discard(item)
        self._inbox.put(result)

    async def _fill(self) -> None:
        """Take tasks up to the limit; from an async source, start the task that takes them."""
        if self._source is not None:
            source, self._source = self._source, None
            puller = asyncio.create_task(self._pull(source))
            self._puller = None if puller.done() else puller  # an eager one may be over
        taken = 0
        while self._tasks is not None and not self._full:
            try:
                task = next(self._tasks)
            except BaseException as error:
                self._tasks, self._exhausted = None, True
                if isinstance(error, StopIteration):
                    return
                raise
            self._take(task)
            taken += 1
            if taken % _BATCH == 0:
                await asyncio.sleep(0)

    async def _pull(self, source: AsyncIterable[Task | str]) -> None:
        try:
            async for task in source:
                self._take(task)
                while self._full:
                    self._space = asyncio.get_running_loop().create_future()
                    await self._space
        except asyncio.CancelledError as error:
            if not self._exhausted:  # it was not `stop`: the source is not at its end
                cancelled = error
                self._inbox.put(lambda: cancelled)
            raise
        except Exception as error:  # noqa: BLE001  # the user's own: raised by the next step
            problem = error
            self._inbox.put(lambda: problem)
        finally:
            self._puller, self._exhausted = None, True
            self._inbox.wake_all()

    def _take(self, task: Task | str) -> None:
        if isinstance(task, Task) and has_result(task):
            self._inbox.put(task)
            return
        item = _Item(self, self._timeout)
        self._poller = self._start(item, task, kind_of(task, self._kind), self._n)
        self._live.add(item)
