"""Workers that ask about tasks: so many at a time, and none while there is nothing to ask."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable

from comet_async.agenda import Watched
from comet_async.models import Task

# Somebody who cancels all tasks of a loop, ours too, may be closing it.
AFTERMATH = 1.0
"""Seconds until work goes on after a worker was cancelled from outside."""


class Crew:
    """Asks about tasks in the running loop.

    Args:
        size: Most questions at a time.
        ask: Asks about a task; gives the answer, or the error instead of one.
        answered: Takes what *ask* gave.
        context: What workers run in.
    """

    def __init__(
        self,
        size: int,
        ask: Callable[[Watched], Awaitable[Task | Exception]],
        answered: Callable[[Watched, Task | Exception], None],
        context: contextvars.Context,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._size = size
        self._ask = ask
        self._answered = answered
        self._context = context
        self._ready: deque[Watched] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    def add(self, entry: Watched) -> None:
        """Ask about *entry* as soon as a worker is free; `staff` sees to that."""
        self._ready.append(entry)

    def clear(self) -> None:
        """Ask about nobody."""
        self._ready.clear()

    def staff(self) -> None:
        """See to it that there are workers for what is to be asked."""
        for _ in range(min(len(self._ready), self._size - len(self._workers))):
            worker = self._loop.create_task(self._work(), context=self._context)
            self._workers.add(worker)
            worker.add_done_callback(self._worked)

    async def finish(self) -> None:
        """Wait until the questions on their way are answered or cancelled."""
        workers = self._workers - {asyncio.current_task()}
        if workers:
            await asyncio.wait(workers)

    def _worked(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            self._loop.call_later(AFTERMATH, self.staff, context=self._context)
            return
        worker.result()
        self.staff()

    def _next(self) -> Watched | None:
        while self._ready:
            entry = self._ready.popleft()
            if not entry.gone:
                return entry
        return None

    async def _work(self) -> None:
        me = asyncio.current_task()
        while (entry := self._next()) is not None:
            entry.worker = me
            try:
                answer = await self._ask(entry)
            except asyncio.CancelledError:
                # Either nobody waits for this answer any more, or somebody else cancels us.
                if not entry.gone or me is None or me.uncancel():
                    raise
                continue
            finally:
                entry.worker = None
            self._answered(entry, answer)
