"""What the journal costs: the same moves in memory and on disk, many jobs at a time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import attrs

from benchmarks.core.bench import Bench, in_rounds, ratio, table
from benchmarks.core.meter import cpu_seconds
from benchmarks.core.report import Section, median
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import (
    Destination,
    Journal,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    StoredImage,
)
from comet_async._journal.states import JobState
from comet_async.journal import SqliteJournal

_MEMORY = "in memory"
_NOW = 1_722_769_557.0
_PLACES = {_MEMORY: 32, "SQLite, 1 at a time": 1, "SQLite, 32 at a time": 32, "SQLite, 128": 128}
_CALLS = 6


async def _job(journal: Journal, number: int) -> None:
    """Take one job through its life, with the calls that a job of a folder makes."""
    new = NewJob(
        key=f"ce1-{number:026d}",
        kind="expand",
        account="bench",
        params={"left_expansion_ratio": 0.25, "right_expansion_ratio": 0.25, "n": 1},
        n=1,
        source=f"photos/{number}.png",
        image_sha=f"{number:064x}",
        dest=f"{number}",
    )
    (record,) = await journal.plan([new], now=_NOW)
    sent = await journal.send(
        record, now=_NOW, post_deadline=_NOW + 60, limits=Limits(), run="bench"
    )
    if isinstance(sent, Refusal):
        raise TypeError(sent)
    record = await journal.move(sent, JobState.SUBMITTED, now=_NOW, task_id=f"{number}")
    images = (StoredImage(index=0, url=f"https://example.com/{number}.png"),)
    record = await journal.move(record, JobState.SUCCEEDED, now=_NOW, images=images)
    file = SavedFile(index=0, name=f"{number}.png", sha256=f"{number:064x}", size=20_000)
    place = Destination(source=new.source, dest=f"{number}", files=(file,))
    record = await journal.move(record, JobState.SAVING, now=_NOW, place=place)
    place = attrs.evolve(place, files=(attrs.evolve(file, kept=True),))
    await journal.move(record, JobState.DONE, now=_NOW, place=place)


async def _measured(name: str, path: Path, jobs: int) -> tuple[float, float]:
    """Return CPU ms a job, and jobs a second."""
    journal: Journal = MemoryJournal() if name == _MEMORY else await SqliteJournal.open(path)
    numbers = iter(range(jobs))

    async def work() -> None:
        for number in numbers:
            await _job(journal, number)

    try:
        cpu, begin = cpu_seconds(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_PLACES[name]):
                group.create_task(work())
        return 1000 * (cpu_seconds() - cpu) / jobs, jobs / (time.perf_counter() - begin)
    finally:
        await journal.aclose()


def journal(bench: Bench) -> Section:
    """Measure journals alone, without any network."""
    jobs = bench.count(1000, 50)
    files = (bench.scratch / f"journal-{number}.sqlite3" for number in range(10_000))

    def measure(name: str) -> tuple[float, float]:
        count = jobs if _PLACES[name] > 1 else max(10, jobs // 10)
        return asyncio.run(_measured(name, next(files), count))

    found = in_rounds(list(_PLACES), measure, rounds=bench.count(5, 1), what="the journal alone")
    rows = []
    for name, samples in found.items():
        cpu, speed = (median([sample[which] for sample in samples.values()]) for which in (0, 1))
        rows.append([name, f"{cpu:.2f}", f"{speed:,.0f}"])
    more = ratio(found, "SQLite, 32 at a time", lambda sample: sample[0], _MEMORY)
    return Section(
        name="journal",
        title="The journal",
        words=f"Whole lives of jobs without any network: {_CALLS} calls each, all of them writes, "
        "as a folder makes. On disk each call returns when its write is safe there (WAL, "
        "`synchronous = FULL`); those that wait together share one `fsync`, which is why many at "
        f"a time are so much faster. On disk costs {more:.1f} × the CPU of in memory, 32 at a "
        "time; jobs a second depend on the disk.",
        tables=[table("", ("journal", "CPU ms a job", "jobs a second"), rows)],
    )
