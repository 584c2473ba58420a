"""The iterators over waited-for tasks: order, laziness, leaving, going on."""

# ruff: noqa: S311 - seeded durations; nothing is guarded by them
from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from comet_async._polling.streams import Inbox, OrderedInbox
from comet_async._wire.decode import Notification
from comet_async.errors import (
    AuthenticationError,
    InputError,
    NotFoundError,
    ServerError,
    WaitTimeoutError,
)
from comet_async.models import Task, TaskStatus
from comet_async.testing import VirtualLoop
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer


@pytest.fixture
def waiter(server: TaskServer) -> TaskWaiter:
    """Return a waiter that asks each second."""
    return TaskWaiter(server, schedule=1, use_list=False, rng=random.Random(1))


async def states(stream: AsyncIterator[Task]) -> list[str]:
    """Return the states that *stream* yields."""
    return [str(snapshot.status) async for snapshot in stream]


def say(server: TaskServer, *words: str) -> None:
    """Let the server answer with these states, one by one, and then with the truth."""
    task = server.submit(len(words) + 30.0)

    def answer(_id: str, number: int) -> Task | None:
        if number > len(words):
            return None
        return attrs.evolve(task, status=TaskStatus.parse(words[number - 1]))

    server.fault = answer


# ------------------------------------------------------------------------------ transitions


async def test_each_state_comes_once(server: TaskServer, waiter: TaskWaiter) -> None:
    """The first snapshot too, and the last is final."""
    task = server.submit(20.0, starts=0.5)
    stream = waiter.transitions(task)
    assert await anext(stream) is task
    assert waiter.polls == 0
    assert await states(stream) == ["processing", "succeed"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_an_id_yields_the_first_answer(server: TaskServer, waiter: TaskWaiter) -> None:
    """With all that the server said."""
    stream = waiter.transitions(server.submit(20.0).id)
    first = await anext(stream)
    assert first.status == TaskStatus.SUBMITTED
    assert first.raw == {"task_id": "t0"}


async def test_a_failed_task_is_yielded(server: TaskServer, waiter: TaskWaiter) -> None:
    """And not raised: its states are what was asked for."""
    task = server.submit(5.0, failed=True, starts=1.0)
    assert await states(waiter.transitions(task)) == ["submitted", "failed"]


async def test_a_finished_snapshot_is_all_there_is(server: TaskServer, waiter: TaskWaiter) -> None:
    """Nothing is asked."""
    done = server.finished(5.0)
    assert await states(waiter.transitions(done)) == ["succeed"]
    assert waiter.polls == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["processing", "submitted", "processing"], ["processing"]),
        (["submitted", "QUEUED", "not_start"], ["submitted", "processing"]),
        (["rendering", "submitted", "rendering"], ["rendering", "processing"]),
        (["one", "other", "one"], ["one", "other", "processing"]),
        ([], ["submitted", "processing"]),
    ],
    ids=["backward", "other words", "unknown", "two unknown", "plain"],
)
async def test_states_never_go_back(
    server: TaskServer, waiter: TaskWaiter, words: list[str], expected: list[str]
) -> None:
    """Replicas may answer with older states, and servers with new words."""
    say(server, *words)
    assert await states(waiter.transitions("t0")) == [*expected, "succeed"]


async def test_states_that_were_passed_are_left_out(server: TaskServer, waiter: TaskWaiter) -> None:
    """`submitted` straight to `succeed`."""
    task = server.submit(0.2)
    assert await states(waiter.transitions(task)) == ["submitted", "succeed"]


async def test_what_happened_meanwhile_is_not_lost(server: TaskServer, waiter: TaskWaiter) -> None:
    """A slow reader gets all states, and the polling does not wait for it."""
    stream = waiter.transitions(server.submit(20.0))
    await anext(stream)
    await asyncio.sleep(100.0)
    polls = waiter.polls
    assert await states(stream) == ["processing", "succeed"]
    assert waiter.polls == polls


async def test_break_ends_the_polling(server: TaskServer, waiter: TaskWaiter) -> None:
    """Without a word more."""
    async for _ in waiter.transitions(server.submit(20.0)):
        break
    await asyncio.sleep(0)
    assert waiter.waiting == 0
    await asyncio.sleep(30.0)
    assert waiter.polls == 0


@pytest.mark.parametrize("way", ["aclose", "with", "closing", "drop", "unused"])
async def test_every_way_of_leaving(server: TaskServer, waiter: TaskWaiter, way: str) -> None:
    """After each nobody waits, and nothing is left in the loop."""
    stream = waiter.transitions(server.submit(20.0).id)
    match way:
        case "aclose":
            await anext(stream)
            await stream.aclose()
            assert await states(stream) == []
        case "with":
            async with stream:
                await anext(stream)
        case "closing":
            async with contextlib.aclosing(stream):
                await anext(stream)
        case "drop":
            await anext(stream)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    assert waiter.waiting == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_step_can_be_timed_out_and_taken_again(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """An async generator would be over after the first timeout."""
    stream = waiter.transitions(server.submit(20.0, starts=0.9))
    await anext(stream)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await anext(stream)
    assert await states(stream) == ["processing", "succeed"]


async def test_a_deadline_can_be_waited_beyond(server: TaskServer, waiter: TaskWaiter) -> None:
    """The error is raised, and iterating on waits anew; no state comes twice."""
    stream = waiter.transitions(server.submit(20.0, starts=0.1), timeout=8)
    assert [(await anext(stream)).status, (await anext(stream)).status] == [
        "submitted",
        "processing",
    ]
    with pytest.raises(WaitTimeoutError):
        await anext(stream)
    assert waiter.waiting == 0
    with pytest.raises(WaitTimeoutError):
        await anext(stream)
    assert await states(stream) == ["succeed"]


async def test_errors_of_the_account_are_raised(server: TaskServer, waiter: TaskWaiter) -> None:
    """When the key is valid again, the same iterator goes on."""
    stream = waiter.transitions(server.submit(20.0, starts=0.1))
    server.fault = lambda _id, number: AuthenticationError("no") if number == 4 else None
    seen = [(await anext(stream)).status, (await anext(stream)).status]
    with pytest.raises(AuthenticationError):
        await anext(stream)
    assert seen + await states(stream) == ["submitted", "processing", "succeed"]


async def test_two_who_follow_see_the_same(server: TaskServer, waiter: TaskWaiter) -> None:
    """One that comes late begins with the state of the moment."""
    task = server.submit(20.0, starts=0.2)
    early = asyncio.create_task(states(waiter.transitions(task)))
    await asyncio.sleep(10.0)
    late = asyncio.create_task(states(waiter.transitions(task.id)))
    assert await early == ["submitted", "processing", "succeed"]
    assert await late == ["processing", "succeed"]


async def test_one_who_follows_joins_one_who_waits(server: TaskServer, waiter: TaskWaiter) -> None:
    """Snapshots were not kept so far: the next one is asked for at once, whole."""
    task_id = server.submit(20.0, starts=0.2).id
    wait = asyncio.create_task(waiter.wait(task_id))
    await asyncio.sleep(10.5)
    stream = waiter.transitions(task_id)
    began = server.clock.monotonic()
    first = await anext(stream)
    assert server.clock.monotonic() - began < 0.2
    assert first.status == TaskStatus.PROCESSING
    assert first.raw == {"task_id": "t0"}
    assert await states(stream) == ["succeed"]
    await wait


async def test_one_reader_of_several_gets_the_error(server: TaskServer, waiter: TaskWaiter) -> None:
    """The other one waits again, as if it had made its step after the error."""
    stream = waiter.transitions(server.submit(30.0, starts=0.0).id, timeout=20)
    await anext(stream)
    steps = [asyncio.create_task(anext(stream)) for _ in range(2)]
    await asyncio.wait_for(asyncio.wait(steps), 100.0)
    failed, done = (step.exception() or step.result() for step in steps)
    assert isinstance(failed, WaitTimeoutError)
    assert isinstance(done, Task)
    assert done.succeeded


async def test_several_may_step_one_iterator(server: TaskServer, waiter: TaskWaiter) -> None:
    """Each item goes to one of them, and all of them end."""
    stream = waiter.as_completed([server.submit(float(n)) for n in range(1, 21)])

    async def take() -> list[str]:
        return [done.id async for done in stream]

    parts = await asyncio.gather(take(), take(), take())
    assert sorted(itertools.chain(*parts)) == sorted(server.scripts)


# ------------------------------------------------------------------------------ as_completed


async def test_tasks_come_in_the_order_of_their_ends(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Failed ones too, as tasks."""
    tasks = [server.submit(d, failed=d == 9.0) for d in (30.0, 3.0, 9.0, 18.0)]
    done = [task async for task in waiter.as_completed(tasks)]
    assert [task.id for task in done] == ["t1", "t2", "t3", "t0"]
    assert [task.failed for task in done] == [False, True, False, False]


async def test_tasks_found_together_come_in_the_order_of_their_ends(
    server: TaskServer,
) -> None:
    """One page of the list shows four that ended between two looks: the server's times count."""
    waiter = TaskWaiter(server, schedule=100, use_list=False, rng=random.Random(1))
    server.latency = None
    tasks = [server.submit(duration) for duration in (40.0, 10.0, 30.0, 20.0)]
    stream = waiter.as_completed(tasks)
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(50.0)
    for task in tasks:  # callbacks, all at once: the polls answer in this order
        waiter.notify(Notification(task_id=task.id))
    found = [(await first).id, *[task.id async for task in stream]]
    assert found == ["t1", "t3", "t2", "t0"]


def test_what_has_no_time_keeps_its_place() -> None:
    """Tasks go by their times; an error, or a task without one, stays behind what came before."""
    inbox = OrderedInbox()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    late, early, bare = (
        Task(id=name, status=TaskStatus.SUCCEED, updated_at=at)
        for name, at in (("late", moment + timedelta(seconds=5)), ("early", moment), ("bare", None))
    )
    error = WaitTimeoutError("t")
    for item in (late, error, early, bare):
        inbox.put(item)
    assert [inbox.pop() for _ in range(len(inbox))] == [early, late, error, bare]


async def submitted(server: TaskServer, count: int) -> AsyncIterator[Task]:
    """Submit tasks, one each second."""
    for _ in range(count):
        await asyncio.sleep(1.0)
        yield server.submit(10.0)


@pytest.mark.parametrize("form", ["list", "generator", "async", "ids", "mixed"])
async def test_any_iterable_will_do(server: TaskServer, waiter: TaskWaiter, form: str) -> None:
    """Snapshots or ids, finished or not, all at once or over time."""
    tasks: list[Task | str] = [server.submit(float(n)) for n in range(1, 10)]
    ids = [task.id for task in tasks if isinstance(task, Task)]
    done = server.finished(1.0)
    source = {
        "list": tasks,
        "generator": (task for task in tasks),
        "async": submitted(server, 9),
        "ids": ids,
        "mixed": [done, *ids[:4], *tasks[4:]],
    }[form]
    finished = [task async for task in waiter.as_completed(source)]  # type: ignore[arg-type]  # a union
    assert len(finished) == (10 if form == "mixed" else 9)
    assert all(task.done for task in finished)


async def test_an_async_source_goes_on_while_tasks_are_waited_for(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Ten tasks of ten seconds, one submitted each second, are over after twenty."""
    began = server.clock.monotonic()
    async for _ in waiter.as_completed(submitted(server, 10)):
        pass
    assert server.clock.monotonic() - began < 22.0


async def test_nothing_comes_of_nothing(waiter: TaskWaiter) -> None:
    """An empty iterable is over at once, of either sort."""

    async def nothing() -> AsyncIterator[Task]:
        for task in ():
            yield task

    assert await states(waiter.as_completed([])) == []
    assert await states(waiter.as_completed(nothing())) == []


@pytest.mark.parametrize("lazily", ["sync", "async"])
async def test_the_look_ahead_is_bounded(
    server: TaskServer, waiter: TaskWaiter, lazily: str
) -> None:
    """An endless source is taken as far as it is needed."""
    taken = 0

    def endless() -> Iterator[Task]:
        nonlocal taken
        while True:
            taken += 1
            yield server.submit(5.0)

    async def endless_async() -> AsyncIterator[Task]:
        for task in endless():
            yield task

    source = endless() if lazily == "sync" else endless_async()
    stream = waiter.as_completed(source, prefetch=4)
    for number in range(20):
        await anext(stream)
        assert taken <= number + 6
    await stream.aclose()
    assert waiter.waiting == 0


async def test_a_finished_source_of_finished_tasks_is_bounded_too(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """What was taken and not yet yielded counts."""
    done = server.finished(1.0)
    endless = itertools.repeat(done)
    stream = waiter.as_completed(endless, prefetch=10)
    assert [(await anext(stream)).id for _ in range(100)] == ["t0"] * 100


async def test_a_task_twice_is_yielded_twice(server: TaskServer, waiter: TaskWaiter) -> None:
    """And asked about once."""
    task = server.submit(10.0)
    done = [task.id async for task in waiter.as_completed([task, task, task.id])]
    assert done == ["t0"] * 3
    assert waiter.polls <= 12


async def test_errors_of_the_source_are_raised(server: TaskServer, waiter: TaskWaiter) -> None:
    """After it the tasks that were taken can still be had."""

    async def broken() -> AsyncIterator[Task]:
        yield server.submit(10.0)
        raise LookupError("no more")

    def broken_too() -> Iterator[Task]:
        yield server.submit(10.0)
        raise LookupError("no more")

    for source in (broken(), broken_too()):
        stream = waiter.as_completed(source)
        with pytest.raises(LookupError):
            await anext(stream)
        assert await states(stream) == ["succeed"]


@pytest.mark.parametrize("form", ["list", "generator"])
async def test_what_is_no_task_is_not_waited_for(
    server: TaskServer, waiter: TaskWaiter, form: str
) -> None:
    """It is an error of its step, and the iteration ends with the others."""
    tasks: list[Task | str] = [server.submit(10.0), ""]

    async def generator() -> AsyncIterator[Task | str]:
        for task in tasks:
            yield task

    stream = waiter.as_completed(tasks if form == "list" else generator())
    with pytest.raises(InputError):
        await anext(stream)
    assert await asyncio.wait_for(states(stream), 100.0) == ["succeed"]


async def test_a_source_that_was_cancelled_has_not_ended(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """What it waited for was cancelled: its reader hears of it, as if there was no waiter."""

    async def source() -> AsyncIterator[Task]:
        yield server.submit(10.0)
        upload = asyncio.get_running_loop().create_future()
        upload.cancel()
        await upload

    stream = waiter.as_completed(source())
    with pytest.raises(asyncio.CancelledError):
        await anext(stream)
    assert await states(stream) == ["succeed"]


async def test_one_that_can_not_be_waited_for_leaves_the_others(server: TaskServer) -> None:
    """The error names it; iterating on gives the others."""
    waiter = TaskWaiter(server, schedule=1, error_budget=5, not_found_grace=5, use_list=False)
    stream = waiter.as_completed([server.submit(30.0), "unknown", server.submit(40.0)])
    with pytest.raises(NotFoundError) as caught:
        await anext(stream)
    assert caught.value.task_id == "unknown"
    assert [task.id async for task in stream] == ["t0", "t1"]


async def test_deadlines_hold_for_each_task(server: TaskServer, waiter: TaskWaiter) -> None:
    """From when it was taken."""
    tasks = [server.submit(d) for d in (5.0, 100.0, 15.0)]
    stream = waiter.as_completed(tasks, timeout=20, prefetch=2)
    results: list[str | None] = []
    while True:
        try:
            results.append((await anext(stream)).id)
        except WaitTimeoutError as error:
            results.append(f"late {error.task_id}")
        except StopAsyncIteration:
            break
    assert results in (["t0", "t2", "late t1"], ["t0", "late t1", "t2"])


async def test_account_errors_end_everything(server: TaskServer, waiter: TaskWaiter) -> None:
    """Each of the tasks would meet it: all errors come, and no requests more than were out."""
    server.fault = lambda _id, _number: AuthenticationError("no")
    stream = waiter.as_completed([server.submit(20.0) for _ in range(50)])
    for _ in range(50):
        with pytest.raises(AuthenticationError):
            await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert waiter.polls <= 10


async def test_leaving_early_ends_source_and_polls(server: TaskServer, waiter: TaskWaiter) -> None:
    """The source is told as if its reader was cancelled."""
    ended = asyncio.Event()

    async def source() -> AsyncIterator[Task]:
        try:
            yield server.submit(2.0)
            await asyncio.sleep(1e6)
        finally:
            ended.set()

    async for _ in waiter.as_completed(source()):
        break
    await asyncio.wait_for(ended.wait(), 1.0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nested_over_the_same_tasks(server: TaskServer, waiter: TaskWaiter) -> None:
    """An iterator inside another one, over the same tasks, costs no poll more."""
    tasks = [server.submit(10.0 * n) for n in range(1, 4)]
    pairs = []
    async for outer in waiter.as_completed(tasks):
        async for inner in waiter.as_completed(tasks):
            pairs.append((outer.id, inner.id))
            break
    assert [outer for outer, _ in pairs] == ["t0", "t1", "t2"]
    assert waiter.polls <= 66


async def test_a_reader_that_was_woken_and_cancelled_passes_on(server: TaskServer) -> None:
    """The item that it was woken for goes to the other reader."""
    inbox = Inbox()
    one, other = (asyncio.create_task(inbox.arrival()) for _ in range(2))
    await asyncio.sleep(0)
    inbox.put(server.submit(5.0))
    one.cancel()
    await other
    assert one.cancelled()


async def test_many_are_taken_in_turns(server: TaskServer) -> None:
    """Taking many tasks does not hold the loop for as long as that takes."""
    waiter = TaskWaiter(server, schedule=1e4, use_list=False)
    tasks = [server.submit(1e6) for _ in range(5000)]
    step = asyncio.create_task(anext(waiter.as_completed(tasks, prefetch=10**6)))
    turns = 0
    while waiter.waiting < 5000:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10
    step.cancel()


def test_bad_limits_are_refused(waiter: TaskWaiter) -> None:
    """A look-ahead of nothing would wait forever."""
    with pytest.raises(InputError, match="prefetch=0"):
        waiter.as_completed([], prefetch=0)


def test_an_iterator_left_in_a_closed_loop_is_silent(server: TaskServer) -> None:
    """It is dropped after its loop: there is nothing to stop."""
    waiter = TaskWaiter(server)
    kept: list[object] = []

    async def main() -> None:
        stream = waiter.transitions(server.submit(1e6))
        await anext(stream)
        kept.append(stream)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    kept.clear()
    gc.collect()


async def test_faults_do_not_reach_the_iterator(server: TaskServer, waiter: TaskWaiter) -> None:
    """Every other answer fails, and the states are the same."""
    server.fault = lambda _id, number: ServerError("down") if number % 2 else None
    task = server.submit(20.0, starts=0.5)
    assert await states(waiter.transitions(task)) == ["submitted", "processing", "succeed"]
