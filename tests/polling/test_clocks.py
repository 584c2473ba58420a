"""Wall clocks that are off: neither results nor durations depend on them."""

# ruff: noqa: S311 - seeded jitter; nothing is guarded by it
from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from comet_async.models import Task
from comet_async.testing import VirtualClock
from comet_async.waiter import TaskWaiter
from tests.support.task_server import Script, TaskServer

HOUR, DAY = 3600.0, 86_400.0
OFFSETS = [0.0, 60.0, HOUR, 3 * DAY, -60.0, -HOUR, -3 * DAY]


@pytest.fixture
def server(clock: VirtualClock) -> TaskServer:
    """Return a server of tasks in memory that were submitted by this session."""
    return TaskServer(clock=clock, submits=True)


async def time_of(server: TaskServer, waiter: TaskWaiter, task: Task | str) -> float:
    """Return how long a wait takes."""
    began = server.clock.monotonic()
    assert (await waiter.wait(task)).succeeded
    return server.clock.monotonic() - began


@pytest.mark.parametrize("by_id", [False, True], ids=["snapshot", "id"])
@pytest.mark.parametrize("ahead", OFFSETS)
async def test_a_wrong_clock_costs_nothing(
    server: TaskServer, ahead: float, *, by_id: bool
) -> None:
    """The age of a task that this session submitted is counted from its request."""
    server.ahead = ahead
    waiter = TaskWaiter(server, rng=random.Random(1))
    task = server.submit(20.0)
    # With a right clock it takes 22 to 31 s, as the jitter falls.
    assert await time_of(server, waiter, task.id if by_id else task) < 35.0
    assert waiter.polls <= 8
    assert waiter.mean_delay < 15.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR, DAY])
async def test_a_clock_that_jumps_costs_nothing(server: TaskServer, jump: float) -> None:
    """Set while tasks are waited for, before each poll."""

    def set_clock(_id: str, number: int) -> None:
        server.clock.shift(jump if number % 2 else -jump)
        server.ahead += jump if number % 2 else -jump

    server.fault = set_clock
    waiter = TaskWaiter(server, rng=random.Random(1))
    times = [await time_of(server, waiter, server.submit(20.0)) for _ in range(5)]
    assert max(times) < 35.0
    assert waiter.longest_delay < 15.0


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_one_task_of_ours_dates_all_others(server: TaskServer, ahead: float) -> None:
    """A task of another process has no request here: the server's clock is known by then."""
    server.ahead = ahead
    waiter = TaskWaiter(server, rng=random.Random(1))
    await waiter.wait(server.submit(20.0))
    server.submits = False
    assert await time_of(server, waiter, server.submit(20.0)) < 35.0
    assert waiter.longest_delay < 15.0


async def test_a_task_of_ours_is_not_polled_at_once(server: TaskServer) -> None:
    """Known by its id only, it is as old as its request."""
    waiter = TaskWaiter(server, schedule=10, rng=random.Random(1))
    await waiter.wait(server.submit(4.0).id)
    assert server.polled[0][0] - server.scripts["t0"].born >= 5.0
    assert waiter.polls == 1


async def test_the_server_need_not_name_any_time(server: TaskServer) -> None:
    """Then ages and delays come from our own clock alone."""
    server.has_times = False
    waiter = TaskWaiter(server, rng=random.Random(1))
    times = [await time_of(server, waiter, server.submit(20.0).id) for _ in range(5)]
    assert max(times) < 35.0


DAMAGES: dict[str, Callable[[datetime, datetime], tuple[datetime, datetime]]] = {
    "the end is that of another clock": lambda born, end: (born, end + timedelta(hours=8)),
    "the start is that of another clock": lambda born, end: (born - timedelta(hours=8), end),
    "the end lies before the start": lambda born, end: (born, end - timedelta(hours=8)),
    "the end is the start": lambda born, _end: (born, born),
    "the end is far away": lambda born, _end: (born, datetime(2100, 1, 1, tzinfo=UTC)),
    "the start is a placeholder": lambda _born, end: (datetime(2001, 9, 10, tzinfo=UTC), end),
}


@attrs.define(eq=False)
class FalseTimes(TaskServer):
    """A server whose times of a task don't belong together."""

    damage: Callable[[datetime, datetime], tuple[datetime, datetime]] = lambda a, b: (a, b)

    def snapshot(self, script: Script, now: float) -> Task:
        """Return a task with false times."""
        task = TaskServer.snapshot(self, script, now)
        assert task.created_at is not None
        assert task.updated_at is not None
        created, updated = self.damage(task.created_at, task.updated_at)
        return attrs.evolve(task, created_at=created, updated_at=updated)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_no_duration_is_learned_that_contradicts_what_was_seen(
    clock: VirtualClock, damage: str
) -> None:
    """The next tasks of ours are found as soon, by as few polls, as where the times are right."""
    server = FalseTimes(clock=clock, submits=True, damage=DAMAGES[damage])
    waiter = TaskWaiter(server, rng=random.Random(1))
    times = [await time_of(server, waiter, server.submit(20.0)) for _ in range(20)]
    assert max(times) < 35.0
    assert max(times[10:]) < 24.0
    assert waiter.mean_delay < 5.0
    assert waiter.polls < 20 * 7


@pytest.mark.parametrize("damage", ["the end is far away", "the start is a placeholder"])
async def test_tasks_of_others_teach_no_durations_of_years(
    clock: VirtualClock, damage: str
) -> None:
    """A session that resumed some finds its own ones in time all the same."""
    server = FalseTimes(clock=clock, damage=DAMAGES[damage])
    waiter = TaskWaiter(server, rng=random.Random(1))
    for _ in range(5):
        await time_of(server, waiter, server.submit(20.0))
    server.submits = True
    times = [await time_of(server, waiter, server.submit(20.0)) for _ in range(10)]
    assert max(times) < 40.0
    assert max(times[5:]) < 24.0
