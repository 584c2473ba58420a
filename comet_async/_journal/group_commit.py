"""One thread, one connection, and one commit for all operations that wait.

How an operation travels: a task puts it on a queue and awaits a future. One thread takes all
that is queued, runs it in one transaction, commits, and only then wakes the tasks. So a
hundred tasks share the cost of one ``fsync``, and what an awaited call wrote is on the disk
when the call returns. A task that writes alone is served at once; after a commit for several, the
thread waits a moment for as many again.

An operation that fails does not affect the others: one that was refused has written nothing; if
anything worse happens (a full disk, a bug), the transaction is undone and each operation is run
again in one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs

from comet_async._cancellation import finished
from comet_async._journal.transitions import closed
from comet_async.errors import CometError, ForkedSessionError


class Connection(Protocol):
    """What a database gives the thread. All of it is called there only."""

    @property
    def writes(self) -> int:
        """Rows written so far."""
        ...

    def begin(self, *, writing: bool) -> None:
        """Begin a transaction, which only reads unless *writing*."""
        ...

    def finish(self) -> None:
        """Commit; an error means that nothing was written."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        ...

    def again(self, error: Exception) -> bool:
        """Return True if the transaction that met *error* is undone and may well pass now."""
        ...

    def translated(self, error: Exception) -> Exception:
        """Return what the caller sees of *error*."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


_T = TypeVar("_T")
C = TypeVar("C", bound=Connection)
Hook = Callable[[str], None]

logger = logging.getLogger("comet_async.journal")

# The first of a very long queue must not wait for the last.
_BATCH = 1000

# Seconds that the thread waits for more while many write at a time: a commit for each few costs
# twice the CPU, most of it for waking threads. A task takes a thousand times as long.
_GATHER = 0.005
_ENOUGH = 16  # writes; each of that many pays little for their commit

# Operations that may fail unseen: reading, opening, and what the end of a lease makes up for.
_LOSES_NOTHING = frozenset({"", "open", "claim", "release", "queue", "leave"})


@attrs.define(eq=False)
class _Request:
    """One queued operation and the future that waits for it."""

    tag: str
    work: Callable[[Any], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@attrs.define(eq=False)
class GroupCommitWriter(Generic[C]):
    """One thread with one connection, for any number of tasks.

    Nothing here belongs to an event loop, so several loops may use it, one after the other
    or at once.

    Args:
        name: What is opened, for messages.
        hook: Called in the thread before and after the commit of each tagged operation.

    Warns:
        ResourceWarning: when it is never closed.
    """

    name: object
    _hook: Hook | None = None
    _connection: C | None = attrs.field(default=None, init=False)
    _thread: ThreadPoolExecutor = attrs.field(init=False)
    _mutex: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _queue: deque[_Request] = attrs.field(factory=deque, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _last: int = attrs.field(default=0, init=False)
    _wanted: int = attrs.field(default=0, init=False)
    _enough: threading.Event = attrs.field(factory=threading.Event, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _pid: int = attrs.field(factory=os.getpid, init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="comet_async journal")

    # On the event loop ------------------------------------------------------------------

    async def open(self, connect: Callable[[], C]) -> None:
        """Have the thread call *connect*; what fails leaves nothing open."""
        try:
            await asyncio.shield(self._in_thread(partial(self._open, connect)))
        except BaseException:
            await self.aclose()
            raise

    async def run(self, tag: str, work: Callable[[C], _T]) -> _T:
        """Have *work* done and committed, then return its result.

        *tag* names what is written to the hook, in one word or several; reading has none. A
        caller that is cancelled only stops waiting.
        """
        if os.getpid() != self._pid:
            raise ForkedSessionError(
                f"the journal {self.name} was opened by process {self._pid}",
                hint="open it in the process that uses it",
            )
        loop = asyncio.get_running_loop()
        request = _Request(tag, work, loop.create_future())
        with self._mutex:
            if self._closed:
                raise closed()
            self._queue.append(request)
            if len(self._queue) == self._wanted:
                self._enough.set()
            if not self._draining:
                self._draining = True
                loop.run_in_executor(self._thread, self._drain)
        return cast("_T", await request.future)

    async def aclose(self) -> None:
        """Finish what is queued and close; a caller that is cancelled waits for that, too."""
        with self._mutex:
            self._closed = True
            self._enough.set()
            if self._ended or os.getpid() != self._pid:
                return
            ended = self._in_thread(self._close)  # behind all that is queued
        await finished(ended)  # what is still locked then can't be opened again

    def _in_thread(self, work: Callable[[], None]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(_retrieved)  # a cancelled caller does not
        return future

    def __del__(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            text = f"unclosed journal {self.name}"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self._thread.submit(_shut, self._connection)

    # In the thread ----------------------------------------------------------------------

    def _open(self, connect: Callable[[], C]) -> None:
        self._connection = connect()

    def _close(self) -> None:
        _shut(self._connection)
        self._connection = None
        with self._mutex:
            self._ended = True
            self._thread.shutdown(wait=False)

    def _drain(self) -> None:
        while True:
            if self._last > 1:
                self._gather()
            batch = self._take()
            self._last = len(batch)  # after a pause the next one is alone again
            if not batch:
                return
            self._commit(batch)
            self._wake(batch)

    def _gather(self) -> None:
        """Wait for more operations, but not for more than there were last time."""
        with self._mutex:
            self._wanted = max(self._last, _ENOUGH)
            if self._closed or len(self._queue) >= self._wanted:
                return
            self._enough.clear()
        self._enough.wait(_GATHER)

    def _take(self) -> list[_Request]:
        with self._mutex:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self._draining = bool(batch)
        return batch

    def _commit(self, batch: list[_Request]) -> None:
        """Do *batch* in one transaction; if that fails, each operation in one of its own."""
        db = cast("C", self._connection)
        while True:
            try:
                db.begin(writing=any(request.tag for request in batch))
            except Exception as error:  # noqa: BLE001 - it is raised where the callers wait
                for request in batch:
                    request.error = db.translated(error)
                return
            try:
                self._finish(db, batch)
            except Exception as error:  # noqa: BLE001 - as above
                if db.again(error):
                    continue
                if len(batch) == 1:
                    batch[0].error = db.translated(error)
                else:
                    for request in batch:
                        self._commit([request])
            return

    def _finish(self, db: C, batch: list[_Request]) -> None:
        try:
            for request in batch:
                _apply(db, request)
            self._call_hook("before", batch)
            db.finish()
        finally:
            db.rollback()  # if it was not committed
        self._call_hook("after", batch)

    def _call_hook(self, moment: str, batch: list[_Request]) -> None:
        if self._hook is not None:
            for request in batch:
                if request.error is None:
                    for tag in request.tag.split():
                        self._hook(f"{moment}:{tag}")

    def _wake(self, batch: list[_Request]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
        for request in batch:
            loops.setdefault(request.future.get_loop(), []).append(request)
        for loop, requests in loops.items():
            try:
                loop.call_soon_threadsafe(_settle, requests)
            except RuntimeError:  # the loop has ended, and its callers with it
                _report(requests)


def _apply(db: Connection, request: _Request) -> None:
    """Run one operation inside the transaction of all."""
    before = db.writes
    try:
        request.result, request.error = request.work(db), None
    except CometError as error:
        if db.writes != before:
            raise  # it is undone with the whole transaction, and alone the second time
        request.error = error


def _settle(requests: list[_Request]) -> None:
    for request in requests:
        if request.future.done():  # its caller was cancelled
            _report([request])
        elif request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)


def _report(requests: list[_Request]) -> None:
    """Log the failures that no caller will see."""
    for request in requests:
        if request.error is not None and request.tag not in _LOSES_NOTHING:
            logger.error("a write failed after its caller was gone: %s", request.error)


def _retrieved(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _shut(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()
