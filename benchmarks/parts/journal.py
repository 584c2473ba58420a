"""What the journal costs: the same moves in memory and on disk, many jobs at a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.core.bench import Bench, in_rounds, ratio, table
from benchmarks.core.meter import cpu_seconds
from benchmarks.core.report import Section, Table, median
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
from comet_async.runs import JOURNAL_NAME

_MEMORY = "in memory"
_NOW = 1_722_769_557.0
_PLACES = {_MEMORY: 32, "SQLite, 1 at a time": 1, "SQLite, 32 at a time": 32, "SQLite, 128": 128}
_CALLS = 6


def _new(number: int) -> NewJob:
    return NewJob(
        key=f"ce1-{number:026d}",
        kind="expand",
        account="bench",
        params={"left_expansion_ratio": 0.25, "right_expansion_ratio": 0.25, "n": 1},
        n=1,
        source=f"photos/{number}.png",
        image_sha=f"{number:064x}",
        dest=f"{number}",
    )


async def _job(journal: Journal, number: int) -> None:
    """Take one job through its life, with the calls that a job of a folder makes."""
    new = _new(number)
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


# ------------------------------------------------------------------------ a very large one

_MANY = 1_000_000
_PLANNED = 1000  # jobs planned in it, 32 at a time
_MULTIPLY = """
    INSERT INTO job ({columns}) WITH RECURSIVE n (i) AS
    (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
    SELECT {values} FROM n, job WHERE job.id = 1
"""


def _multiply(path: Path, count: int) -> None:
    """Copy the one finished job of the journal at *path* until it has *count*, with files."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        names = [row[1] for row in db.execute("PRAGMA table_info(job)") if row[1] != "id"]
        new = {
            "key": "printf('ce1-%s', lower(hex(randomblob(13))))",
            "source": "printf('photos/%07d.png', i)",
            "image_sha": "lower(hex(randomblob(32)))",
            "task_id": "printf('%018d', i)",
        }
        values = ", ".join(new.get(name, name) for name in names)
        db.execute(_MULTIPLY.format(columns=", ".join(names), values=values, count=count))
        moves = ("planned", "sending", "submitted", "succeeded", "saving", "done")
        for old, state in itertools.pairwise(moves):
            db.execute(
                "INSERT INTO event (job, at, old, new, why)"
                " SELECT id, updated_at, ?, ?, '' FROM job WHERE id > 1",
                (old, state),
            )
        db.execute(
            "INSERT INTO destination SELECT id, substr(source, 8), source FROM job WHERE id > 1"
        )
        db.execute(
            "INSERT INTO file SELECT id, substr(source, 8), 0, substr(source, 8) || '.png',"
            " image_sha, 20000, 1 FROM job WHERE id > 1"
        )
        db.commit()


async def _planned(folder: Path) -> tuple[float, float]:
    """Return the CPU seconds of opening, and the CPU ms of planning a job (32 at a time)."""
    begin = cpu_seconds()
    journal = await SqliteJournal.open(folder / JOURNAL_NAME)
    opened = cpu_seconds() - begin
    numbers = iter(range(_MANY, _MANY + _PLANNED))

    async def work() -> None:
        for number in numbers:
            await journal.plan([_new(number)], now=_NOW)

    async with journal:
        begin = cpu_seconds()
        await asyncio.gather(*(work() for _ in range(32)))
        return opened, 1000 * (cpu_seconds() - begin) / _PLANNED


@contextlib.contextmanager
def _large(bench: Bench, count: int) -> Iterator[Path]:
    """Have a folder whose journal has *count* finished jobs."""
    folder = bench.scratch / f"journal-of-{count}"
    path = folder / JOURNAL_NAME
    path.parent.mkdir(parents=True)

    async def one() -> None:
        async with await SqliteJournal.open(path) as journal:
            await _job(journal, 0)

    asyncio.run(one())
    _multiply(path, count)
    try:
        yield folder
    finally:
        path.unlink()


def _children() -> float:
    """Return the CPU seconds of all programs that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size_table(bench: Bench) -> Table:
    rows = []
    for count in (1000, bench.count(_MANY, 2000)):
        with _large(bench, count) as folder:
            size = (folder / JOURNAL_NAME).stat().st_size
            opened, planned = asyncio.run(_planned(folder))
            command = [sys.executable, "-m", "comet_async", "jobs", str(folder)]
            before = _children()
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - ours
            shown = _children() - before
        cells = [f"{size / 1e6:,.0f}", f"{opened:.2f}", f"{shown:.2f}", f"{planned:.2f}"]
        rows.append([f"{count:,}", *cells])
    head = ("jobs", "MB", "open, CPU s", "`comet-async jobs`, CPU s", "plan, CPU ms a job")
    return Table(title="Journals of finished jobs", head=head, rows=rows)


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
        limit="the `fsync` of the disk for one at a time, and waking two threads for each batch "
        "otherwise.",
        tables=[
            table("", ("journal", "CPU ms a job", "jobs a second"), rows),
            _size_table(bench),
        ],
    )
