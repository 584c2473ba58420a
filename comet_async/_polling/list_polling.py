"""Many due polls, folded into one call of the server's list, where the list proves to work.

Nothing is taken on trust. A list that showed none of our tasks is not used for a while; a task
that it leaves out is asked about by itself; and now and then a task that it shows as unfinished
is asked about too, so that a list that is out of date is found out.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import attrs

from comet_async._polling.watch import NEVER, WatchedTask
from comet_async.events import Folded
from comet_async.models import Task, TaskPage

if TYPE_CHECKING:
    from comet_async._polling.poller import Poller


LIST_INTERVAL = 1.0
"""Seconds between two pages of the list, on average."""

# With fewer tasks a list call saves nothing.
_FEWEST = 4
# Kling's pages hold up to 500 (https://klingai.com/document-api/api/image/common/outpainting);
# a small one is quicker. It has room for four times the tasks that are waited for: those that
# take long lie behind all that were submitted and ended since.
_ROOM = 4
_SIZES = (30, 100, 200, 500)
_MOST_PAGES = 20
# A list that takes longer is of no use.
_TIMEOUT = 5.0
# A list that did not work is tried again after a minute, then after two, up to an hour.
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 3600.0
# A list may lag a little behind the single answers, and behind the creation of a task.
_LAG = 5.0
# Each so many list calls the oldest unfinished task is asked about by itself.
_CONTROL = 30
# And each task when most have ended, and again at each multiple of that age.
_OLDER = 2.0


@attrs.define(eq=False)
class _List:
    """What is known about the list of one kind, and who waits for its next call.

    Attributes:
        kind: The kind.
        proven: True when the last call showed tasks of ours.
        pause: Seconds to leave the list alone after the next failure.
        not_before: When the next call may be made.
        lied_at: When it was found to be out of date.
        calls: Calls since the last control.
        due: The due tasks.
        running: The call that is being made, or the timer of the next one.
    """

    kind: str
    proven: bool = False
    pause: float = _FIRST_PAUSE
    not_before: float = 0.0
    lied_at: float = -NEVER
    calls: int = 0
    due: list[WatchedTask] = attrs.field(factory=list)
    running: asyncio.Task[None] | asyncio.TimerHandle | None = None

    def failed(self, now: float) -> None:
        """Leave the list alone for a while."""
        self.proven = False
        self.not_before = now + self.pause
        self.pause = min(_LONGEST_PAUSE, 2.0 * self.pause)


class ListPolling:
    """Serves due polls of one event loop from the server's list; a `Shortcut`.

    Args:
        poller: Whose polls.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._lists: dict[str, _List] = {}

    def takes(self, entry: WatchedTask, now: float) -> bool:
        """Take a due task over if a list call is likely to tell about it."""
        state = self._of(entry.kind)
        if len(self._entries(state)) < _FEWEST:
            return False
        if not state.proven:
            # A trial goes beside the single questions and delays none of them.
            if state.running is None and now >= state.not_before:
                self._start(state)
            return False
        if entry.unlisted or entry.trouble is not None or self._needs_control(entry, now):
            return False
        state.due.append(entry)
        if state.running is None:
            wait = max(0.0, state.not_before - now)
            loop, context = self._poller.loop, self._poller.context
            state.running = loop.call_later(wait, self._start, state, context=context)
        return True

    def pace(self, entry: WatchedTask) -> float:
        """Return the square root of the number of tasks that a call tells about.

        For one task the best density of polls goes with sqrt(hazard); for m tasks that one
        call serves it goes with sqrt(m x hazard).
        """
        state = self._of(entry.kind)
        if not state.proven or entry.unlisted:
            return 1.0
        crowd = len(self._entries(state))
        return 1.0 if crowd < _FEWEST else math.sqrt(min(_SIZES[-1], crowd))

    def asked(self, entry: WatchedTask, task: Task) -> None:
        """Find out a list that shows tasks in states that they left before."""
        state, now = self._of(entry.kind), self._poller.now()
        differs = entry.listed and task.status != entry.status
        if state.proven and differs and task.updated_at is not None:
            changed = now - self._poller.shared.timing.age_of(task.updated_at)
            if changed + _LAG < entry.seen:
                state.lied_at, state.pause = now, _LONGEST_PAUSE
                state.failed(now)
                if isinstance(state.running, asyncio.TimerHandle):  # a call to come
                    state.running.cancel()
                    state.running = None
                    self._settle(state, [], set())

    def cancel(self) -> None:
        """Stop: nobody waits any more."""
        for state in self._lists.values():
            state.due.clear()
            if state.running is not None:
                state.running.cancel()
                state.running = None

    def _of(self, kind: str) -> _List:
        state = self._lists.get(kind)
        if state is None:
            state = self._lists[kind] = _List(kind)
        return state

    def _entries(self, state: _List) -> dict[str, WatchedTask]:
        return self._poller.register.of_kind(state.kind)

    def _needs_control(self, entry: WatchedTask, now: float) -> bool:
        age = now - entry.born
        return age > _OLDER * (entry.asked - entry.born) and age > self._poller.shared.timing.late()

    # ------------------------------------------------------------------ calling

    def _start(self, state: _List) -> None:
        poller, began = self._poller, self._poller.now()
        try:
            call = poller.start_task(self._call(state, began))
        except Exception:  # noqa: BLE001  # as for a call that failed: each task is polled singly
            state.running = None
            state.failed(began)
            self._settle(state, [], set())
        else:
            state.running = None if call.done() else call  # an eager one may be over

    async def _call(self, state: _List, began: float) -> None:
        """Read pages until each due task was shown or can't be; ask about the others singly."""
        due, state.due = state.due, []
        shown: set[str] = set()
        pages = 0
        try:
            for number in range(1, _MOST_PAGES + 1):
                pages = number
                page, sent = await self._read(state, number)
                shown |= self._hear(state, page, sent)
                missing = [entry for entry in due if not entry.gone and entry.id not in shown]
                # A further page has to be worth more than single questions.
                if page.last or len(missing) < _FEWEST or not self._goes_on(page, missing):
                    break
        except asyncio.CancelledError:
            for entry in (*due, *state.due):
                self._poller.ask_later(entry)
            raise
        except Exception:  # noqa: BLE001  # whatever it is: each task is asked about singly
            state.failed(self._poller.now())
        else:
            if began > state.lied_at:  # else it is as old as the lie
                self._judge(state, shown)
        finally:
            if state.running is asyncio.current_task():
                state.running = None
        state.not_before = max(state.not_before, began + pages * LIST_INTERVAL)
        self._settle(state, due, shown)
        self._poller.catch_up()

    async def _read(self, state: _List, number: int) -> tuple[TaskPage, float]:
        poller = self._poller
        shared = poller.shared
        sent = poller.now()
        wanted = _ROOM * len(self._entries(state))
        size = next((size for size in _SIZES if size >= wanted), _SIZES[-1])
        shared.counters.list_calls += 1
        async with asyncio.timeout(_TIMEOUT):
            page = await shared.source.poll_page(number, size, kind=state.kind)
        if shared.sink.listening:
            entries = self._entries(state)
            event = Folded(
                kind=state.kind,
                page=number,
                tasks=len(page.tasks),
                watched=sum(task.id in entries for task in page.tasks),
                seconds=poller.now() - sent,
            )
            shared.sink.emit(event)
        return page, sent

    def _hear(self, state: _List, page: TaskPage, sent: float) -> set[str]:
        """Pass on what *page* tells; return the ids of the tasks that it told about."""
        poller = self._poller
        told: set[str] = set()
        for task in page.tasks:
            entry = self._entries(state).get(task.id)
            if entry is None:
                continue
            entry.unlisted = False
            told.add(task.id)
            # A list may leave the images out: then the task itself has to tell.
            if not task.succeeded or task.images:
                poller.heard(entry, task, sent)
            elif entry.due != NEVER:
                poller.ask_singly(entry)
        return told

    def _goes_on(self, page: TaskPage, missing: list[WatchedTask]) -> bool:
        """Tell whether a page after *page* may show one of the *missing* tasks."""
        moments = [task.created_at for task in page.tasks if task.created_at is not None]
        if not moments:
            return True
        now = self._poller.now()
        oldest = now - self._poller.shared.timing.age_of(min(moments))
        return any(entry.born < oldest + _LAG for entry in missing)

    def _judge(self, state: _List, shown: set[str]) -> None:
        """Learn from a call that was answered whether the list tells of our tasks."""
        now = self._poller.now()
        if shown:
            state.proven, state.pause = True, _FIRST_PAUSE
            state.calls += 1
        elif any(now - entry.born > _LAG for entry in self._entries(state).values()):
            state.failed(now)

    def _settle(self, state: _List, due: list[WatchedTask], shown: set[str]) -> None:
        """Ask singly about those that the list did not show, and about one as a control."""
        now = self._poller.now()
        waiting = [*due, *state.due]
        state.due.clear()
        for entry in waiting:
            if not entry.gone and entry.due == NEVER:  # else it was heard of, and planned
                entry.unlisted = entry.id not in shown and now - entry.born > _LAG
                self._poller.ask_singly(entry)
        if state.calls >= _CONTROL:
            state.calls = 0
            idle = [entry for entry in self._entries(state).values() if entry.due != NEVER]
            if idle:
                self._poller.ask_singly(min(idle, key=lambda entry: entry.born))
