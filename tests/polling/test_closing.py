"""Many waits that end at once: in turns of the loop, and without errors that nobody reads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import threading

import pytest

from comet_async._polling import poller
from comet_async._polling.watch import TimerHeap, WatchedTask
from comet_async.errors import AuthenticationError, WaitTimeoutError
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer

MANY = 2200


async def ended_in_turns(waits: list[asyncio.Task[object]]) -> list[int]:
    """Return how many of *waits* ended in each turn of the loop, until all have."""
    turns = [sum(wait.done() for wait in waits)]
    while not all(wait.done() for wait in waits):
        await asyncio.sleep(0)
        turns.append(sum(wait.done() for wait in waits))
    return [after - before for before, after in itertools.pairwise(turns)]


async def started(server: TaskServer, waiter: TaskWaiter) -> list[asyncio.Task[object]]:
    """Begin to wait for many tasks."""
    waits: list[asyncio.Task[object]] = [
        asyncio.create_task(waiter.wait(server.submit(900.0))) for _ in range(MANY)
    ]
    await asyncio.sleep(1.0)
    assert waiter.waiting == MANY
    return waits


async def test_closing_leaves_turns_to_others(server: TaskServer) -> None:
    """No turn of the loop ends more than some hundred waits."""
    waiter = TaskWaiter(server, schedule=60, use_list=False)
    waits = await started(server, waiter)
    closing = asyncio.create_task(waiter.aclose())
    turns = await ended_in_turns(waits)
    await closing
    assert 0 < max(turns) <= poller._BATCH < sum(turns)
    assert {type(wait.exception()) for wait in waits} == {WaitTimeoutError}


async def test_a_refused_key_leaves_turns_to_others(server: TaskServer) -> None:
    """So does an error of the account, which ends all waits as well."""
    waiter = TaskWaiter(server, schedule=60, use_list=False)
    waits = await started(server, waiter)
    server.fault = lambda _id, _number: AuthenticationError("no")
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    turns = await ended_in_turns(waits)
    assert 0 < max(turns) <= poller._BATCH < sum(turns)
    assert {type(wait.exception()) for wait in waits} == {AuthenticationError}
    assert waiter.waiting == 0


async def test_a_wait_that_begins_while_others_end_is_ended_too(server: TaskServer) -> None:
    """Otherwise it would go on in a waiter that is closed, out of reach of its callbacks."""
    waiter = TaskWaiter(server, schedule=2, use_list=False)
    waits = await started(server, waiter)
    closing = asyncio.create_task(waiter.aclose())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not all(wait.done() for wait in waits)
    with pytest.raises(WaitTimeoutError, match="was closed"):
        await waiter.wait(server.submit(3.0))
    with pytest.raises(WaitTimeoutError, match="was closed"):
        await waiter.wait("t1")  # others may wait for it already
    assert not closing.done()
    await closing
    assert waiter.waiting == 0
    assert asyncio.all_tasks() <= {asyncio.current_task(), *waits}
    late = await waiter.wait(server.submit(3.0))
    assert late.succeeded


async def test_a_wait_in_another_loop_that_begins_while_closing_stays_known(
    server: TaskServer,
) -> None:
    """It was not ended, so callbacks have to reach it, and the next closing has to end it."""
    waiter = TaskWaiter(server, schedule=60, use_list=False)
    waits = await started(server, waiter)
    closing = asyncio.create_task(waiter.aclose())
    await asyncio.sleep(0)
    begun = threading.Event()
    server.latency = 3600.0  # by the other loop's clock its task has ended: no poll may say so

    async def elsewhere() -> None:
        asyncio.get_running_loop().call_soon(begun.set)
        with pytest.raises(WaitTimeoutError, match="was closed"):
            await waiter.wait(server.snapshot(server.scripts["t1"], 0.0))

    with concurrent.futures.ThreadPoolExecutor() as threads:
        ended = threads.submit(asyncio.run, elsewhere())
        assert begun.wait(10)
        assert not closing.done()
        await closing
        assert waiter.waiting == 1
        await waiter.aclose()
        ended.result(10)
    assert waiter.waiting == 0
    await asyncio.wait(waits)


async def test_errors_are_made_for_those_who_ask(
    server: TaskServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter that is closed makes an error for each step that is taken, no more."""
    made: list[str] = []

    def counted(entry: WatchedTask) -> WaitTimeoutError:
        made.append(entry.id)
        return WaitTimeoutError("closed", task_id=entry.id)

    monkeypatch.setattr(poller, "closed_error", counted)
    waiter = TaskWaiter(server, schedule=60, use_list=False)
    stream = waiter.as_completed([server.submit(900.0) for _ in range(MANY)], prefetch=MANY)
    step = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(1.0)
    await waiter.aclose()
    with pytest.raises(WaitTimeoutError) as first:
        await step
    with pytest.raises(WaitTimeoutError) as second:
        await anext(stream)
    assert made == [first.value.task_id, second.value.task_id]
    await stream.aclose()


def test_timers_are_cleared_at_once() -> None:
    """Cleared tasks can be put back, or dropped, as if they had never been there."""
    timers = TimerHeap()
    entries = [WatchedTask(f"t{number}", "expand", 1, 0.0) for number in range(3)]
    for number, entry in enumerate(entries):
        entry.due = float(number)
        timers.put(entry)
    timers.clear()
    assert not len(timers)
    assert timers.take(10.0) is None
    timers.drop(entries[0])
    timers.put(entries[1])
    take = functools.partial(timers.take, 10.0)
    assert [take(), take()] == [entries[1], None]
