"""Names in the output folder: those that wait together share one ``fsync`` of it.

A name is safe on the disk when its folder is, and making it so costs a few milliseconds, for one
name as for a hundred. So whatever is asked for while the thread for files is busy is done
together next, and each folder concerned is made durable once, before anybody is told.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs

from comet_async import files

_T = TypeVar("_T")

# Seconds to wait for more while many come at a time, as the journal's thread does.
_GATHER = 0.005


@attrs.define(eq=False)
class _Request:
    """Something to do, the folder in which it changes names, and who waits for it."""

    work: Callable[[], Any]
    folder: Path | None
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


@attrs.define(eq=False)
class Shelf:
    """The output folder of one run, in one event loop."""

    _waiting: list[_Request] = attrs.field(factory=list, init=False)
    _busy: bool = attrs.field(default=False, init=False)

    async def do(self, work: Callable[[], _T], *, folder: Path | None = None) -> _T:
        """Do *work* in the thread for files, and return its result.

        Args:
            work: What to do.
            folder: Where it changes names: they are safe on the disk before this returns. A
                caller that is cancelled waits for that too.

        Raises:
            DownloadError: The disk refuses.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(work, folder, future))
        if not self._busy:
            self._start()
        return cast("_T", await files.finished(future))

    # Callbacks, no task: a loop that ends cancels all tasks, and callers wait for answers.

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        thread = files.start(functools.partial(_do_all, batch))
        self._busy = True
        thread.add_done_callback(lambda _: self._done(batch))

    def _done(self, batch: Sequence[_Request]) -> None:
        _settle(batch)
        if not self._waiting:
            self._busy = False
        elif len(batch) > 1:
            asyncio.get_running_loop().call_later(_GATHER, self._start)
        else:
            self._start()


def _do_all(batch: Sequence[_Request]) -> None:
    changed: dict[Path, list[_Request]] = {}
    for request in batch:
        _try(request)
        if request.folder is not None and request.error is None:
            changed.setdefault(request.folder, []).append(request)
    for folder, requests in changed.items():
        try:
            files.sync_folder(folder)
        except Exception as error:  # noqa: BLE001 - as in `_try`
            for request in requests:
                request.error = error


def _try(request: _Request) -> None:
    try:
        request.result = request.work()
    except Exception as error:  # noqa: BLE001 - it is raised where the caller waits
        request.error = error


def _settle(batch: Sequence[_Request]) -> None:
    for request in batch:
        if isinstance(request.error, OSError):
            request.future.set_exception(files.refused(request.error))
        elif request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)
