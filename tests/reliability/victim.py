"""A process that makes processes to be killed: each is a program that expands a folder.

It imports everything once and forks for each order, a line of JSON on its standard input; it
answers with the child's id, and with its exit status when it has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comet_async import CometSession, Margins, Timeouts
from comet_async._jobs.tasks import SessionTasks
from comet_async._results import files
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from tests.reliability.fast import FastClock, FastLoop

MARGINS = Margins(left=0.25, right=0.25)
PATIENT = Timeouts(connect=200.0, response=1200.0, request=400.0)
"""The machine that runs the tests may be busy; on a fast clock that is long."""

DONE, UNCERTAIN, OTHER = 0, 3, 1


def die() -> None:
    """End as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _half_written() -> None:
    write = os.write

    def half(fd: int, data: Any) -> int:  # noqa: ANN401 - whatever has bytes
        if bytes(data[:4]) == b"\x89PNG":
            write(fd, data[: len(data) // 2])
            die()
        return write(fd, data)

    files.os.write = half  # type: ignore[attr-defined]  # the module's own import


def _named_and_not_synced() -> None:
    sync_folder = files.sync_folder

    def die_before(folder: Path) -> None:
        if any(folder.glob("*.png")):  # the folder's own name was made safe before
            die()
        sync_folder(folder)

    files.sync_folder = die_before


def _between_polls() -> None:
    poll = SessionTasks.poll

    async def once(self: SessionTasks, task_id: str, **more: Any) -> Any:  # noqa: ANN401 - passed on
        await poll(self, task_id, **more)
        die()

    SessionTasks.poll = once  # type: ignore[method-assign]  # for this process only


PLACES: dict[str, Callable[[], None]] = {
    "half written": _half_written,
    "named": _named_and_not_synced,
    "polled": _between_polls,
}
"""Moments between two commits of the journal."""


async def expand(order: dict[str, Any]) -> int:
    """Run one folder; it may not come to its end."""
    point = order["point"]
    PLACES.get(point, int)()
    if point.startswith("limit "):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        size = int(point.removeprefix("limit "))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def hook(moment: str) -> None:
        if moment == point:
            die()

    out = Path(order["out"])
    clock = FastClock(order["since"])
    async with await SqliteJournal.open(out / JOURNAL_NAME, clock=clock, hook=hook) as journal:
        async with CometSession(
            order["key"],
            gateway=order["url"],
            journal=journal,
            clock=clock,
            settle=order["settle"],
            request_timeout=PATIENT,
            schedule=2.0,
        ) as comet:
            run = comet.expand_folder(order["photos"], out, MARGINS)
            statuses = {str(outcome.status) async for outcome in run}
    if statuses == {"done"}:
        return DONE
    return UNCERTAIN if statuses <= {"done", "uncertain"} else OTHER


def child(order: dict[str, Any]) -> int:
    """Run one order in a process of its own."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(expand(order))


def serve() -> None:
    """Fork for each line of the input."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = OTHER
            try:
                code = child(json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)  # noqa: T201 - the answer
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    serve()
