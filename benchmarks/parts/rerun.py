"""What a run costs when all its images are saved already: with and without reading the sources.

As a program, ``python -m benchmarks.parts.rerun PHOTOS OUT ROOT``, it runs over *PHOTOS* once more,
where one image is new.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from benchmarks.core.bench import Bench, in_rounds, table
from benchmarks.core.images import make, png
from benchmarks.core.meter import bytes_read, cpu_seconds, forget_peak, peak_mib
from benchmarks.core.programs import last_line
from benchmarks.core.report import Section, Table, median
from benchmarks.core.server import running
from comet_async import CometSession, Gateway, Margins
from comet_async.events import Event, Submitted
from comet_async.journal import (
    Destination,
    JobState,
    Limits,
    NewJob,
    SavedFile,
    SqliteJournal,
    StoredImage,
)
from comet_async.runs import JOURNAL_NAME

_KNOWN, _READ = "recognised", "read (`checksum=True`)"
_SIZE = 200_000
_AT_A_TIME = 128
_MANY = 100_000
_MARGINS = Margins.uniform(0.25)
_NOW = 1_722_769_557.0


@attrs.frozen
class Sample:
    """What one run cost for each image."""

    cpu_ms: float
    wall_ms: float
    kilobytes: float


_NOWHERE = "http://127.0.0.1:9"  # where nothing is sent


def _session(root: str, on_event: Callable[[Event], object] | None = None) -> CometSession:
    return CometSession("sk-bench", gateway=Gateway.comet(root), schedule=0.05, on_event=on_event)


async def _save_all(photos: Path, out: Path, result: bytes, root: str = _NOWHERE) -> None:
    """Fill the folder's journal and the folder as a run over *photos* leaves them."""
    async with _session(root) as comet:
        account = comet._services.account  # noqa: SLF001 - as the run itself
        plan = [each async for each in comet.expand_folder(photos, out, _MARGINS).plan()]
    jobs = []
    for item, planned in plan:
        if isinstance(planned, Exception) or item.dest is None:
            raise TypeError(planned)
        (image,) = planned.images.values()
        new = NewJob(
            key=planned.key,
            kind="expand",
            account=account,
            params=planned.fields,
            n=1,
            source=item.source,
            image_sha=image.sha256,
            dest=item.dest,
        )
        jobs.append(new)
    async with await SqliteJournal.open(out / JOURNAL_NAME) as journal:
        for first in range(0, len(jobs), _AT_A_TIME):
            page = jobs[first : first + _AT_A_TIME]
            await asyncio.gather(*(_save(journal, job, out, result) for job in page))


async def _save(journal: SqliteJournal, new: NewJob, out: Path, result: bytes) -> None:
    (record,) = await journal.plan([new], now=_NOW)
    sent = await journal.send(record, now=_NOW, post_deadline=_NOW, limits=Limits(), run="bench")
    if isinstance(sent, str):
        raise TypeError(sent)
    images = (StoredImage(index=0, url="https://example.com/0.png"),)
    record = await journal.move(sent, JobState.SUBMITTED, now=_NOW, task_id=new.key)
    record = await journal.move(record, JobState.SUCCEEDED, now=_NOW, images=images)
    name = f"{new.dest}.png"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(result)
    file = SavedFile(index=0, name=name, sha256="00", size=len(result), kept=True)
    place = Destination(source=new.source, dest=new.dest or "", files=(file,))
    record = await journal.move(record, JobState.SAVING, now=_NOW, place=place)
    await journal.move(record, JobState.DONE, now=_NOW, place=place)


async def _again(photos: Path, out: Path, *, checksum: bool, root: str = _NOWHERE) -> Sample:
    """Run over *photos* once more."""
    count = 0
    cpu, wall, read = cpu_seconds(), time.perf_counter(), bytes_read()
    async with _session(root) as comet:
        async for outcome in comet.expand_folder(photos, out, _MARGINS, checksum=checksum):
            if outcome.status != "done":
                raise TypeError(outcome)
            count += 1
    return Sample(
        1000 * (cpu_seconds() - cpu) / count,
        1000 * (time.perf_counter() - wall) / count,
        (bytes_read() - read) / count / 1000,
    )


@attrs.frozen
class LargeRun:
    """What a run over very many known images and a new one cost.

    Attributes:
        wall: Seconds.
        cpu: CPU seconds.
        first: Seconds from the start until the new image was accepted.
        growth: Growth of the peak of memory, in MiB.
    """

    wall: float
    cpu: float
    first: float
    growth: float


async def _with_a_new_one(photos: Path, out: Path, root: str) -> LargeRun:
    accepted: list[float] = []

    def look(event: Event) -> None:
        if isinstance(event, Submitted):
            accepted.append(time.perf_counter())

    held, cpu, begin = forget_peak(), cpu_seconds(), time.perf_counter()
    async with _session(root, look) as comet:
        async for outcome in comet.expand_folder(photos, out, _MARGINS):
            if outcome.status != "done":
                raise TypeError(outcome)
    wall, used = time.perf_counter() - begin, cpu_seconds() - cpu
    (first,) = accepted
    return LargeRun(wall, used, first - begin, peak_mib() - held)


def _large_table(bench: Bench) -> Table:
    """Run over very many known images, where the new one is the first, or the last."""
    photos, out = bench.scratch / "known" / "photos", bench.scratch / "known" / "wide"
    known = make(photos, bench.count(_MANY, 100), 2_000)
    result = bench.scratch / "known" / "result.png"
    result.write_bytes(png(2_000, -1))
    rows = []
    with running(result) as server:
        asyncio.run(_save_all(photos, out, b"result", server.root))
        asyncio.run(_again(photos, out, checksum=True, root=server.root))
        for number, name in enumerate(("0", "9"), 1):
            new = photos / f"{name}-new.png"
            new.write_bytes(png(2_001, -number))
            words = (str(photos), str(out), server.root)
            run = LargeRun(**json.loads(last_line("parts.rerun", *words)))
            place = "the first by name" if name == "0" else "the last by name"
            figures = (f"{run.wall:.1f}", f"{run.cpu:.1f}", f"{run.first:.1f}", f"{run.growth:.0f}")
            rows.append([place, *figures])
    head = ("the new image is", "s", "CPU s", "s until it was accepted", "memory growth MiB")
    return Table(title=f"{len(known):,} known images and a new one", head=head, rows=rows)


def rerun(bench: Bench) -> Section:
    """Measure a run over finished work."""
    photos, out = bench.scratch / "rerun" / "photos", bench.scratch / "rerun" / "wide"
    files = make(photos, bench.count(2000, 20), bench.count(_SIZE, 20_000))
    asyncio.run(_save_all(photos, out, b"result"))
    asyncio.run(_again(photos, out, checksum=True))  # the files are known from here on

    def measure(name: str) -> Sample:
        return asyncio.run(_again(photos, out, checksum=name == _READ))

    found = in_rounds([_KNOWN, _READ], measure, rounds=bench.count(5, 1), what="a run again")
    rows = []
    for name, samples in found.items():
        columns = zip(*(attrs.astuple(sample) for sample in samples.values()), strict=True)
        cpu, wall, read = map(median, columns)
        rows.append([name, f"{cpu:.2f}", f"{wall:.2f}", f"{read:.1f}"])
    return Section(
        name="rerun",
        title="A run over finished work",
        words="`expand_folder` over images that are all saved already. A source file whose size, "
        "times and inode are as the journal knows them is not read again.",
        limit="two `stat` calls and a share of two queries for each image.",
        tables=[
            table(
                f"{len(files):,} images",
                ("sources", "CPU ms an image", "ms an image", "kB read an image"),
                rows,
            ),
            _large_table(bench),
        ],
    )


def main(photos: str, out: str, root: str) -> None:
    """Run once more, and print."""
    run = asyncio.run(_with_a_new_one(Path(photos), Path(out), root))
    sys.stdout.write(json.dumps(attrs.asdict(run)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
