"""The threads that read images: they rarely wake the event loop, however small the images are."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import attrs

T = TypeVar("T")

# The disk is kept busy while one of them hashes, and a batch can't crowd the machine.
_THREADS = 2

# Seconds after which a thread hands over what it has. To wake the event loop takes longer than to
# read a small image, so it is not done for each.
_HAND_OVER = 0.005


@attrs.define(eq=False)
class _Read:
    """An image to read, and the future of its caller."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]
    found: Any = None
    error: BaseException | None = None

    def do(self) -> None:
        """Read it, in a thread."""
        try:
            self.found = self.work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
            self.error = error


@attrs.define(eq=False)
class Reader:
    """Reads the images of one event loop, in threads that each read one after the other."""

    _waiting: deque[_Read] = attrs.field(factory=deque, init=False)
    _threads: int = attrs.field(default=0, init=False)

    async def read(self, work: Callable[[], T]) -> T:
        """Do *work* in a thread, and return its result."""
        loop = asyncio.get_running_loop()
        request = _Read(work, loop.create_future())
        self._waiting.append(request)
        if self._threads < _THREADS:
            self._start(loop)
        return cast("T", await request.future)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a thread; if that fails and no other one runs, end the waiting reads."""
        try:
            thread = loop.run_in_executor(_pool(os.getpid()), self._drain, loop)
        except RuntimeError as error:  # the machine has no thread to spare at present
            while self._waiting and not self._threads:
                request = self._waiting.popleft()
                request.error = error
                _settle([request])
            return
        self._threads += 1
        thread.add_done_callback(functools.partial(self._ended, loop))

    def _ended(self, loop: asyncio.AbstractEventLoop, _thread: asyncio.Future[None]) -> None:
        self._threads -= 1
        if self._waiting:  # it came when the thread had looked for the last time
            self._start(loop)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the waiting images, in a thread, and hand them over.

        Not as its result: a pool that could not start a thread runs this later all the same.
        """
        done: list[_Read] = []
        until = time.monotonic() + _HAND_OVER
        while self._waiting:
            with contextlib.suppress(IndexError):  # the other thread has taken the last one
                request = self._waiting.popleft()
                if request.future.cancelled():
                    continue
                request.do()
                done.append(request)
            if time.monotonic() > until:
                _hand_over(loop, done)
                done, until = [], time.monotonic() + _HAND_OVER
        _hand_over(loop, done)


def _hand_over(loop: asyncio.AbstractEventLoop, reads: Sequence[_Read]) -> None:
    if reads:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_settle, reads)


def _settle(reads: Sequence[_Read]) -> None:
    for each in reads:
        if each.future.done():  # its caller was cancelled
            continue
        if each.error is not None:
            each.future.set_exception(each.error)
        else:
            each.future.set_result(each.found)


_readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Reader] = weakref.WeakKeyDictionary()


def reader_of(loop: asyncio.AbstractEventLoop) -> Reader:
    """Return the reader of *loop*."""
    reader = _readers.get(loop)
    if reader is None:
        reader = _readers[loop] = Reader()
    return reader


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # By process: threads do not survive a fork.
    return ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="comet-image")
