"""A fleet of a thousand workers in virtual time: ``python -m benchmarks.fleet_simulation``.

What is real: the states, moves and limits of the journal (`transitions`, `Limits`), a record for
each job, and the check of state and fence that each write makes. What is a model: the queue (oldest
entry first; entries of dead workers come back after two heartbeats), the database (one lock for the
quota, held for as long as was measured; statements and bytes per step as measured), the server
(tasks of lognormal duration; it charges what it accepts), and the time that images take to be read,
sent, noticed and saved. What is left out: the processor and the network of the database, the cost
of delivering notifications, polls, and failures other than the death of workers.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial

import attrs
import psycopg
from psycopg import sql

from benchmarks.core.report import Table
from comet_async._jobs.shared_slots import RECHECK, RECHECK_EACH
from comet_async._journal.records import JobRecord, Limits, NewJob, Refusal
from comet_async._journal.states import IN_FLIGHT, JobState
from comet_async._journal.transitions import moved, planned, sending
from comet_async._postgres.worker import LEASE, TICK
from comet_async.postgres import PostgresJournal

S = JobState
MIX = (1, 1, 1, 2, 1, 1, 3, 1)  # images of one job, in turn
READING, POSTING, NOTICING, SAVING = 0.3, 1.0, 0.5, 0.5  # seconds; means of exponentials
MEDIAN, SPREAD = 20.0, 0.5  # of a task's duration
HEARTBEAT, SETTLE = 10.0, 30.0  # the defaults
WINDOW = 10.0  # seconds over which the use of the quota is averaged

# Measured; see `Costs`.
STATEMENTS, WAL = 13, 10_500  # a job's, without those of refused attempts
REFUSED = 5  # statements of an attempt to send that found no slot
QUEUED = 4  # statements of queueing for a slot
BEAT = 3  # statements of a renewed lease


@attrs.frozen(kw_only=True)
class Costs:
    """How long an attempt to send holds the lock of the account's quota, in seconds.

    Attributes:
        granted: With a slot: its sum, its update, and its commit.
        refused: Without one.
        each: Added for each image in flight, which the sum goes through.
    """

    granted: float
    refused: float
    each: float

    def of(self, images: int, *, granted: bool) -> float:
        """Return it while *images* are in flight."""
        return (self.granted if granted else self.refused) + images * self.each


@attrs.frozen(kw_only=True)
class Case:
    """One fleet.

    Attributes:
        images: How many it has to make.
        workers: How many processes.
        quota: Most images in flight.
        at_once: Jobs that a worker has at a time.
        killed: Which part of the workers dies at once, half-way through.
    """

    images: int
    workers: int = 1000
    quota: int = 2000
    at_once: int = 4
    killed: float = 0.0


@attrs.define(eq=False)
class Worker:
    """A process: its jobs, and those that wait for its turn to ask for a slot."""

    jobs: set[str] = attrs.field(factory=set)
    ready: deque[str] = attrs.field(factory=deque)
    claiming: bool = False  # in the queue for the lock
    crowded: bool = False  # a job of it was refused, and others wait behind that one
    place: int | None = None  # in the queue for a slot
    told: bool = False  # that a slot is free, and has not asked for it yet
    answering: bool = False  # asks because it was told
    waits: int = 0  # for a slot, so far
    dead: bool = False


@attrs.define(eq=False)
class Use:
    """What part of the quota is in use, for each window of time."""

    quota: int
    windows: list[float] = attrs.field(factory=list)
    _until: float = 0.0
    _sum: float = 0.0

    def count(self, until: float, images: int) -> None:
        """Count *images* from the last call until a moment."""
        while until >= (edge := (len(self.windows) + 1) * WINDOW):
            self._sum += (edge - self._until) * images
            self.windows.append(self._sum / WINDOW / self.quota)
            self._sum, self._until = 0.0, edge
        self._sum += (until - self._until) * images
        self._until = until

    def mean(self, begin: float, end: float) -> float:
        """Return the mean of the windows between two moments."""
        chosen = self.windows[int(begin / WINDOW) : int(end / WINDOW)]
        return sum(chosen) / len(chosen)


@attrs.define(eq=False)
class Fleet:
    """The simulation of one case."""

    case: Case
    costs: Costs
    random: random.Random
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list)
    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    records: dict[str, JobRecord] = attrs.field(factory=dict)  # the journal: jobs not yet done
    owner: dict[str, Worker] = attrs.field(factory=dict)
    returned: deque[str] = attrs.field(factory=deque)  # entries that come back to the queue
    lock: deque[Worker] = attrs.field(factory=deque)
    lock_held: bool = False
    charges: Counter[str] = attrs.field(factory=Counter)
    ends: dict[str, float] = attrs.field(factory=dict)  # at the server
    counts: Counter[str] = attrs.field(factory=Counter)
    flying: int = 0
    busy: int = 0  # images that the server works on
    taken: Use = attrs.field(init=False)  # of the quota, as the journal counts
    working: Use = attrs.field(init=False)  # of the quota, as the server works
    # For a slot, by place; with those that have left it since or were told, which count no more.
    queue: list[tuple[int, Worker]] = attrs.field(factory=list)
    waiting: int = 0
    left: int = 0  # images that have not been planned yet
    workers: list[Worker] = attrs.field(factory=list)
    idle: set[Worker] = attrs.field(factory=set)
    killed_at: float | None = None
    lost: set[str] = attrs.field(factory=set)  # jobs of the dead that are not done
    all_claimed: float = 0.0  # when the last of them had a worker again
    drained_at: float | None = None  # when the queue was empty

    def run(self) -> None:
        """Run it to its end."""
        self.taken, self.working = Use(self.case.quota), Use(self.case.quota)
        self.left = self.case.images
        self.workers = [Worker() for _ in range(self.case.workers)]
        for worker in self.workers:
            self.at(self.random.random(), lambda worker=worker: self.take(worker))
        while self.events:
            at, _, what = heapq.heappop(self.events)
            self.now = at
            what()

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self.events, (self.now + delay, next(self.numbers), what))

    def about(self, mean: float) -> float:
        """Draw a duration."""
        return self.random.expovariate(1 / mean)

    # The journal ------------------------------------------------------------------------

    def write(self, before: JobRecord, after: JobRecord) -> None:
        """Replace a record, as `sql.swap` does: only if it is still what it was."""
        known = self.records[before.key]
        if (known.state, known.fence) != (before.state, before.fence):
            raise AssertionError("a stale write")
        was, is_now = before.state in IN_FLIGHT, after.state in IN_FLIGHT
        if was is not is_now:
            self.taken.count(self.now, self.flying)
            self.flying += after.n if is_now else -after.n
        if after.state is S.DONE:
            del self.records[before.key]
        else:
            self.records[before.key] = after
        if was and not is_now:
            self.slots_are_free(after.n)

    def move(self, key: str, new: JobState) -> None:
        """Move a job."""
        before = self.records[key]
        _, after = moved(before, new, now=self.now, changes={})
        self.write(before, after)

    # Workers ----------------------------------------------------------------------------

    def take(self, worker: Worker) -> None:
        """Take entries from the queue until the worker is full."""
        while not worker.dead and len(worker.jobs) < self.case.at_once:
            key = self.next_entry()
            if key is None:
                self.idle.add(worker)
                return
            worker.jobs.add(key)
            self.owner[key] = worker
            if key in self.lost:
                self.lost.discard(key)
                self.all_claimed = self.now
            self.go_on(worker, key)

    def next_entry(self) -> str | None:
        """Return the oldest entry; jobs are planned as they are needed, to save memory."""
        if self.returned:
            return self.returned.popleft()
        if self.left <= 0:
            if self.drained_at is None:
                self.drained_at = self.now
                self.counts["done by then"] = self.counts["images"]
            return None
        number = next(self.numbers)
        n = min(self.left, MIX[number % len(MIX)])
        self.left -= n
        if self.case.killed and self.killed_at is None and self.left < self.case.images / 2:
            self.killed_at = self.now
            self.at(0, self.kill)
        key = f"ce1-{number}"
        job = NewJob(key=key, kind="expand", account="a", params={}, n=n, source=key, image_sha=key)
        self.records[key] = planned(job, now=self.now)
        return key

    def go_on(self, worker: Worker, key: str) -> None:
        """Continue with a job from wherever it stands, as `run_job` does."""
        state = self.records[key].state
        if state is S.PLANNED:
            self.when_alive(worker, self.about(READING), lambda: self.is_ready(worker, key))
        elif state is S.SUBMITTED:
            wait = max(0.0, self.ends[key] - self.now) + self.about(NOTICING)
            self.when_alive(worker, wait, lambda: self.ended(worker, key))
        elif state is S.UNKNOWN:
            self.when_alive(worker, SETTLE, lambda: self.looked_up(worker, key))
        else:
            self.when_alive(worker, self.about(SAVING), lambda: self.saved(worker, key))

    def when_alive(self, worker: Worker, delay: float, what: Callable[[], None]) -> None:
        """Have a worker do something later, if it lives."""
        self.at(delay, lambda: None if worker.dead else what())

    def is_ready(self, worker: Worker, key: str) -> None:
        """Wait for this worker's turn: one of its jobs asks at a time."""
        worker.ready.append(key)
        self.ask(worker)

    def ask(self, worker: Worker) -> None:
        """Queue for the lock of the quota; first for a slot, if one was refused before."""
        if worker.claiming or worker.place is not None or worker.dead or not worker.ready:
            return
        if worker.crowded:
            self.enter(worker)
        else:
            self.request(worker)

    def request(self, worker: Worker) -> None:
        """Queue for the lock of the quota."""
        worker.claiming = True
        worker.answering, worker.told = worker.told, False
        self.lock.append(worker)
        self.next_attempt()

    def enter(self, worker: Worker) -> None:
        """Queue for a slot, at the old place if there is one; request it if nobody else waits."""
        self.counts["queued"] += 1
        if worker.place is None:
            worker.place = next(self.numbers)
        look = not self.waiting
        self.waiting += 1
        heapq.heappush(self.queue, (worker.place, worker))
        if look:
            self.request(worker)
        else:
            self.wait(worker)

    def leave(self, worker: Worker) -> None:
        """Queue for a slot no more."""
        if worker.place is not None:
            if not worker.told and not worker.answering:
                self.waiting -= 1
            worker.place, worker.told, worker.answering = None, False, False

    def next_attempt(self) -> None:
        """Give the lock to the next worker."""
        while not self.lock_held and self.lock:
            worker = self.lock.popleft()
            if worker.dead:
                continue
            before = self.records[worker.ready[0]]
            limits = Limits(in_flight=self.case.quota)
            refusal = limits.refusal(before.n, jobs=0, images=0, in_flight=self.flying)
            self.counts["refused" if refusal else "granted"] += 1
            if self.flying + before.n > self.case.quota and not refusal:
                self.counts["over quota"] += 1
            self.lock_held = True
            hold = self.costs.of(self.flying, granted=not refusal)
            self.at(hold, partial(self.unlocked, worker, before, refusal))

    def unlocked(self, worker: Worker, before: JobRecord, refusal: Refusal | None) -> None:
        """End an attempt: its commit, and the next one's turn."""
        self.lock_held = False
        worker.claiming = False
        if worker.dead:
            pass
        elif refusal is None:
            worker.ready.popleft()
            worker.crowded &= bool(worker.ready)
            queued = worker.place is not None
            self.leave(worker)
            after = sending(
                before, now=self.now, post_deadline=self.now + 60, boot=str(id(worker)), run=""
            )
            self.write(before, after)
            if queued and self.flying < self.case.quota:
                self.slots_are_free(min(2, self.case.quota - self.flying))
            self.post(worker, before.key)
            self.ask(worker)
        else:
            self.refused(worker)
        self.next_attempt()

    def refused(self, worker: Worker) -> None:
        """Wait for a slot, unless something may have become free since."""
        worker.crowded = True
        if worker.place is None or worker.answering:
            worker.answering = False
            self.enter(worker)
        elif worker.told:
            self.request(worker)
        else:
            self.wait(worker)

    def wait(self, worker: Worker) -> None:
        """Wait to be told of a slot."""
        worker.waits += 1
        pause = max(RECHECK, self.waiting * RECHECK_EACH) * self.random.uniform(0.8, 1.2)
        self.when_alive(worker, pause, partial(self.recheck, worker, worker.waits))

    def recheck(self, worker: Worker, wait: int) -> None:
        """Ask although nothing was heard, if it is still the same wait."""
        if worker.waits == wait and worker.place is not None and not worker.claiming:
            self.counts["rechecked"] += 1
            self.request(worker)

    def slots_are_free(self, many: int) -> None:
        """Tell as many workers, those that have waited longest first."""
        while many and self.queue:
            place, worker = heapq.heappop(self.queue)
            if worker.place == place and not worker.told and not worker.answering:
                worker.told, worker.waits = True, worker.waits + 1
                self.waiting -= 1
                many -= 1
                if not worker.claiming and not worker.dead:
                    self.request(worker)

    def post(self, worker: Worker, key: str) -> None:
        """Send the request; the server has it some time before its answer is here."""
        seconds = self.about(POSTING)
        self.at(0.8 * seconds, lambda: None if worker.dead else self.charge(key))
        self.when_alive(worker, seconds, lambda: self.accepted(worker, key))

    def charge(self, key: str) -> None:
        """Accept a request at the server."""
        self.charges[key] += 1
        seconds = MEDIAN * self.random.lognormvariate(0, SPREAD)
        self.ends[key] = self.now + seconds
        n = self.records[key].n
        self.work(n)
        self.at(seconds, lambda: self.work(-n))

    def work(self, images: int) -> None:
        """Begin or end to work on images, at the server."""
        self.working.count(self.now, self.busy)
        self.busy += images

    def accepted(self, worker: Worker, key: str) -> None:
        """Record the answer."""
        self.move(key, S.SUBMITTED)
        self.go_on(worker, key)

    def looked_up(self, worker: Worker, key: str) -> None:
        """Learn what became of a request whose sender died."""
        self.counts["looked up"] += 1
        self.move(key, S.SUBMITTED if key in self.charges else S.PLANNED)
        self.go_on(worker, key)

    def ended(self, worker: Worker, key: str) -> None:
        """See that a task has ended."""
        self.move(key, S.SUCCEEDED)
        self.go_on(worker, key)

    def saved(self, worker: Worker, key: str) -> None:
        """Save the result, and take the next job."""
        n = self.records[key].n
        if self.records[key].state is S.SUCCEEDED:
            self.move(key, S.SAVING)
        self.move(key, S.DONE)
        self.counts["done"] += 1
        self.counts["images"] += n
        self.ends.pop(key)
        worker.jobs.discard(key)
        del self.owner[key]
        self.take(worker)

    # Death ------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill a part of the workers at once."""
        dying = self.workers[: int(self.case.killed * len(self.workers))]
        for worker in dying:
            worker.dead = True
            self.idle.discard(worker)
            self.lost |= worker.jobs
            # Each lease was renewed at a moment of its own; survivors look all the time.
            left = (LEASE - TICK * self.random.random()) * HEARTBEAT
            self.at(left, lambda worker=worker: self.take_over(worker))
            # The queue notices by its own heartbeats.
            self.at(2 * HEARTBEAT, lambda worker=worker: self.give_back(worker))

    def take_over(self, worker: Worker) -> None:
        """Free the jobs of a dead worker; what it was sending is looked up."""
        for key in worker.jobs:
            if self.records[key].state is S.SENDING:
                self.move(key, S.UNKNOWN)

    def give_back(self, worker: Worker) -> None:
        """Put the entries of a dead worker back: they are older than those that wait."""
        self.returned.extend(sorted(worker.jobs))
        while self.idle and self.returned:
            self.take(self.idle.pop())


# ---------------------------------------------------------------------------- figures


def run(case: Case, costs: Costs) -> tuple[Fleet, float]:
    """Simulate a case; return it with the seconds of processor time that it took."""
    began = time.process_time()
    fleet = Fleet(case=case, costs=costs, random=random.Random(1))  # noqa: S311 - a simulation
    fleet.run()
    return fleet, time.process_time() - began


def row(fleet: Fleet, seconds: float) -> list[str]:
    """Return the figures of a case; those of a run that went wrong are an error."""
    case, counts = fleet.case, fleet.counts
    twice = sum(times > 1 for times in fleet.charges.values())
    if fleet.records or twice or counts["over quota"]:
        raise AssertionError(f"{len(fleet.records)} lost, {twice} twice, {counts} over quota")
    drained = fleet.drained_at or fleet.now
    # From when the fleet is warm until no more entries wait.
    begin = 12 * WINDOW
    end = drained if fleet.killed_at is None else fleet.killed_at
    jobs = counts["done"]
    statements = jobs * STATEMENTS + counts["refused"] * REFUSED + counts["queued"] * QUEUED
    beats = case.workers / (TICK * HEARTBEAT) * BEAT
    return [
        f"{case.images:,}",
        f"{case.quota:,}",
        f"{1000 * fleet.costs.granted:.1f} / {1000 * fleet.costs.refused:.1f}",
        f"{case.at_once}",
        f"{100 * fleet.taken.mean(begin, end):.1f} %",
        f"{100 * fleet.working.mean(begin, end):.1f} %",
        f"{counts['done by then'] / drained:.0f}",
        f"{statements / fleet.now + beats:,.0f}",
        f"{counts['refused'] / fleet.now:,.0f}",
        f"{jobs * WAL / fleet.now / 1e6:.2f}",
        recovery(fleet),
        f"{fleet.now / 3600:.1f}",
        f"{seconds:.0f}",
    ]


def recovery(fleet: Fleet) -> str:
    """Return the time from the deaths until the server is as busy as before, and all is claimed."""
    if fleet.killed_at is None:
        return "–"
    before = fleet.working.mean(12 * WINDOW, fleet.killed_at)
    first = int(fleet.killed_at / WINDOW) + 1
    after = fleet.working.windows[first:]
    # Three windows on average: a single one is a matter of chance.
    place = next(
        place for place in range(len(after)) if sum(after[place : place + 3]) >= 0.98 * 3 * before
    )
    busy = (first + place) * WINDOW - fleet.killed_at
    return f"{busy:.0f} / {fleet.all_claimed - fleet.killed_at:.0f}"


HEAD = (
    *("images", "quota", "lock ms", "at once", "slots taken", "server at work", "images/s"),
    *("statements/s", "refused/s", "WAL MB/s", "recovery s", "hours", "CPU s"),
)


async def measured(url: str) -> Costs:
    """Measure `Costs` on a real server, in a schema that is dropped in the end."""
    schema = f"simulation_{secrets.token_hex(6)}"
    async with await PostgresJournal.open(url, schema=schema) as journal:
        jobs = [
            NewJob(
                key=f"ce1-{number}",
                kind="expand",
                account="a",
                params={},
                n=1,
                source="s",
                image_sha="s",
            )
            for number in range(FLYING + 2 * TRIES)
        ]
        for start in range(0, len(jobs), 1000):
            await journal.plan(jobs[start : start + 1000], now=time.time())

        async def seconds(keys: list[str], limit: int) -> float:
            records = [await journal.get(key) for key in keys]
            began = time.perf_counter()
            for record in records:
                if record is None:
                    raise AssertionError
                now = time.time()
                limits = Limits(in_flight=limit)
                await journal.send(record, now=now, post_deadline=now, limits=limits, run="")
            return (time.perf_counter() - began) / len(keys)

        keys = [job.key for job in jobs]
        granted = await seconds(keys[:TRIES], FLYING * 2)
        refused = await seconds(keys[TRIES : 2 * TRIES], 1)
        fly = "UPDATE job SET state = 'submitted' WHERE id > %s"
        await journal.transaction(lambda db: db.run(fly, 2 * TRIES))
        await journal.transaction(lambda db: db.run("ANALYZE job"))
        many = await seconds(keys[TRIES : 2 * TRIES], 1)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET client_min_messages = warning")
        db.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    return Costs(granted=granted, refused=refused, each=max(0.0, many - refused) / FLYING)


FLYING, TRIES = 5000, 100
ASSUMED = Costs(granted=0.002, refused=0.001, each=1e-7)
"""For a server with two processors to itself and a disk that commits within a millisecond."""

BUSY = Costs(granted=0.0088, refused=0.0073, each=1e-6)
"""Measured by `measured`, while eleven other processes wanted the same two processors."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="measure the costs there first: postgresql://…")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    given = parser.parse_args()
    costs = asyncio.run(measured(given.database)) if given.database else ASSUMED
    million = 100_000 if given.quick else 1_000_000
    cases = [
        (Case(images=million // 10), costs),
        (Case(images=million, killed=0.5), costs),
        (Case(images=3 * million // 20, quota=10_000, at_once=20), costs),
        (Case(images=million // 20, killed=0.5), BUSY),
        (Case(images=million // 20, quota=500), BUSY),
    ]
    rows = []
    for case, paid in cases:
        rows.append(row(*run(case, paid)))
        print(Table(head=HEAD, rows=rows).plain(), flush=True)
    print(Table(head=HEAD, rows=rows).markdown())


if __name__ == "__main__":
    main()
