"""A service that runs for a week on a clock that jumps, and for ten minutes on a real one.

As a program, ``python -m benchmarks.parts.soak SECONDS VIRTUAL``, it runs one of them and prints
what the process held at eight moments.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import attrs
from aiohttp import connector

from benchmarks.core import images
from benchmarks.core.bench import Bench, scratch
from benchmarks.core.meter import resident_mib
from benchmarks.core.programs import last_line
from benchmarks.core.quota import Tasks, serving
from benchmarks.core.report import Section, Table
from comet_async import CometSession, Gateway, Margins
from comet_async.testing import VirtualLoop

_LOOKS = 8
_AT_A_TIME = 4
_PAUSES = {True: 3600.0, False: 1.0}  # seconds between two rounds of jobs, by VIRTUAL
_MARGINS = Margins(left=0.25, right=0.25)


@attrs.frozen(kw_only=True)
class Look:
    """What the process held.

    Attributes:
        jobs: How many were done by then.
        mib: Memory.
        objects: Objects that the garbage collector knows.
        files: Open descriptors.
        threads: Threads.
        journal: Bytes of the journal.
    """

    jobs: int
    mib: float
    objects: int
    files: int
    threads: int
    journal: int


def _look(jobs: int, journal: Path) -> Look:
    gc.collect()
    kept = (file for file in journal.parent.glob(f"{journal.name}*"))
    return Look(
        jobs=jobs,
        mib=resident_mib(),
        objects=len(gc.get_objects()),
        files=len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,  # noqa: PTH208 - cheaper than `iterdir`
        threads=threading.active_count(),
        journal=sum(file.stat().st_size for file in kept),
    )


async def _serve_and_buy(folder: Path, seconds: float, *, virtual: bool) -> list[Look]:
    loop = asyncio.get_running_loop()
    clock = getattr(loop, "wall_time", time.time)
    tasks = Tasks(images.png(2000, -1), _AT_A_TIME, 0.5 if not virtual else 15.0, lists=True)
    tasks.now = clock
    journal, looks, jobs = folder / "journal.sqlite3", list[Look](), 0

    async def buy(comet: CometSession, number: int) -> None:
        target = folder / f"{number}.png"
        await comet.expand(images.png(2000, number), _MARGINS, out=target)
        target.unlink()

    async with serving(tasks) as root:
        gateway = Gateway.comet(root)
        async with CometSession("key", gateway=gateway, journal=journal) as comet:
            begin = loop.time()
            while len(looks) <= _LOOKS:
                await asyncio.gather(*(buy(comet, jobs + n) for n in range(_AT_A_TIME)))
                jobs += _AT_A_TIME
                if loop.time() - begin >= len(looks) * seconds / _LOOKS:
                    looks.append(_look(jobs, journal))
                tasks.forget()
                await asyncio.sleep(_PAUSES[virtual])
    return looks


def soak(bench: Bench) -> Section:
    """Run both."""
    tables = []
    for title, seconds, virtual in (
        (
            "A week, a round of jobs each hour",
            7 * 86_400 // (50 if bench.quick else 1),
            "virtual",
        ),
        ("Ten minutes, as fast as it goes with pauses of a second", bench.count(600, 8), ""),
    ):
        words = (str(seconds), virtual)
        looks = [Look(**look) for look in json.loads(last_line("parts.soak", *words, timeout=3600))]
        rows = [
            [
                f"{look.jobs:,}",
                f"{look.mib:.1f}",
                f"{look.objects:,}",
                str(look.files),
                str(look.threads),
                f"{look.journal / 1024:,.0f}",
            ]
            for look in (looks[1], looks[_LOOKS // 2], looks[-1])
        ]
        head = ("jobs done", "memory MiB", "objects", "descriptors", "threads", "journal KiB")
        tables.append(Table(title=title, head=head, rows=rows))
    return Section(
        name="soak",
        title="A service that runs for long",
        words="One session with a journal, `expand(out=…)` four at a time in rounds, and a server "
        "in the same process. The week passes on a clock that jumps. The journal keeps every job, "
        "so that none is ever paid twice; up to 4 MiB of it are SQLite's own log. Two things take "
        "memory, up to a limit: SQLite's cache (8 MiB), and when the newest 8,192 tasks were "
        "submitted (0.2 kB each).",
        limit="nothing but the disk: every job stays in the journal.",
        tables=tables,
    )


def main(seconds: str, virtual: str) -> None:
    """Run one, and print."""
    with scratch() as folder:
        work = _serve_and_buy(folder, float(seconds), virtual=bool(virtual))
        with (
            asyncio.Runner(loop_factory=VirtualLoop if virtual else None) as runner,
            # aiohttp asks the machine's clock how long a connection was idle. On a clock that jumps
            # none would ever be closed, and a timer would look for them every few seconds.
            mock.patch.object(connector, "monotonic", runner.get_loop().time),
        ):
            looks = runner.run(work)
    sys.stdout.write(json.dumps([attrs.asdict(look) for look in looks]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
