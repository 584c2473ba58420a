"""The iterators over waited-for tasks: what they hold, and how they are left.

They are classes and not async generators on purpose. A generator that is cancelled in the middle
of a step is over, and one that is left early is closed at some later time; these can be stepped
on after a timeout, an error or a cancellation, and stop asking as soon as they are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    MutableSequence,
)
from types import TracebackType
from typing import Protocol, Self, final

from comet_async._polling.completion import has_result
from comet_async._polling.poller import Poller
from comet_async._polling.watch import NEVER, Watch, WatchedTask, rank_of
from comet_async.models import Task

DEFAULT_KIND = "expand"

# So many tasks are taken from an iterable before others in the loop get their turn.
_BATCH = 200

Start = Callable[[Watch, Task | str, str, int], Poller]
"""Lets a watch wait in the running loop."""


def kind_of(task: Task | str, kind: str | None) -> str:
    """Return the kind that was given, or the one that the task tells."""
    return kind or (task.kind if isinstance(task, Task) else DEFAULT_KIND)


class Inbox:
    """What arrived and was not taken yet; any number may wait for it.

    Args:
        items: Holds them: a deque where many may gather, a list where few do, which is lighter.
    """

    __slots__ = ("_getters", "items")

    def __init__(self, items: MutableSequence[Task | BaseException]) -> None:
        self.items = items
        self._getters: list[asyncio.Future[None]] = []

    def put(self, item: Task | BaseException) -> None:
        """Add an *item*."""
        self.items.append(item)
        self.wake()

    def take(self, *, last: bool) -> Task:
        """Return the first item, or raise it; if it is the *last*, nobody waits any longer."""
        item = self.items[0]
        del self.items[0]
        if last and not self.items:
            self.wake(everybody=True)
        if isinstance(item, Task):
            return item
        raise item

    def wake(self, *, everybody: bool = False) -> None:
        """Let one who waits look again, or everybody."""
        while self._getters:
            getter = self._getters.pop(0)
            if not getter.done():
                getter.set_result(None)
                if not everybody:
                    return

    async def something(self) -> None:
        """Wait until there may be an item."""
        getter = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        try:
            await getter
        except BaseException:
            if getter in self._getters:
                self._getters.remove(getter)
            else:
                self.wake()  # this one was woken, and can't look
            raise


class Feed(Protocol):
    """What a stream draws from."""

    def step(self) -> Coroutine[object, object, Task]:
        """Return the next task; raise `StopAsyncIteration` at the end."""
        ...

    def stop(self) -> None:
        """Wait for nothing any more. Called in the loop of the steps."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in; None before the first and after the last."""
        ...


@final
class TaskStream(AsyncIterator[Task]):
    """An iterator over tasks, made by `TaskWaiter.transitions` and `TaskWaiter.as_completed`.

    It may be left at any time, by ``break``, an error or cancellation: then it stops asking as
    soon as nobody holds it, or at once by ``aclose()`` or at the end of ``async with``. After
    an error, a timeout or a cancelled step it can be iterated on. Several may step it at once;
    each item goes to one of them.
    """

    __slots__ = ("__weakref__", "_feed")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[object, object, Task]:
        return self._feed.step()

    async def aclose(self) -> None:
        """Stop waiting. The tasks themselves go on."""
        self._feed.stop()

    async def __aenter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop waiting."""
        self._feed.stop()

    def __del__(self) -> None:
        # The collector may run this anywhere, also in the middle of the scheduler's own work.
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
        "_start",
        "_task",
        "_words",
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
        self._inbox = Inbox([])
        self._rank = -1
        self._words: tuple[str, ...] = ()
        self._over = False
        if isinstance(task, Task) and (has_result(task) or not task.done):
            self.changed(task)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in."""
        return self._poller.loop if self._poller is not None else None

    async def step(self) -> Task:
        """Return the next state."""
        if self._poller is None and not self._over:
            self._poller = self._start(self, self._task, self._kind, self._n)
        while not self._inbox.items:
            if self._over:
                raise StopAsyncIteration
            await self._inbox.something()
        return self._inbox.take(last=self._over)

    def stop(self) -> None:
        """Wait no more."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.leave(self)
        self._over = True
        self._inbox.items.clear()
        self._inbox.wake(everybody=True)

    def changed(self, task: Task) -> None:
        """Take a snapshot, unless its state was shown or passed before."""
        rank, word = rank_of(task.status), str(task.status)
        if rank < self._rank or word in self._words:
            return
        self._rank, self._words, self._task = rank, (*self._words, word), task
        self._over = task.done
        self._inbox.put(task)

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""
        self._poller = None
        self.changed(task)
        self._over = True
        self._inbox.wake(everybody=True)

    def failed(self, error: BaseException) -> None:
        """Take the reason why nothing more comes; the next step after it begins anew."""
        self._poller = None
        self._inbox.put(error)


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

    def failed(self, error: BaseException) -> None:
        self._feed.arrived(self, error)


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
        ahead: int,
    ) -> None:
        self._start = start
        self._timeout = timeout
        self._kind = kind
        self._n = n
        self._ahead = ahead
        self._tasks = None if isinstance(tasks, AsyncIterable) else iter(tasks)
        self._source = tasks if isinstance(tasks, AsyncIterable) else None
        self._puller: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._exhausted = False
        self._poller: Poller | None = None
        self._live: set[_Item] = set()
        self._inbox = Inbox(deque())

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the steps are made in."""
        if self._puller is not None:
            return self._puller.get_loop()
        return self._poller.loop if self._poller is not None else None

    @property
    def _full(self) -> bool:
        return len(self._live) + len(self._inbox.items) >= self._ahead

    async def step(self) -> Task:
        """Return the next task that ended."""
        while True:
            await self._fill()
            if self._inbox.items:
                break
            if self._exhausted and not self._live:
                raise StopAsyncIteration
            await self._inbox.something()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return self._inbox.take(last=self._exhausted and not self._live)

    def stop(self) -> None:
        """Wait no more."""
        self._exhausted = True
        self._tasks = self._source = None
        if self._puller is not None:
            self._puller.cancel()
            self._puller = None
        live, self._live = self._live, set()
        for item in live:
            if self._poller is not None:
                self._poller.leave(item)
        self._poller = None
        self._inbox.items.clear()
        self._inbox.wake(everybody=True)

    def arrived(self, item: _Item, result: Task | BaseException) -> None:
        """Take the end of one wait."""
        self._live.discard(item)
        self._inbox.put(result)

    async def _fill(self) -> None:
        """Take tasks up to the limit; from an async source, see to it that they are taken."""
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
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        except Exception as error:  # noqa: BLE001  # the user's own: raised by the next step
            self._inbox.put(error)
        finally:
            self._puller, self._exhausted = None, True
            self._inbox.wake(everybody=True)

    def _take(self, task: Task | str) -> None:
        if isinstance(task, Task) and has_result(task):
            self._inbox.put(task)
            return
        item = _Item(self, self._timeout)
        self._live.add(item)
        self._poller = self._start(item, task, kind_of(task, self._kind), self._n)
