"""Strategies at work: by themselves on numbers, and in the real waiter on a clock that jumps."""

# ruff: noqa: S311 - seeded draws; nothing is guarded by them
from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator

import attrs

from benchmarks.parts.simulated_tasks import ExactLoop, Tasks
from benchmarks.parts.strategies import DurationHistogram, Make, ours
from comet_async.schedules import LearnedSchedule, Schedule
from comet_async.waiter import TaskWaiter

SEED = 7
LEARNED = 64
"""Tasks that are learned from before those that count."""

CHUNK = 200
"""So many tasks after those: then comes a new schedule that knows nothing."""

CALLBACK = 0.1
"""Seconds from the end of a task until its callback arrives."""


@attrs.define
class Found:
    """What a strategy cost.

    Attributes:
        requests: How many.
        delays: Seconds from the end of each task until it was noticed.
        lasted: Sum of the durations.
    """

    requests: int = 0
    delays: list[float] = attrs.field(factory=list)
    lasted: float = 0.0

    def add(self, requests: int, delay: float, duration: float) -> None:
        """Take note of one task."""
        self.requests += requests
        self.delays.append(delay)
        self.lasted += duration

    @property
    def each(self) -> float:
        """Requests a task."""
        return self.requests / len(self.delays)

    @property
    def delay(self) -> float:
        """The mean delay."""
        return sum(self.delays) / len(self.delays)

    @property
    def added(self) -> float:
        """Share that the delays add to the durations."""
        return sum(self.delays) / self.lasted

    @property
    def score(self) -> float:
        """Requests times delay; any fixed interval has a half."""
        return (self.each - 0.5) * self.added

    def late(self, share: float = 0.95) -> float:
        """Return the delay that the *share* stays below."""
        return sorted(self.delays)[int(share * (len(self.delays) - 1))]


def merged(parts: Iterable[Found]) -> Found:
    """Return the sum of *parts*."""
    total = Found()
    for part in parts:
        total.requests += part.requests
        total.delays += part.delays
        total.lasted += part.lasted
    return total


# --------------------------------------------------------------------------- schedules alone


def _follow(schedule: Schedule, duration: float) -> tuple[int, float]:
    """Poll one task as *schedule* says; return the polls and the delay of the last."""
    seen, age, polls = 0.0, schedule.first(), 1
    learns = isinstance(schedule, LearnedSchedule)
    while age < duration:
        if learns:
            schedule.observe_alive(seen, age)
        seen, age, polls = age, age + schedule.next(age, polls), polls + 1
    if learns:
        schedule.learn(duration, since=seen)
    return polls, age - duration


def simulate(
    schedule: Schedule, durations: DurationHistogram, count: int, rng: random.Random
) -> Found:
    """Follow *count* tasks one after the other."""
    found = Found()
    for _ in range(count):
        duration = durations.draw(rng)
        found.add(*_follow(schedule, duration), duration)
    return found


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yield seeds, and how many tasks each is for."""
    for number, start in enumerate(range(0, count, CHUNK)):
        yield SEED + number, min(CHUNK, count - start)


def simulate_ours(durations: DurationHistogram, count: int, aim: float | None = None) -> Found:
    """Follow *count* tasks, in chunks by schedules that have learned from 64 each."""
    parts = []
    for seed, size in _chunks(count):
        rng, schedule = random.Random(seed), ours(random.Random(seed + 1), aim)
        simulate(schedule, durations, LEARNED, rng)
        parts.append(simulate(schedule, durations, size, rng))
    return merged(parts)


# --------------------------------------------------------------------------- the real waiter


@attrs.frozen(kw_only=True)
class Setting:
    """How the real waiter is used.

    Attributes:
        in_flight: Tasks at a time.
        lists: True for a server with a list.
        callbacks: True for a server that calls back.
        lost: Each so many callbacks one is lost; 0 for none.
        round_trip: Seconds of an exchange.
    """

    in_flight: int = 1
    lists: bool = False
    callbacks: bool = False
    lost: int = 0
    round_trip: float = 0.0


class Run:
    """Tasks that are submitted and waited for, so many in flight at a time.

    Attributes:
        server: What is polled.
        notified: The tasks whose callback came.
        unnotified: Those whose callback was lost.
    """

    def __init__(self, setting: Setting, seed: int, make: Make = ours) -> None:
        self._setting = setting
        self._rng = random.Random(seed)
        self.server = Tasks(lists=setting.lists, round_trip=setting.round_trip)
        self._waiter = TaskWaiter(
            self.server,
            schedule=make(random.Random(seed + 1)),
            use_list=setting.lists,
            callbacks=self.server if setting.callbacks else None,
            concurrency=max(32, setting.in_flight),
            rng=random.Random(seed + 2),
        )
        self.notified, self.unnotified = Found(), Found()

    async def wait(self, durations: DurationHistogram, count: int) -> Found:
        """Wait for *count* tasks."""
        waiter, found, left = self._waiter, Found(), iter(range(count))
        before = waiter.polls + waiter.list_calls
        self.notified, self.unnotified = Found(), Found()

        async def work() -> None:
            for number in left:
                await self._wait_for(durations.draw(self._rng), number, found)

        await asyncio.gather(*(work() for _ in range(self._setting.in_flight)))
        found.requests = waiter.polls + waiter.list_calls - before
        return found

    async def _wait_for(self, duration: float, number: int, found: Found) -> None:
        task, life = self.server.submit(duration)
        lost = bool(self._setting.lost) and number % self._setting.lost == 0
        if self._setting.callbacks and not lost:
            self.server.call_back(life, CALLBACK)
        await self._waiter.wait(task)
        delay = self.server.clock.monotonic() - life.ends
        found.add(0, delay, duration)
        (self.unnotified if lost else self.notified).add(0, delay, duration)


def really(
    setting: Setting,
    durations: DurationHistogram,
    count: int,
    *,
    seed: int = SEED,
    learned: int = LEARNED,
    make: Make = ours,
) -> tuple[Found, Run]:
    """Use the real waiter for *learned* tasks and then for *count*, whose polls it reports."""

    async def measure() -> tuple[Found, Run]:
        run = Run(setting, seed, make)
        if learned:
            await run.wait(durations, learned)
            run.server.moments.clear()
        return await run.wait(durations, count), run

    with asyncio.Runner(loop_factory=ExactLoop) as runner:
        return runner.run(measure())


def really_in_chunks(setting: Setting, durations: DurationHistogram, count: int) -> Found:
    """Use the real waiter for *count* tasks, in chunks by new ones that have learned from 64."""
    return merged(really(setting, durations, size, seed=seed)[0] for seed, size in _chunks(count))
