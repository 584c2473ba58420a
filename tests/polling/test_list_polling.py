"""Many polls in one list call: only where the list proves to work, and nothing is missed."""

# ruff: noqa: S311 - seeded durations; nothing is guarded by them
from __future__ import annotations

import asyncio
import itertools
import random

import attrs
import pytest

from comet_async.events import Event, ListPolled
from comet_async.models import TaskPage, TaskStatus
from comet_async.testing import VirtualClock
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer


@pytest.fixture
def server(clock: VirtualClock) -> TaskServer:
    """Return a server whose list works."""
    return TaskServer(clock=clock, lists="on")


def durations(count: int, median: float = 20.0) -> list[float]:
    """Return durations around *median*."""
    rng = random.Random(2)
    return [median * 2.0 ** rng.gauss(0.0, 0.6) for _ in range(count)]


async def run(server: TaskServer, waiter: TaskWaiter, count: int, in_flight: int) -> None:
    """Wait for *count* tasks, of which so many are in flight at a time."""
    before = set(server.scripts)
    tasks = (server.submit(duration) for duration in durations(count))
    found = [task.id async for task in waiter.as_completed(tasks, prefetch=in_flight)]
    assert sorted(found) == sorted(set(server.scripts) - before)


async def test_one_call_serves_many(server: TaskServer) -> None:
    """32 in flight: less than one request a task, noticed after 0.7 s on average."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    await run(server, waiter, 200, 32)
    polls, calls, delay = waiter.polls, waiter.list_calls, waiter._counters.delay_total
    await run(server, waiter, 600, 32)
    assert (waiter.polls + waiter.list_calls - polls - calls) / 600 <= 1.0
    assert (waiter._counters.delay_total - delay) / 600 <= 0.7


async def test_a_page_a_second(server: TaskServer) -> None:
    """However many are due: on average, because a second page follows the first at once."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    began = server.clock.monotonic()
    await run(server, waiter, 300, 100)
    assert waiter.list_calls <= server.clock.monotonic() - began + 3


async def test_few_are_not_worth_a_list(server: TaskServer) -> None:
    """Three tasks are asked about one by one."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    await run(server, waiter, 9, 3)
    assert waiter.list_calls == 0


async def test_folding_can_be_turned_off(server: TaskServer) -> None:
    """By one argument."""
    waiter = TaskWaiter(server, use_list=False, rng=random.Random(1))
    await run(server, waiter, 50, 50)
    assert waiter.list_calls == 0


@pytest.mark.parametrize("lists", ["off", "empty", "broken", "hangs"])
async def test_a_list_that_does_not_work_costs_next_to_nothing(
    server: TaskServer, lists: str
) -> None:
    """It is tried seldom, beside the single questions, and delays none of them."""
    server.lists = lists
    waiter = TaskWaiter(server, rng=random.Random(1))
    await run(server, waiter, 300, 50)
    assert 1 <= waiter.list_calls <= 8
    assert waiter.mean_delay < 3.0


async def test_pauses_between_trials_grow(server: TaskServer) -> None:
    """A minute, two, four, …, an hour."""
    server.lists = "off"
    waiter = TaskWaiter(server, schedule=60, rng=random.Random(1))
    tasks = [server.submit(4 * 3600.0) for _ in range(5)]
    await asyncio.gather(*map(waiter.wait, tasks))
    moments = [moment for moment, _, _ in server.pages]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    exact = [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert gaps == [pytest.approx(pause, abs=61) for pause in exact[: len(gaps)]]
    assert len(gaps) >= 6


async def test_a_task_that_the_list_leaves_out_is_polled(server: TaskServer) -> None:
    """It is found as soon as if there were no list."""
    server.hidden = frozenset({"t3", "t17"})
    waiter = TaskWaiter(server, rng=random.Random(1))
    await run(server, waiter, 200, 32)
    assert waiter.longest_delay < 15.0


async def test_a_task_that_is_shown_late_is_found(server: TaskServer) -> None:
    """A list may lag behind: first it does not know the task, later it does."""
    waiter = TaskWaiter(server, rng=random.Random(1))

    async def hide() -> None:
        while True:
            now = server.clock.monotonic()
            young = [script.id for script in server.scripts.values() if now - script.born < 8.0]
            server.hidden = frozenset(young)
            await asyncio.sleep(0.5)

    hider = asyncio.create_task(hide())
    await run(server, waiter, 200, 32)
    hider.cancel()
    assert waiter.mean_delay < 3.0


async def test_a_list_that_fails_later_is_given_up(server: TaskServer) -> None:
    """Single questions take over, silently; and again when it works again."""
    waiter = TaskWaiter(server, rng=random.Random(1))

    async def break_it() -> None:
        await asyncio.sleep(30.0)
        server.lists = "off"
        await asyncio.sleep(30.0)
        assert waiter.list_calls <= 33
        server.lists = "on"

    breaker = asyncio.create_task(break_it())
    await run(server, waiter, 300, 32)
    await breaker
    assert waiter.longest_delay < 20.0
    assert waiter.list_calls > 60


async def test_a_list_that_is_out_of_date_is_found_out(server: TaskServer) -> None:
    """It shows every task as it was at first: controls find the ends, and then nobody asks it."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    await run(server, waiter, 60, 32)
    server.lists = "stale"
    tasks = [server.submit(duration) for duration in durations(60)]
    await asyncio.gather(*map(waiter.wait, tasks))
    # Some 10 s on a machine with nothing else to do; 120 where nothing finds it out.
    assert waiter.longest_delay < 100.0
    assert waiter.list_calls < 200


@pytest.mark.slow
async def test_many_pages_are_read(server: TaskServer) -> None:
    """1,300 tasks are on three pages: all are found, by fewer requests than tasks."""
    waiter = TaskWaiter(server, schedule=20, rng=random.Random(1))
    tasks = [server.submit(duration) for duration in durations(1300, 60.0)]
    found = [task.id async for task in waiter.as_completed(tasks, prefetch=2000)]
    assert len(found) == 1300
    assert {number for _, number, _ in server.pages} >= {1, 2, 3}
    assert waiter.polls + waiter.list_calls < 1300


async def test_pages_are_as_large_as_needed(server: TaskServer) -> None:
    """A small page is quicker."""
    waiter = TaskWaiter(server, schedule=5, rng=random.Random(1))
    for count in (7, 20, 40, 200):
        await asyncio.gather(*(waiter.wait(server.submit(30.0)) for _ in range(count)))
    assert {size for _, _, size in server.pages} == {30, 100, 200, 500}


async def test_a_list_without_images_is_not_the_end(clock: VirtualClock) -> None:
    """The task itself is asked for them."""

    class Bare(TaskServer):
        async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
            page = await super().poll_page(number, size, kind=kind)
            return attrs.evolve(page, tasks=tuple(attrs.evolve(t, images=()) for t in page.tasks))

    server = Bare(clock=clock, lists="on")
    waiter = TaskWaiter(server, schedule=5, rng=random.Random(1))
    done = await asyncio.gather(*(waiter.wait(server.submit(d)) for d in durations(40)))
    assert all(task.images for task in done)
    assert waiter.list_calls > 3


async def test_failed_tasks_are_found_in_the_list(server: TaskServer) -> None:
    """They have no images to ask for."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    tasks = [server.submit(d, failed=True) for d in durations(100)]
    done = [task async for task in waiter.as_completed(tasks)]
    assert {task.status for task in done} == {TaskStatus.FAILED}
    assert waiter.polls < 100


async def test_transitions_come_from_the_list_too(server: TaskServer) -> None:
    """In order, each once."""
    waiter = TaskWaiter(server, schedule=8, rng=random.Random(1))

    async def follow() -> list[str]:
        task = server.submit(40.0, starts=0.5)
        return [str(snapshot.status) async for snapshot in waiter.transitions(task)]

    stories = await asyncio.gather(*(follow() for _ in range(20)))
    assert {tuple(story) for story in stories} == {("submitted", "processing", "succeed")}
    assert waiter.list_calls > 3


async def test_kinds_have_lists_of_their_own(server: TaskServer) -> None:
    """Tasks of two kinds are not found in each other's list."""
    reported: list[Event] = []
    waiter = TaskWaiter(server, schedule=5, on_event=reported.append, rng=random.Random(1))
    waits = [
        waiter.wait(server.submit(30.0).id, kind=kind)
        for kind in ("expand", "try-on")
        for _ in range(10)
    ]
    await asyncio.gather(*waits)
    assert {event.kind for event in reported if isinstance(event, ListPolled)} == {
        "expand",
        "try-on",
    }


async def test_leaving_ends_the_list_calls(clock: VirtualClock) -> None:
    """Those that are planned, and the one on its way."""
    called = asyncio.Event()

    class Noisy(TaskServer):
        async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
            called.set()
            return await super().poll_page(number, size, kind=kind)

    server = Noisy(clock=clock, lists="on")
    waiter = TaskWaiter(server, rng=random.Random(1))
    waits = [asyncio.create_task(waiter.wait(server.submit(1e6).id)) for _ in range(40)]
    for _ in range(3):
        called.clear()
        await called.wait()
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    calls = waiter.list_calls
    await asyncio.sleep(100.0)
    assert waiter.list_calls == calls


async def test_somebody_elses_cancel_loses_no_task(server: TaskServer) -> None:
    """A list call that is cancelled from outside gives its tasks back."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    waits = [asyncio.create_task(waiter.wait(server.submit(d))) for d in durations(60)]
    keep = {asyncio.current_task(), *waits}
    for _ in range(50):
        await asyncio.sleep(0.73)
        for task in asyncio.all_tasks() - keep:
            task.cancel()
    done = await asyncio.gather(*waits)
    assert all(task.succeeded for task in done)


@pytest.mark.slow
@pytest.mark.parametrize(("median", "fastest"), [(1.0, 0.2), (5.0, 0.25), (20.0, 1.0)])
async def test_short_tasks_are_listed_more_often(
    server: TaskServer, median: float, fastest: float
) -> None:
    """Up to five times a second while tasks are known to be short, once a second otherwise."""
    waiter = TaskWaiter(server, rng=random.Random(1))
    tasks = (server.submit(duration) for duration in durations(600, median))
    async for _ in waiter.as_completed(tasks, prefetch=32):
        pass
    moments = [moment for moment, number, _ in server.pages if number == 1][-20:]
    between = [after - before for before, after in itertools.pairwise(moments)]
    assert min(between) >= fastest - 0.001
    assert (sorted(between)[len(between) // 2] < 0.9) is (median < 20.0)


@pytest.mark.parametrize("median", [3.0, 20.0, 300.0])
@pytest.mark.parametrize("count", [4, 16])
async def test_the_first_batch_is_seen_soon(server: TaskServer, median: float, count: int) -> None:
    """Nothing is learned yet, and all of a batch end at about the same age: none is seen late."""
    for seed in range(5):
        rng = random.Random(seed)
        waiter = TaskWaiter(server, rng=rng)
        tasks = [server.submit(median * 2.0 ** rng.gauss(0.0, 0.2)) for _ in range(count)]
        await asyncio.gather(*map(waiter.wait, tasks))
        share = max(0.1, 2.0 / count)
        assert waiter.longest_delay <= 1.0 + 1.1 * share * median * 2.0
        assert waiter.polls + waiter.list_calls <= 8 * count
