"""The virtual loop and its clock: only what was skipped counts, and everything follows."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from comet_async.clock import SYSTEM_CLOCK
from comet_async.testing import VirtualClock, VirtualLoop


def work(seconds: float) -> None:
    """Keep the processor busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_work_takes_no_time_on_the_loop() -> None:
    """A busy machine does not move the loop's clock."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    work(0.01)
    await asyncio.sleep(0)
    assert loop.time() == before


async def test_a_sleep_takes_exactly_its_time() -> None:
    """What is skipped is what was waited for, to the last digit that the loop guarantees."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(3600)
    assert loop.time() - before == pytest.approx(3600, abs=1e-6)


async def test_long_sleeps_end() -> None:
    """A year is slept through though the clock's steps are coarse by then."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await asyncio.sleep(365 * 86_400.0)
        await asyncio.sleep(1e-6)
    assert loop.time() == pytest.approx(3 * 365 * 86_400, abs=1)


async def test_a_thread_is_waited_for() -> None:
    """The loop does not jump over the timeout that guards a thread."""
    async with asyncio.timeout(3600):
        await asyncio.to_thread(work, 0.02)


async def test_a_thread_that_can_not_start_is_not_waited_for() -> None:
    """Otherwise the clock would creep from then on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        loop.run_in_executor(threads, work, 0.0)
    assert loop.threads == 0


async def test_a_thread_that_waits_for_the_loop_does_not_stop_it() -> None:
    """The clock goes on slowly, so a sleep ends and can let the thread go."""
    go = threading.Event()
    waiting = asyncio.create_task(asyncio.to_thread(go.wait))
    await asyncio.sleep(0.01)
    go.set()
    assert await waiting


async def test_the_system_clock_follows_the_loop() -> None:
    """The default clock needs no replacing: both its readings move with the loop."""
    wall, steady = SYSTEM_CLOCK.time(), SYSTEM_CLOCK.monotonic()
    await SYSTEM_CLOCK.sleep(7200)
    assert SYSTEM_CLOCK.time() - wall == pytest.approx(7200)
    assert SYSTEM_CLOCK.monotonic() - steady == pytest.approx(7200)


def test_the_wall_clock_starts_at_the_machines() -> None:
    """Without a clock of its own, a program on the virtual loop sees today's date."""
    earliest = time.time()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        latest = time.time()

        async def now() -> float:
            return SYSTEM_CLOCK.time()

        assert earliest <= runner.run(now()) <= latest


def test_the_system_clock_on_other_loops_is_the_machines() -> None:
    """On an ordinary loop, and outside any, it is the time of day."""

    async def now() -> float:
        return SYSTEM_CLOCK.time()

    earliest = time.time()
    assert earliest <= asyncio.run(now()) <= SYSTEM_CLOCK.time() <= time.time()


async def test_a_virtual_clock_starts_where_it_is_set() -> None:
    """`VirtualClock` has a wall clock that can be set."""
    start = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    clock = VirtualClock(start)
    assert clock.time() == start
    await clock.sleep(10)
    clock.shift(-3600)
    assert clock.time() == pytest.approx(start + 10 - 3600)
