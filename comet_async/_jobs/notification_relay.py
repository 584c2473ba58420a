"""Callbacks that reach one worker of a journal, passed on to the one that waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar

import attrs

from comet_async._journal.shared import SharedJournal
from comet_async._wire.decode import Notification
from comet_async.errors import JournalError
from comet_async.waiter import NotificationSource

logger = logging.getLogger("comet_async")

_relayed: ContextVar[bool] = ContextVar("_relayed", default=False)


@attrs.define(eq=False)
class NotificationRelay:
    """Sends what a receiver is notified of to the other workers, and notifies it of theirs.

    Attributes:
        journal: Carries the notifications; they are hints, and one may be lost.
        receiver: This worker's receiver.
    """

    journal: SharedJournal
    receiver: NotificationSource
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop, init=False)

    def start(self) -> Callable[[], None]:
        """Begin; return what ends it."""
        ends = [self.receiver.subscribe(self._received), self.journal.on_hint(self._hinted)]

        def stop() -> None:
            for end in ends:
                end()

        return stop

    def _received(self, notification: Notification) -> None:
        if not _relayed.get() and not self._loop.is_closed():
            # It may be called in any thread.
            self._loop.call_soon_threadsafe(self._send, notification)

    def _send(self, notification: Notification) -> None:
        task = asyncio.ensure_future(self._pass_on(notification))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, notification: Notification) -> None:
        try:
            await self.journal.send_hint(
                notification.task_id or "", notification.external_task_id or ""
            )
        except JournalError as error:
            logger.info("a notification was not passed on: %s", error.message)

    def _hinted(self, task_id: str, key: str) -> None:
        notify = getattr(self.receiver, "notify", None)  # a source of the user's may have none
        if notify is None:
            return
        token = _relayed.set(True)
        try:
            notify(Notification(task_id=task_id, external_task_id=key or None, status=None))
        finally:
            _relayed.reset(token)
