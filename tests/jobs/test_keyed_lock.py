"""One at a time for each key."""

from __future__ import annotations

import asyncio
import threading

import pytest

from comet_async._jobs.keyed_lock import KeyedLock
from comet_async.testing import VirtualLoop


async def test_locks_come_in_the_order_of_requests() -> None:
    """Nobody overtakes, and other keys do not wait."""
    locks, order = KeyedLock(), list[int]()

    async def work(number: int) -> None:
        async with locks.of("key"):
            await asyncio.sleep(1)
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(number))
        async with locks.of("other"):
            assert order == []
    assert order == [0, 1, 2, 3]
    assert locks._waiting == {}


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_lock_is_passed_on(steps: int) -> None:
    """Whenever a waiting caller is cancelled, the next one gets its turn."""
    locks = KeyedLock()

    async def work(seconds: float) -> None:
        async with locks.of("key"):
            await asyncio.sleep(seconds)

    first, second, third = (asyncio.create_task(work(seconds)) for seconds in (0, 5, 0))
    for _ in range(steps):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert third.exception() is None
    assert locks._waiting == {}


async def test_an_error_releases_the_lock() -> None:
    """Whatever happens inside, the key is free again."""
    locks = KeyedLock()
    with pytest.raises(ValueError, match="inside"):
        async with locks.of("key"):
            raise ValueError("inside")
    async with locks.of("key"):
        pass


def test_loops_in_several_threads_exclude_each_other() -> None:
    """Callers in different loops never have the same key at the same time."""
    locks, inside, most = KeyedLock(), 0, 0

    async def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            async with locks.of("key"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert locks._waiting == {}


async def hold(locks: KeyedLock) -> None:
    """Hold a lock without end."""
    async with locks.of("key"):
        await asyncio.Event().wait()


async def test_a_closed_loop_loses_its_locks() -> None:
    """They go to those who wait, in order, and its remains take them from nobody."""
    locks, order, other = KeyedLock(), list[int](), VirtualLoop()
    holder = hold(locks)

    async def work(number: int) -> None:
        async with locks.of("key"):
            order.append(number)
            holder.close()  # as the garbage collector does at some time
            await asyncio.sleep(1)
            assert order[-1] == number

    task = other.create_task(holder)
    await asyncio.to_thread(other.run_until_complete, asyncio.sleep(0))
    callers = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(30)
    assert order == []
    other.close()
    await asyncio.gather(*callers)
    assert order == [0, 1, 2]
    assert locks._waiting == locks._holders == {}
    assert not task.done()


async def test_a_lock_goes_to_a_loop_that_runs() -> None:
    """A caller in a loop that was stopped gets it when no other wants it."""
    locks, stopped = KeyedLock(), VirtualLoop()
    async with locks.of("key"):
        waiter = stopped.create_task(hold(locks))
        await asyncio.to_thread(stopped.run_until_complete, asyncio.sleep(0))
        running = asyncio.create_task(locks.acquire("key"))
        await asyncio.sleep(0)
    assert await running is asyncio.get_running_loop()
    locks.release("key", await running)
    assert locks.held_by(stopped, "key")
    waiter.cancel()
    await asyncio.to_thread(stopped.run_until_complete, asyncio.wait({waiter}))
    stopped.close()
    assert not locks.taken("key")
