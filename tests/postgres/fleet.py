"""A fleet for tests: a server of its own, a gateway with an account book, and workers to hurt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from comet_async import CometSession, ExpandRequest, Margins
from comet_async._fleet.queue import Queue
from comet_async._images.load import load
from comet_async._journal.keys import content_key
from comet_async._journal.records import NewJob
from comet_async._journal.states import JobState
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Faults, Options, Sandbox
from comet_async.sandbox.tasks import Tasks
from tests.reliability.history import problems
from tests.support import postgres
from tests.support.images import make_png

PROGRAM = Path(__file__).with_name("fleet_worker.py")
ROOT = Path(__file__).parents[2]
MARGINS = Margins(left=0.25, right=0.25)


@attrs.define(eq=False)
class Cable:
    """A connection to the database that can be cut, or left without an answer."""

    socket: str
    port: int = 0
    broken: bool = False
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = attrs.field(factory=set)
    _serving: set[asyncio.Task[None]] = attrs.field(factory=set)
    _flowing: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The address of the database behind it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    async def start(self) -> None:
        """Listen."""
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        self._flowing.set()
        await asyncio.gather(*self._serving)

    def cut(self) -> None:
        """Cut all connections, and let no new one through."""
        self.broken = True
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Let nothing through any more, and keep all connections, new ones as well."""
        self._flowing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                if not self.broken:
                    back, there = await asyncio.open_unix_connection(self.socket)
                    writers.append(there)
                    self._writers.add(there)
                    await asyncio.gather(self._pump(reader, there), self._pump(back, writer))
        finally:
            for each in writers:
                each.transport.abort()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._writers.difference_update(writers)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                target.write(data)
                await target.drain()
        target.transport.abort()


@attrs.define(eq=False, kw_only=True)
class Fleet:
    """Four workers, what they work with, and how to hurt it."""

    server: Any
    sandbox: Sandbox
    folder: Path
    quota: int
    heartbeat: float
    settle: float
    workers: int
    schedule: float = 0.2
    at_once: int = 24
    schema: str = "fleet"
    cables: list[Cable] = attrs.field(factory=list)
    programs: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    takeovers: list[asyncio.Task[float]] = attrs.field(factory=list)
    over_quota: int = 0

    @property
    def url(self) -> str:
        """The database, as the test itself reaches it."""
        return str(self.server.get_uri())

    def start(self, place: int) -> None:
        """Start a worker."""
        order = {
            "database": self.cables[place].url,
            "schema": self.schema,
            "heartbeat": self.heartbeat,
            "gateway": self.sandbox.url,
            "key": DEFAULT_KEY,
            "quota": self.quota,
            "settle": self.settle,
            "schedule": self.schedule,
            "at_once": self.at_once,
        }
        log = (self.folder / f"worker-{place}.log").open("ab")
        with log:
            self.programs[place] = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(order)],
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
            )

    def kill(self, place: int) -> None:
        """Kill a worker as a power cut would."""
        program = self.programs.pop(place)
        program.kill()
        program.wait()
        name = f"{socket.gethostname()}:{program.pid}"
        self.takeovers.append(asyncio.create_task(self._taken_over(name)))

    async def _taken_over(self, name: str) -> float:
        """Return the seconds until no job belongs to the worker *name*, which was killed."""
        started = time.monotonic()
        query = (
            f"SELECT EXISTS (SELECT FROM {self.schema}.job JOIN {self.schema}.worker"  # noqa: S608 - ours
            " ON worker.boot = job.owner WHERE worker.name = %s)"
        )
        while True:
            with contextlib.suppress(psycopg.Error):  # the server may be down, too
                async with await psycopg.AsyncConnection.connect(self.url) as db:
                    row = await (await db.execute(query.encode(), [name])).fetchone()
                    if row == (False,):
                        return time.monotonic() - started
            await asyncio.sleep(0.1)

    async def stop(self, place: int, seconds: float) -> None:
        """Stop a worker for a while, and let it continue."""
        program = self.programs[place]
        program.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        program.send_signal(signal.SIGCONT)

    async def cut(self, place: int, seconds: float) -> None:
        """Cut a worker's connection to the database for a while."""
        self.cables[place].cut()
        await asyncio.sleep(seconds)
        self.cables[place].broken = False

    async def restart(self, mode: str) -> None:
        """Restart PostgreSQL."""
        await asyncio.to_thread(postgres.restart, self.server, mode)

    async def finished(self, seconds: float) -> None:
        """Wait until all workers have ended; restart those that end in an error."""
        until = time.monotonic() + seconds
        while self.programs:
            assert time.monotonic() < until, f"workers {sorted(self.programs)} do not end"
            for place, program in list(self.programs.items()):
                code = program.poll()
                if code is not None:
                    del self.programs[place]
                    if code:
                        self.start(place)
            await asyncio.sleep(0.1)

    async def plan(self, images: int) -> list[NewJob]:
        """Queue the jobs: *images* in all, most of them alone, some two or three at a time."""
        async with CometSession(DEFAULT_KEY, gateway=self.sandbox.url) as comet:
            account = comet._services.account
        jobs: list[NewJob] = []
        while images:
            n = min(images, (1, 1, 1, 2, 1, 1, 3, 1)[len(jobs) % 8])
            images -= n
            jobs.append(await new_job(self.folder, len(jobs), n, account))
        async with await PostgresJournal.open(self.url, schema=self.schema) as journal:
            queue = await Queue.open(journal)
            for start in range(0, len(jobs), 100):
                await queue.put(jobs[start : start + 100], 0)
        return jobs

    async def check(self, jobs: Sequence[NewJob]) -> dict[str, float]:
        """Hold the account book against the journal and the files; return some figures."""
        book = self.sandbox.ledger
        async with await PostgresJournal.open(self.url, schema=self.schema) as journal:
            records, events = [], await journal.events()
            left = await Queue.of(journal).sizes()
            after = ""
            while page := await journal.find(after=after):
                records += page
                after = page[-1].key
        posts = [post.external_task_id for post in book.posts]
        found = problems(book.charges, posts, records, events)
        assert not found, found
        assert book.charged_twice() == []
        unfinished = {
            record.key: [event for event in events if event.key == record.key]
            for record in records
            if record.state is not JobState.DONE
        }
        assert not unfinished, (unfinished, left)
        assert len(records) == len(jobs)
        assert len(book.charges) == len(jobs)
        for job in jobs:
            names = [f"{job.dest}{end}" for end in _endings(job.n)]
            assert all(Path(name).is_file() for name in names), names
        assert self.over_quota == 0
        assert left == Counter()
        unknown = sum(event.why == "the process that sent it ended" for event in events)
        takeovers = await asyncio.gather(*self.takeovers)
        return {
            "charges": len(book.charges),
            "posts": len(posts),
            "killed while sending": unknown,
            "killed": len(takeovers),
            "slowest takeover": round(max(takeovers, default=0.0), 1),
        }


def _endings(n: int) -> list[str]:
    return [".png"] if n == 1 else [f"-{index}.png" for index in range(n)]


async def new_job(folder: Path, number: int, n: int, account: str) -> NewJob:
    """Return a job for an image of its own."""
    path = folder / "photos" / f"{number:04d}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make_png(300 + number // 250, 300, number % 250))
    image = await load(str(path), field="image")
    request = ExpandRequest(image=str(path), margins=MARGINS, n=n)
    fields = request.fields({"image": image})
    return NewJob(
        key=content_key("expand", {"image": image.sha256}, fields),
        kind="expand",
        account=account,
        params=fields,
        n=n,
        source=str(path),
        image_sha=image.sha256,
        dest=str(folder / "out" / f"{number:04d}"),
    )


@asynccontextmanager
async def fleet(
    folder: Path,
    *,
    faults: Faults | None = None,
    options: Options | None = None,
    workers: int = 4,
    quota: int = 20,
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Give a fleet whose workers have not been started."""
    name = f"comet-async-fleet-{os.getpid()}"
    with postgres.server(Path("/tmp") / name) as server:  # noqa: S108 - see conftest.py
        sandbox = Sandbox(engine="stub", limit=quota, faults=faults, options=options, seed=1)
        async with sandbox:
            running = Fleet(
                server=server,
                sandbox=sandbox,
                folder=folder,
                quota=quota,
                workers=workers,
                **settings,
            )
            for _ in range(workers):
                cable = Cable(postgres.socket_of(server))
                await cable.start()
                running.cables.append(cable)
            try:
                with _counting_refusals(running):
                    yield running
            finally:
                for place in list(running.programs):
                    running.kill(place)
                for cable in running.cables:
                    await cable.stop()
                for watch in running.takeovers:
                    watch.cancel()
                await asyncio.gather(*running.takeovers, return_exceptions=True)


@contextlib.contextmanager
def _counting_refusals(running: Fleet) -> Iterator[None]:
    """Count the answers "too many in flight"."""
    admit = Tasks.admit

    def counted(tasks: Tasks, order: Any) -> None:  # noqa: ANN401 - the sandbox's own
        if tasks.in_flight + order.n > running.quota:
            running.over_quota += 1
        admit(tasks, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tasks, "admit", counted)
        yield
