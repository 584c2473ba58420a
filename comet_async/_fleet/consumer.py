"""Takes keys from a queue and hands them to a worker, by PGQueuer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import FailingListenerError, RetryRequested
from pgqueuer.domain.models import Job as Entry

from comet_async._fleet.queue import Queue, entry_point
from comet_async._postgres.connection import DatabaseError, interrupt
from comet_async.errors import JournalError

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("comet_async")

_BATCH = 50  # entries that a worker takes at a time
_POLL = timedelta(seconds=0.5)  # how often a worker that can take nothing more checks the queue

# In heartbeats. Together they are the time after which another worker has the entries of one that
# was killed, if it can take more jobs: by then the journal has freed their jobs, too.
_STALE = 1.5
_IDLE = 0.5
_RECONNECT = 0.5  # seconds between two attempts


class PutBackError(Exception):
    """The job goes back to the queue.

    Args:
        reason: Why, for the queue's log.
        pause: Seconds before it may be taken again.
        attempt: True if it counts as an attempt, False if it says nothing about the job.
    """

    def __init__(self, reason: str, pause: float = 0.0, *, attempt: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause = pause
        self.attempt = attempt


class _SplitDriver(PsycopgDriver):
    """PGQueuer's driver with a second connection for statements.

    On the listener's connection each statement would wait until the listener releases it, which
    takes up to a second.
    """

    def __init__(self, listener: psycopg.AsyncConnection[Any], statements: PsycopgDriver) -> None:
        super().__init__(listener)
        self._statements = statements

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement, and return its rows."""
        return await self._statements.fetch(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement, and return its status."""
        return await self._statements.execute(query, *args)


@attrs.define(eq=False, kw_only=True)
class Consumer:
    """Takes the entries of one account from a queue.

    Attributes:
        queue: The queue.
        account: Whose jobs.
        at_once: Maximum number of entries that it holds at a time.
        work: Called with an entry's id, its key, and how many attempts it had. An entry leaves the
            queue when this returns; after `PutBackError`, or if it is cancelled, it is queued
            again; after any other error it is kept as failed.
    """

    queue: Queue
    account: str
    at_once: int
    work: Callable[[int, str, int], Awaitable[None]]
    _stop: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _manager: QueueManager | None = attrs.field(default=None, init=False)
    _connections: tuple[psycopg.AsyncConnection[Any], ...] = attrs.field(default=(), init=False)

    def stop(self) -> None:
        """Take nothing more; `run` returns when `work` has returned for all entries."""
        self._stop.set()
        if self._manager is not None:
            self._manager.shutdown.set()

    def abandon(self) -> None:
        """Stop waiting for the database's answers: the entries at hand become stale."""
        for db in self._connections:
            interrupt(db)

    async def run(self) -> None:
        """Take entries until `stop` is called.

        When the connection is lost, the entries at hand are worked on to their end, and a new
        connection is tried for as long as the journal itself waits for its database.

        Raises:
            JournalError: The queue can't be used, or the database can't be reached for long.
        """
        lost_at: float | None = None
        while not self._stop.is_set():
            try:
                await self._consume()
            except (JournalError, FailingListenerError) as error:
                if isinstance(error, JournalError) and not error.retryable:
                    raise
                # A connection that worked in between has been lost just now.
                if lost_at is None or self._manager is not None:
                    lost_at = time.monotonic()
                    logger.warning("the connection to the queue was lost; connecting again")
                elif time.monotonic() > lost_at + self.queue.journal.patience:
                    raise
                self._manager = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECONNECT):
                    await self._stop.wait()

    async def _consume(self) -> None:
        """Take entries over one connection.

        Raises:
            JournalError: There is none, or it was lost.
            FailingListenerError: Notifications no longer arrive.
        """
        journal = self.queue.journal
        async with journal.connection() as db, journal.connection() as listener:
            self._connections = db, listener
            driver = _SplitDriver(listener, PsycopgDriver(db))
            manager = QueueManager(self.queue.queries(driver), channel=self.queue.settings.channel)
            manager.entrypoint(entry_point(self.account), on_failure="hold")(self._dispatch)
            manager.min_dequeue_poll_interval = _POLL
            self._manager = manager
            if self._stop.is_set():
                return
            await manager.run(
                dequeue_timeout=timedelta(seconds=_IDLE * journal.heartbeat),
                batch_size=min(_BATCH, self.at_once // 2),
                max_concurrent_tasks=self.at_once,
                heartbeat_timeout=timedelta(seconds=_STALE * journal.heartbeat),
                shutdown_on_listener_failure=True,
            )

    async def _dispatch(self, entry: Entry) -> None:
        """Work on one entry.

        Raises:
            RetryRequested: It is to be queued again.
        """
        try:
            await self.work(entry.id, (entry.payload or b"").decode(), entry.attempts)
        except PutBackError as error:
            back = error
        except asyncio.CancelledError:
            back = PutBackError("the worker was cancelled")
        else:
            return
        if not back.attempt:
            # PGQueuer would remove the entry if it met this cancellation, too.
            with contextlib.suppress(asyncio.CancelledError):
                await self._uncounted(entry)
        raise RetryRequested(timedelta(seconds=back.pause), reason=back.reason)

    async def _uncounted(self, entry: Entry) -> None:
        """Make up for the attempt that PGQueuer counts whenever an entry is queued again."""
        if self._manager is not None:
            with contextlib.suppress(DatabaseError):  # it can't be queued again either
                await self.queue.uncount(self._manager.queries.driver, entry.id)
