"""One call of the server's list instead of many polls, where the list proves to work.

Nothing is taken on trust. A list that showed none of our tasks is not used for a while; a task
that it leaves out is polled by itself; and now and then a task that it shows as unfinished is
polled too, so that a list that is out of date is detected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from comet_async._polling.watch import NEVER, WatchedTask
from comet_async.events import ListPolled
from comet_async.models import Task, TaskPage

if TYPE_CHECKING:
    from comet_async._polling.poller import Poller


LIST_INTERVAL = 1.0
"""Seconds between two pages of the list, on average; fewer while tasks are known to be short."""

# With tasks of a few seconds, noticing each end half a second late adds a sixth to a run. So the
# interval is at most this share of the age at which nearly all of them have ended.
_SHARE = 0.05
_SHORTEST_INTERVAL = 0.2

# With fewer tasks a list call saves nothing.
_FEWEST = 4
# Kling's pages hold up to 500 (https://klingai.com/document-api/api/image/common/outpainting);
# a small one is quicker. It holds four times the tasks that are waited for: those that take long
# lie behind all that were submitted and ended since.
_SPARE = 4
_SIZES = (30, 100, 200, 500)
_MOST_PAGES = 20
# A list that takes longer is of no use.
_TIMEOUT = 5.0
# A list that did not work is tried again after a minute, then after two, up to an hour.
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 3600.0
# A list may lag a little behind the single answers, and behind the creation of a task.
_LAG = 5.0
# Every n list calls, the oldest unfinished task is also polled by itself.
_CONTROL = 30
# And each task when most have ended, and again at each multiple of that age.
_OLDER = 2.0


@attrs.define(eq=False)
class _List:
    """What is known about the list of one kind, and what waits for its next call.

    Attributes:
        kind: The kind.
        proven: True if the last call showed tasks of ours.
        pause: Seconds to leave the list alone after the next failure.
        not_before: When the next call may be made.
        stale_at: When it was found to be out of date.
        calls: Calls since the last control.
        due: The due tasks.
        running: The call that is being made, or the timer of the next one.
    """

    kind: str
    proven: bool = False
    pause: float = _FIRST_PAUSE
    not_before: float = 0.0
    stale_at: float = -NEVER
    calls: int = 0
    due: list[WatchedTask] = attrs.field(factory=list)
    running: asyncio.Task[None] | asyncio.TimerHandle | None = None

    def on_failure(self, now: float) -> None:
        """Leave the list alone for a while."""
        self.proven = False
        self.not_before = now + self.pause
        self.pause = min(_LONGEST_PAUSE, 2.0 * self.pause)


class ListPolling:
    """Serves due polls of one event loop from the server's list.

    Args:
        poller: Whose polls.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._lists: dict[str, _List] = {}

    def takes(self, entry: WatchedTask, now: float) -> bool:
        """Take a due task over if a list call is likely to show it.

        Returns:
            False to have it polled by itself.
        """
        state = self._of(entry.kind)
        if len(self._entries(state)) < _FEWEST:
            return False
        if not state.proven:
            # A trial goes beside the single polls and delays none of them.
            if state.running is None and now >= state.not_before:
                self._start(state)
            return False
        if entry.unlisted or entry.failures is not None or self._needs_control(entry, now):
            return False
        waits = state.running is not None or now < state.not_before
        if waits and entry.notified is not None and entry.notified.pending:
            return False  # a callback is confirmed at once
        state.due.append(entry)
        if state.running is None:
            wait = max(0.0, state.not_before - now)
            state.running = self._poller.call_later(wait, self._start, state)
        return True

    def crowd(self, entry: WatchedTask) -> int:
        """Return how many tasks the next poll of *entry* serves: 1 if it is polled by itself."""
        state = self._of(entry.kind)
        if not state.proven or entry.unlisted:
            return 1
        crowd = len(self._entries(state))
        return 1 if crowd < _FEWEST else min(_SIZES[-1], crowd)

    def check_against(self, entry: WatchedTask, task: Task) -> None:
        """Detect a stale list, one that reports statuses a task has already left."""
        if not entry.listed or task.status == entry.status or task.updated_at is None:
            return
        state, now = self._of(entry.kind), self._poller.now()
        if not state.proven:
            return
        changed_at = now - self._poller.shared.timing.age_of(task.updated_at, now)
        if changed_at + _LAG >= entry.alive_at:
            return
        state.stale_at, state.pause = now, _LONGEST_PAUSE
        state.on_failure(now)
        if isinstance(state.running, asyncio.TimerHandle):  # a call to come
            state.running.cancel()
            state.running = None
            self._poll_unlisted(state, [], set())

    def cancel(self) -> None:
        """Stop: no task is waited for any more."""
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
        return self._poller.index.of_kind(state.kind)

    def _interval(self) -> float:
        share = _SHARE * self._poller.shared.timing.schedule.late()
        return min(LIST_INTERVAL, max(_SHORTEST_INTERVAL, share))

    def _needs_control(self, entry: WatchedTask, now: float) -> bool:
        age = now - entry.created
        overdue = age > _OLDER * (entry.polled_at - entry.created)
        return overdue and age > self._poller.shared.timing.schedule.late()

    # ------------------------------------------------------------------ calling

    def _start(self, state: _List) -> None:
        began = self._poller.now()
        try:
            call = self._poller.start_task(self._call(state, began))
        except Exception:  # noqa: BLE001  # as for a call that failed: each task is polled singly
            state.running = None
            state.on_failure(began)
            self._poll_unlisted(state, [], set())
        else:
            state.running = None if call.done() else call  # an eager one may be over

    async def _call(self, state: _List, began: float) -> None:
        """Read pages until each due task was shown or can't be; poll the others singly."""
        due, state.due = state.due, []
        shown: set[str] = set()
        pages = 0
        try:
            for number in range(1, _MOST_PAGES + 1):
                pages = number
                page, sent = await self._read(state, number)
                shown |= self._apply(state, page, sent)
                missing = [entry for entry in due if not entry.gone and entry.id not in shown]
                # A further page has to be worth more than single polls.
                if page.last or len(missing) < _FEWEST or not self._may_follow(page, missing):
                    break
        except asyncio.CancelledError:
            for entry in (*due, *state.due):
                self._poller.poll_later(entry)
            raise
        except Exception:  # noqa: BLE001  # whatever it is: each task is polled singly
            state.on_failure(self._poller.now())
        else:
            if began > state.stale_at:  # otherwise this page predates the stale one
                self._learn(state, shown)
        finally:
            if state.running is asyncio.current_task():
                state.running = None
        state.not_before = max(state.not_before, began + pages * self._interval())
        self._poll_unlisted(state, due, shown)
        self._poller.after_poll()

    async def _read(self, state: _List, number: int) -> tuple[TaskPage, float]:
        poller = self._poller
        shared = poller.shared
        sent = poller.now()
        wanted = _SPARE * len(self._entries(state))
        size = next((size for size in _SIZES if size >= wanted), _SIZES[-1])
        shared.counters.list_calls += 1
        async with asyncio.timeout(_TIMEOUT):
            page = await shared.source.poll_page(number, size, kind=state.kind)
        if shared.sink.listening:
            entries = self._entries(state)
            event = ListPolled(
                kind=state.kind,
                page=number,
                tasks=len(page.tasks),
                watched=sum(task.id in entries for task in page.tasks),
                seconds=poller.now() - sent,
            )
            shared.sink.emit(event)
        return page, sent

    def _apply(self, state: _List, page: TaskPage, sent: float) -> set[str]:
        """Apply what *page* shows; return the ids of the tasks of ours that it shows."""
        poller = self._poller
        shown: set[str] = set()
        for task in page.tasks:
            entry = self._entries(state).get(task.id)
            if entry is None:
                continue
            entry.unlisted = False
            shown.add(task.id)
            # A list may leave the images out: then the task itself has to show them.
            if not task.succeeded or task.images:
                poller.apply_listed(entry, task, sent)
            elif entry.due != NEVER:
                poller.poll_now(entry)
        return shown

    def _may_follow(self, page: TaskPage, missing: list[WatchedTask]) -> bool:
        """Return True if a page after *page* may show one of the *missing* tasks."""
        moments = [task.created_at for task in page.tasks if task.created_at is not None]
        if not moments:
            return True
        now = self._poller.now()
        oldest = now - self._poller.shared.timing.age_of(min(moments), now)
        return any(entry.created < oldest + _LAG for entry in missing)

    def _learn(self, state: _List, shown: set[str]) -> None:
        """Learn from a call that was answered whether the list shows our tasks."""
        now = self._poller.now()
        if shown:
            state.proven, state.pause = True, _FIRST_PAUSE
            state.calls += 1
        elif any(now - entry.created > _LAG for entry in self._entries(state).values()):
            state.on_failure(now)

    def _poll_unlisted(self, state: _List, due: list[WatchedTask], shown: set[str]) -> None:
        """Poll by themselves the tasks that the list did not show, and one as a control."""
        now = self._poller.now()
        waiting = [*due, *state.due]
        state.due.clear()
        for entry in waiting:
            if not entry.gone and entry.due == NEVER:  # otherwise it was shown, and scheduled
                entry.unlisted = entry.id not in shown and now - entry.created > _LAG
                self._poller.poll_now(entry)
        if state.calls >= _CONTROL:
            state.calls = 0
            idle = [entry for entry in self._entries(state).values() if entry.due != NEVER]
            if idle:
                self._poller.poll_now(min(idle, key=lambda entry: entry.created))
