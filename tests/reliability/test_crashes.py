"""Real processes, killed at every moment that matters, and started again until they end.

The rows are the moments between which something becomes durable; the columns are gateways that
differ in what can be found out afterwards. The sandbox's account book is the truth.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from comet_async import CometSession
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Fault, Options, Sandbox
from tests.reliability.conftest import small_png
from tests.reliability.fast import FastClock, FastLoop
from tests.reliability.history import problems
from tests.reliability.victim import DONE, MARGINS, PATIENT, UNCERTAIN

KEY = "sk-canary-7c2e91d05b"
SETTLE = 6.0


@attrs.frozen
class Point:
    """A moment at which a process is killed.

    Attributes:
        id: Its name in the documentation.
        moment: What the process is told: a commit of the journal, or a place between two.
        fault: What the server does with the paid request; then it is killed from outside.
        charged: Whether the request is charged by then.
        open: True when nothing durable tells what became of the request.
    """

    id: str
    moment: str = ""
    fault: Fault | None = None
    charged: bool = attrs.field(default=True, kw_only=True)
    open: bool = attrs.field(default=False, kw_only=True)


POINTS = (
    Point("C0-before-planned", "before:T1", charged=False),
    Point("C1-planned", "after:T1", charged=False),
    Point("C1-before-sending", "before:T2", charged=False),
    Point("C2-before-a-byte", "after:T2", charged=False, open=True),
    Point("K-before", fault=Fault("hang", on="create"), charged=False, open=True),
    Point("K-late", fault=Fault("late", seconds=3), open=True),
    Point("K-after", fault=Fault("hang_after_charge"), open=True),
    Point("C5-before-submitted", "before:T3", open=True),
    Point("C6-submitted", "after:T3"),
    Point("C7-between-polls", "polled"),
    Point("C8-before-succeeded", "before:T11"),
    Point("C9-succeeded", "after:T11"),
    Point("C10-half-written", "half written"),
    Point("C11-before-the-name-is-chosen", "before:file"),
    Point("C11-before-saving", "before:T12"),
    Point("C12-saving", "after:T12"),
    Point("C13-named-not-synced", "named"),
    Point("C14-before-kept", "after:file"),
    Point("C14-before-done", "before:T13"),
    Point("C15-done", "after:T13"),
)


@attrs.frozen
class Gateway:
    """A gateway, by what can be found out through it.

    Attributes:
        id: Its name.
        options: How it behaves.
        control: Whether another task is known before, on which questions can be tried.
        sees: Whether a task that exists is found.
    """

    id: str
    options: Options
    control: bool = True
    sees: bool = True

    def expected(self, point: Point) -> str:
        """Return how a job must end here that was killed there."""
        if not point.open or (self.control and self.sees):
            return "done"
        return "done" if point.charged and self.sees else "uncertain"


def _options(lookups: str, *, listed: bool, unique: bool = False) -> Options:
    # Ids are not unique here unless that is the column: the second charge must show.
    return Options(
        lookups=lookups,
        list_tasks=listed,
        unique_external_ids=unique,
        submitted_seconds=(0, 1),
        task_seconds=(3, 5),
    )


GATEWAYS = (
    Gateway("query-and-list", _options("ABCD", listed=True)),
    Gateway("list-only", _options("", listed=True)),
    Gateway("query-only", _options("B", listed=False)),
    Gateway("no-control-yet", _options("ABCD", listed=True), control=False),
    Gateway("unique-ids-only", _options("", listed=False, unique=True), sees=False),
    Gateway("nothing-works", _options("", listed=False), sees=False),
)


@attrs.define(eq=False)
class Cell:
    """One job, one gateway, and processes that work on it one after the other."""

    forker: subprocess.Popen[str]
    folder: Path
    sandbox: Sandbox
    clock: FastClock
    pid: int = 0

    @property
    def out(self) -> Path:
        """Where results are saved."""
        return self.folder / "out"

    async def start(self, photos: Path, point: str = "") -> Callable[[], Awaitable[int]]:
        """Start a process; the result waits for its exit status."""
        order = {
            "url": self.sandbox.url,
            "key": KEY,
            "photos": str(photos),
            "out": str(self.out),
            "point": point,
            "since": self.clock.since,
            "settle": SETTLE,
        }
        assert self.forker.stdin is not None
        self.forker.stdin.write(json.dumps(order) + "\n")
        self.forker.stdin.flush()
        self.pid = await self._answer()
        return self._answer

    async def _answer(self) -> int:
        assert self.forker.stdout is not None
        return int(await asyncio.to_thread(self.forker.stdout.readline))

    async def run(self, photos: Path) -> int:
        """Run a process to its end and return its exit status."""
        return await (await self.start(photos))()

    async def run_and_kill(self, photos: Path, point: Point) -> None:
        """Run a process to the moment at which it is killed."""
        ended = await self.start(photos, point.moment)
        if point.fault is not None:
            book = self.sandbox.ledger
            late = point.fault.kind == "late"
            before = len(book.charges)
            wanted = before + (point.charged and not late)
            while not book.posts or len(book.charges) < wanted:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.1)
            os.kill(self.pid, signal.SIGKILL)
        assert await ended() == -signal.SIGKILL

    async def supply_control(self, *, clear: bool = True) -> None:
        """Buy an image in this process, so that the journal knows a task.

        *clear*: forget that it was charged.
        """
        other = self.folder / "control.png"
        other.write_bytes(small_png(200))
        path = self.out / JOURNAL_NAME
        async with await SqliteJournal.open(path, clock=self.clock) as journal:
            async with CometSession(
                KEY,
                gateway=self.sandbox.url,
                journal=journal,
                clock=self.clock,
                request_timeout=PATIENT,
                schedule=1.0,
            ) as comet:
                outcomes = [o async for o in comet.expand_folder(other, self.out, MARGINS)]
        assert [str(outcome.status) for outcome in outcomes] == ["done"]
        if clear:
            self.sandbox.ledger.posts.clear()
            self.sandbox.ledger.charges.clear()

    async def state(self) -> str:
        """Return where the job stands, after the history was checked."""
        book = self.sandbox.ledger
        async with await SqliteJournal.open(self.out / JOURNAL_NAME) as journal:
            records, events = await journal.find(), await journal.events()
        job = next(record for record in records if not record.source.endswith("control.png"))
        posts = [post.external_task_id for post in book.posts]
        ours = [record for record in records if record is job]
        history = [event for event in events if event.key == job.key]
        assert problems(book.charges, posts, ours, history) == []
        return str(job.state)


@asynccontextmanager
async def open_cell(
    forker: subprocess.Popen[str], folder: Path, options: Options
) -> AsyncIterator[Cell]:
    """Give a cell with a running sandbox."""
    clock = FastClock(time.time())
    async with Sandbox(clock=clock, seed=1, engine="pillow", key=KEY, options=options) as sandbox:
        yield Cell(forker, folder, sandbox, clock)


def drive(life: Awaitable[None]) -> None:
    """Run *life* on a fast loop: the processes that it waits for are on the real clock."""

    async def whole() -> None:
        await life

    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(whole())


CELLS = [
    pytest.param(
        gateway, point, id=f"{gateway.id}-{point.id}", marks=[] if quick else pytest.mark.slow
    )
    for gateway in GATEWAYS
    for point in POINTS
    for quick in [gateway.id == "query-and-list" and point.open]
]


@pytest.mark.failure(
    "F24",
    "F30",
    "F31",
    "F32",
    "F33",
    "F34",
    "F35",
    "F36",
    "F37",
    "F38",
    "F39",
    "F40",
    "F41",
    "F42",
    "F43",
    "F44",
)
@pytest.mark.parametrize(("gateway", "point"), CELLS)
def test_killed_here_and_run_again(
    gateway: Gateway, point: Point, forker: subprocess.Popen[str], volatile: Path
) -> None:
    """Never charged twice; done with its file, or known to be uncertain where nobody can tell."""
    photo = volatile / "photo.png"
    photo.write_bytes(small_png(7))

    async def life() -> None:
        async with open_cell(forker, volatile, gateway.options) as cell:
            if gateway.control:
                await cell.supply_control()
            if point.fault is not None:
                cell.sandbox.faults.add(point.fault)
            await cell.run_and_kill(photo, point)
            expected = gateway.expected(point)
            assert await cell.run(photo) == (DONE if expected == "done" else UNCERTAIN)
            await check(cell, point, expected)

    drive(life())


async def check(cell: Cell, point: Point, expected: str) -> None:
    """Hold the end of a cell against what must be."""
    assert await cell.state() == expected
    paid = 1 if expected == "done" else int(point.charged)
    assert len(cell.sandbox.ledger.charges) == paid
    files = sorted(path.name for path in cell.out.iterdir() if path.is_file())
    assert ("photo.png" in files) is (expected == "done")
    assert not [path for path in cell.out.rglob("*") if path.suffix == ".part"]
    for path in cell.out.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize("point", [p for p in POINTS if p.open], ids=lambda point: point.id)
@pytest.mark.slow
def test_another_image_settles_what_nobody_could_tell(
    point: Point, forker: subprocess.Popen[str], volatile: Path
) -> None:
    """A job without a control is uncertain; another image's task is one, and it is done."""
    photos = volatile / "photos"
    photos.mkdir()
    (photos / "photo.png").write_bytes(small_png(7))

    async def life() -> None:
        async with open_cell(forker, volatile, GATEWAYS[0].options) as cell:
            if point.fault is not None:
                cell.sandbox.faults.add(point.fault)
            await cell.run_and_kill(photos, point)
            await cell.run(photos)
            (photos / "other.png").write_bytes(small_png(8))
            assert await cell.run(photos) == DONE
            assert len(cell.sandbox.ledger.charges) == 2
            assert cell.sandbox.ledger.charged_twice() == []

    drive(life())


@pytest.mark.failure("F46")
def test_second_process_is_refused_the_folder(
    forker: subprocess.Popen[str], volatile: Path
) -> None:
    """Two processes on one folder: the second one sends nothing (F46)."""
    photo = volatile / "photo.png"
    photo.write_bytes(small_png(7))

    async def life() -> None:
        async with open_cell(forker, volatile, GATEWAYS[0].options) as cell:
            journal = await SqliteJournal.open(cell.out / JOURNAL_NAME)
            async with journal:
                assert await cell.run(photo) not in {DONE, UNCERTAIN}
            assert cell.sandbox.ledger.posts == []
            assert await cell.run(photo) == DONE

    drive(life())
