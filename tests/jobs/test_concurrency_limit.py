"""Places for images in flight: never too many, first come first served, none lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from comet_async._jobs.concurrency_limit import CLEAN_RUN, ConcurrencyLimiter


async def steps(number: int = 3) -> None:
    """Let all that is ready run."""
    for _ in range(number):
        await asyncio.sleep(0)


@asynccontextmanager
async def waiting(
    quota: ConcurrencyLimiter, *jobs: tuple[str, int]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let *jobs* (key and images) wait for places, in this order, until the block ends."""
    tasks = [asyncio.create_task(quota.acquire(key, n)) for key, n in jobs]
    await steps()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_free_places_are_given_at_once() -> None:
    """Jobs go on without waiting as long as their images fit."""
    quota = ConcurrencyLimiter(5)
    await quota.acquire("a", 3)
    await quota.acquire("b", 2)
    assert (quota.used, quota.limit) == (5, 5)


async def test_holding_twice_counts_once() -> None:
    """A job that holds its places asks for nothing more."""
    quota = ConcurrencyLimiter(2)
    await quota.acquire("a", 2)
    await quota.acquire("a", 2)
    assert quota.used == 2


async def test_first_come_first_served() -> None:
    """A small job does not overtake a large one that waits."""
    quota = ConcurrencyLimiter(4)
    await quota.acquire("a", 3)
    async with waiting(quota, ("large", 3), ("small", 1)):
        assert not quota.holds("small")
        quota.release("a")
        assert quota.holds("large")
        assert quota.holds("small")


async def test_newcomer_queues_up() -> None:
    """Who asks while others wait comes after them, even if the images would fit."""
    quota = ConcurrencyLimiter(4)
    await quota.acquire("a", 3)
    async with waiting(quota, ("large", 3), ("newcomer", 1)) as tasks:
        assert [task.done() for task in tasks] == [False, False]


async def test_too_large_a_job_runs_alone() -> None:
    """More images than the limit are let through when nothing else is in flight."""
    quota = ConcurrencyLimiter(2)
    await quota.acquire("a", 1)
    async with waiting(quota, ("huge", 9), ("b", 1)) as (huge, after):
        assert not huge.done()
        quota.release("a")
        await steps()
        assert huge.done()
        assert not after.done()
        assert quota.used == 9


async def test_cancelled_in_the_queue() -> None:
    """Who gives up makes room for those behind."""
    quota = ConcurrencyLimiter(4)
    await quota.acquire("a", 3)
    async with waiting(quota, ("large", 3), ("small", 1)) as (large, small):
        large.cancel()
        await steps()
        assert small.done()
        assert not quota.holds("large")


async def test_cancelled_in_the_step_of_the_grant() -> None:
    """Places given to somebody who is cancelled before taking them go to the next."""
    quota = ConcurrencyLimiter(1)
    await quota.acquire("a", 1)
    async with waiting(quota, ("b", 1), ("c", 1)) as (second, third):
        quota.release("a")
        assert quota.holds("b")
        second.cancel()
        await steps()
        assert not quota.holds("b")
        assert third.done()


async def test_release_of_nothing() -> None:
    """A job that holds nothing gives nothing back."""
    quota = ConcurrencyLimiter(1)
    quota.release("a")
    await quota.acquire("a", 1)
    quota.release("b")
    assert quota.used == 1


async def test_jobs_of_a_crashed_run_count() -> None:
    """What is in flight already counts, above the limit, too."""
    quota = ConcurrencyLimiter(2)
    quota.hold("a", 2)
    quota.hold("b", 3)
    async with waiting(quota, ("c", 1)) as (third,):
        quota.release("b")
        await steps()
        assert not third.done()
        quota.release("a")
        await steps()
        assert third.done()


@pytest.mark.parametrize(
    ("most", "used", "limit"),
    [
        (16, 16, 15),
        (16, 5, 4),  # others use the account, too: what was in flight here was too much
        (16, 1, 1),
        (16, 0, 15),
        (1, 1, 1),
    ],
)
async def test_shrink(most: int, used: int, limit: int) -> None:
    """A refused image lowers the limit below what is in flight, never below one."""
    quota = ConcurrencyLimiter(most)
    if used:
        quota.hold("a", used)
    quota.shrink()
    assert quota.limit == limit
    quota.release("a")
    await quota.acquire("b", 1)
    assert quota.used == 1


async def test_grows_back() -> None:
    """Each twenty clean submissions allow one image more, up to the user's limit."""
    quota = ConcurrencyLimiter(3)
    quota.shrink()
    quota.shrink()
    seen = []
    for _ in range(3 * CLEAN_RUN):
        quota.accepted()
        seen.append(quota.limit)
    assert seen == [1] * 19 + [2] * 20 + [3] * 21


async def test_refusal_ends_the_clean_run() -> None:
    """The count of clean submissions begins anew after a refusal."""
    quota = ConcurrencyLimiter(3)
    quota.shrink()
    for _ in range(CLEAN_RUN - 1):
        quota.accepted()
    quota.shrink()
    quota.accepted()
    assert quota.limit == 1


async def test_growth_wakes_who_waits() -> None:
    """A place that growth adds is given at once."""
    quota = ConcurrencyLimiter(2)
    quota.shrink()
    await quota.acquire("a", 1)
    async with waiting(quota, ("b", 1)) as (second,):
        for _ in range(CLEAN_RUN):
            quota.accepted()
        await steps()
        assert second.done()


def test_several_loops() -> None:
    """A place that is given back in one thread goes to who waits in another thread's loop."""
    quota = ConcurrencyLimiter(1)
    quota.hold("a", 1)
    other = threading.Thread(target=asyncio.run, args=(quota.acquire("b", 1),), daemon=True)
    other.start()
    other.join(0.05)
    assert other.is_alive()
    quota.release("a")
    other.join(10)
    assert not other.is_alive()
    assert quota.holds("b")


def test_loop_that_ended() -> None:
    """Who waited in a loop that was closed keeps no places from others."""
    quota = ConcurrencyLimiter(1)
    quota.hold("a", 1)
    loop = asyncio.new_event_loop()
    lost = loop.create_task(quota.acquire("lost", 1))
    loop.run_until_complete(steps())
    loop.close()
    quota.release("a")
    assert not quota.holds("lost")
    asyncio.run(quota.acquire("b", 1))
    lost._log_destroy_pending = False  # type: ignore[attr-defined]  # a task of a loop that is closed


class Places(RuleBasedStateMachine):
    """Any mix of asking, giving back, cancelling, shrinking and growing."""

    @initialize(most=st.integers(1, 12))
    def begin(self, most: int) -> None:
        """Start with nothing in flight."""
        self.loop = asyncio.new_event_loop()
        self.quota = ConcurrencyLimiter(most)
        self.jobs: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self.started = 0
        self.most_used = 0

    @rule(n=st.integers(1, 9), at_once=st.booleans())
    def request(self, n: int, at_once: bool) -> None:
        """Ask for places."""
        key = f"job-{self.started:04}"
        self.started += 1
        task = self.loop.create_task(self.quota.acquire(key, n))
        self.jobs[key] = n, task
        if at_once:
            self.run()

    @rule()
    def run(self) -> None:
        """Let all that is ready run: who is first in the row then does not fit."""
        self.loop.run_until_complete(steps())
        waits = [n for n, task in self.jobs.values() if not task.done()]
        assert not waits or self.quota.used
        assert not waits or self.quota.used + waits[0] > self.quota.limit

    @rule(n=st.integers(1, 9))
    def find(self, n: int) -> None:
        """Find a job in flight that a crashed run has left."""
        key = f"old-{self.started:04}"
        self.started += 1
        self.quota.hold(key, n)
        self.jobs[key] = n, self.loop.create_task(steps(0))
        self.loop.run_until_complete(self.jobs[key][1])
        self.most_used = self.quota.used

    def pick(self, data: st.DataObject, wanted: Callable[[str], bool]) -> str | None:
        """Return one of the jobs that fit."""
        keys = [key for key in self.jobs if wanted(key)]
        return data.draw(st.sampled_from(keys)) if keys else None

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """End a job that holds slots, and has been told so."""
        key = self.pick(data, lambda key: self.jobs[key][1].done())
        if key is not None:
            n, _ = self.jobs.pop(key)
            self.most_used = self.quota.used - n
            self.quota.release(key)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a job that waits, or was granted its places and does not know yet."""
        key = self.pick(data, lambda key: not self.jobs[key][1].done())
        if key is not None:
            self.jobs.pop(key)[1].cancel()

    @rule()
    def shrink(self) -> None:
        """Meet a refusal."""
        self.quota.shrink()

    @precondition(lambda self: self.quota.limit < self.quota.most)
    @rule(times=st.integers(1, CLEAN_RUN + 1))
    def accept(self, times: int) -> None:
        """Meet no refusal for a while."""
        for _ in range(times):
            self.quota.accepted()

    @invariant()
    def limit_is_sane(self) -> None:
        """The limit stays between one and what the user set."""
        assert 1 <= self.quota.limit <= self.quota.most

    @invariant()
    def never_too_many(self) -> None:
        """In flight grows up to the limit only, or to one single job."""
        used = self.quota.used
        held = [key for key in self.jobs if self.quota.holds(key)]
        assert used <= max(self.quota.limit, self.most_used) or len(held) == 1
        self.most_used = used

    @invariant()
    def in_order(self) -> None:
        """Nobody who asked later holds places while somebody who asked earlier waits."""
        begun = [key for key, (_, task) in self.jobs.items() if key.startswith("job")]
        holding = [self.quota.holds(key) for key in begun]
        assert holding == sorted(holding, reverse=True)

    def teardown(self) -> None:
        """End all jobs: every place is back."""
        self.loop.run_until_complete(steps())
        for key, (_, task) in self.jobs.items():
            task.cancel()
            self.loop.run_until_complete(asyncio.wait([task]))
            self.quota.release(key)
        assert self.quota.used == 0
        self.loop.run_until_complete(self.quota.acquire("last", 9))
        self.loop.close()


TestPlaces = Places.TestCase
