"""Waiting for one task and for many: ends, deadlines, sharing, loops, and what is reported."""

# ruff: noqa: S311 - seeded durations; nothing is guarded by them
from __future__ import annotations

import asyncio
import copy
import gc
import logging
import random
import threading
import tracemalloc
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import attrs
import pytest
import tenacity

from comet_async.callbacks import CallbackReceiver
from comet_async.errors import (
    AuthenticationError,
    InputError,
    ServerError,
    TaskFailedError,
    WaitTimeoutError,
)
from comet_async.events import Changed, Event, Polled, Retried
from comet_async.models import Task, TaskStatus
from comet_async.schedules import LearnedSchedule, ScheduleLike
from comet_async.session import CometSession
from comet_async.testing import VirtualClock, VirtualLoop
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer


def idle() -> bool:
    """Tell whether the running loop holds nothing but the test."""
    return asyncio.all_tasks() == {asyncio.current_task()}


# ------------------------------------------------------------------------------ ends


@pytest.mark.parametrize("by_id", [False, True], ids=["snapshot", "id"])
async def test_wait_returns_the_finished_task(
    server: TaskServer, waiter: TaskWaiter, *, by_id: bool
) -> None:
    """A snapshot will do, or an id from another process."""
    task = server.submit(20.0)
    done = await waiter.wait(task.id if by_id else task)
    assert done.succeeded
    assert done.images
    assert idle()


async def test_wait_raises_what_the_task_failed_with(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """The error holds the task and says why."""
    with pytest.raises(TaskFailedError, match="too dark") as caught:
        await waiter.wait(server.submit(5.0, failed=True))
    assert caught.value.task.failed
    assert caught.value.task_id == "t0"


@pytest.mark.parametrize("failed", [False, True])
async def test_a_finished_snapshot_needs_no_request(
    server: TaskServer, waiter: TaskWaiter, *, failed: bool
) -> None:
    """It is returned, or raised, as it is."""
    server.submit(1.0, failed=failed)
    await asyncio.sleep(2.0)
    done = server.snapshot(server.scripts["t0"], server.clock.monotonic())
    if failed:
        with pytest.raises(TaskFailedError):
            await waiter.wait(done)
    else:
        assert await waiter.wait(done) is done
    assert waiter.polls == 0


async def test_a_task_that_ended_long_ago_is_polled_once(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Its age tells that it is worth asking at once."""
    old = server.submit(20.0, age=3600.0)
    began = server.clock.monotonic()
    await waiter.wait(old)
    assert waiter.polls == 1
    assert server.clock.monotonic() - began < 0.2


async def test_a_fresh_snapshot_saves_a_request(server: TaskServer) -> None:
    """A task that is known to be new is not asked about at once; an id is."""
    waiter = TaskWaiter(server, schedule=10, rng=random.Random(1))
    await waiter.wait(server.submit(4.0))
    fresh = server.polled[0][0] - server.scripts["t0"].born
    await waiter.wait(server.submit(4.0).id)
    assert fresh >= 5.0
    assert server.polled[1][0] - server.scripts["t1"].born < 0.1


async def test_kind_and_limits_reach_the_session(clock: VirtualClock) -> None:
    """The question repeats the path of the request."""

    @attrs.define
    class Source(TaskServer):
        kinds: list[str] = attrs.field(factory=list)

        async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
            self.kinds.append(kind)
            return await super().poll(task_id, kind=kind, timeout=timeout)

    server = Source(clock=clock)
    waiter = TaskWaiter(server)
    await waiter.wait(server.submit(0.1).id, kind="try-on")
    await waiter.wait(attrs.evolve(server.submit(0.1), kind="generation"))
    await waiter.wait(server.submit(0.1).id)
    assert set(server.kinds) == {"try-on", "generation", "expand"}


# ------------------------------------------------------------------------------ deadlines


@pytest.mark.parametrize("limit", [3, 3.0, 30, 300.0])
async def test_a_deadline_is_kept_to_the_moment(
    server: TaskServer, waiter: TaskWaiter, limit: float
) -> None:
    """Integers count as seconds too, and the error tells how to go on."""
    task = server.submit(1e6, external_task_id="mine")
    began = server.clock.monotonic()
    with pytest.raises(WaitTimeoutError, match="do not submit it again") as caught:
        await waiter.wait(task, timeout=limit)
    assert server.clock.monotonic() - began == pytest.approx(limit, abs=0.05)
    assert (caught.value.task_id, caught.value.external_task_id) == ("t0", "mine")
    assert caught.value.task.status == TaskStatus.SUBMITTED
    assert isinstance(caught.value, TimeoutError)
    assert idle()


async def test_a_deadline_comes_after_a_last_look(server: TaskServer) -> None:
    """A task that ended within the limit is not reported as going on."""
    waiter = TaskWaiter(server, schedule=60)
    done = await waiter.wait(server.submit(18.0), timeout=20)
    assert done.succeeded
    assert waiter.polls == 1


async def test_a_deadline_cuts_the_last_exchange_short(server: TaskServer) -> None:
    """A far one leaves it to the session's own limit."""
    server.latency = 100.0
    waiter = TaskWaiter(server, schedule=5, rng=random.Random(1))
    with pytest.raises(WaitTimeoutError):
        await waiter.wait(server.submit(1e6), timeout=15.0)
    with pytest.raises(WaitTimeoutError):
        await waiter.wait(server.submit(1e6), timeout=60.0)
    near, far = server.timeouts
    assert near is not None
    assert 5.0 < near < 15.0
    assert far is None
    assert idle()


async def test_the_waiters_own_deadline_is_the_default(server: TaskServer) -> None:
    """None lifts it for one wait."""
    waiter = TaskWaiter(server, timeout=5)
    with pytest.raises(WaitTimeoutError, match="after 5 s"):
        await waiter.wait(server.submit(20.0))
    assert (await waiter.wait(server.submit(20.0), timeout=None)).succeeded


async def test_no_time_polls_once(server: TaskServer, waiter: TaskWaiter) -> None:
    """Zero asks how the task is now."""
    task = server.submit(20.0)
    with pytest.raises(WaitTimeoutError, match=f"{task.id} is submitted") as caught:
        await waiter.wait(task, timeout=0)
    assert caught.value.task_id == task.id
    await asyncio.sleep(30)
    assert (await waiter.wait(task.id, timeout=0)).succeeded
    assert waiter.polls == 2


async def test_deadlines_of_two_who_wait_are_their_own(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """One gives up, the other gets the task."""
    task = server.submit(20.0)
    short, long = await asyncio.gather(
        waiter.wait(task, timeout=5), waiter.wait(task), return_exceptions=True
    )
    assert isinstance(short, WaitTimeoutError)
    assert isinstance(long, Task)


async def test_a_wait_is_resumed_by_its_id(server: TaskServer, waiter: TaskWaiter) -> None:
    """In another process nothing is left but the id in the error."""
    with pytest.raises(WaitTimeoutError) as caught:
        await waiter.wait(server.submit(20.0), timeout=1)
    other = TaskWaiter(server)
    assert (await other.wait(caught.value.task_id or "")).succeeded


# ------------------------------------------------------------------------------ sharing


async def test_two_who_wait_for_one_task_cost_one_poll(server: TaskServer) -> None:
    """Also when one follows its states and another one collects."""
    alone = TaskWaiter(server, schedule=2, use_list=False, rng=random.Random(1))
    await alone.wait(server.submit(21.0))
    waiter = TaskWaiter(server, schedule=2, use_list=False, rng=random.Random(1))
    task = server.submit(21.0)

    async def collect() -> list[Task]:
        return [done async for done in waiter.as_completed([task, task.id])]

    async def follow() -> list[Task]:
        return [snapshot async for snapshot in waiter.transitions(task)]

    done, collected, followed = await asyncio.gather(waiter.wait(task), collect(), follow())
    assert waiter.polls <= alone.polls + 1
    assert [done, done] == collected
    assert followed[-1] == done


async def test_a_cancelled_wait_leaves_the_other(server: TaskServer, waiter: TaskWaiter) -> None:
    """And the last one to leave ends the polling."""
    task = server.submit(20.0)
    one, other = (asyncio.create_task(waiter.wait(task)) for _ in range(2))
    await asyncio.sleep(5.0)
    one.cancel()
    assert (await other).succeeded
    assert one.cancelled()
    polls = waiter.polls
    await asyncio.sleep(100.0)
    assert waiter.polls == polls
    assert waiter.waiting == 0


async def test_leaving_cancels_the_poll_on_its_way(server: TaskServer) -> None:
    """Nobody wants its answer."""
    server.latency = 50.0
    waiter = TaskWaiter(server)
    wait = asyncio.create_task(waiter.wait(server.submit(20.0).id))
    await asyncio.sleep(5.0)
    assert server.busy == 1
    wait.cancel()
    await asyncio.sleep(0.01)
    assert server.busy == 0
    assert idle()


async def test_a_worker_goes_on_after_one_poll_was_dropped(server: TaskServer) -> None:
    """One worker has ten tasks to ask about, and somebody leaves one of them."""
    server.latency = 1.0
    waiter = TaskWaiter(server, concurrency=1, use_list=False)
    waits = [asyncio.create_task(waiter.wait(server.submit(0.1).id)) for _ in range(10)]
    await asyncio.sleep(0.5)
    busy = next(number for number, task in enumerate(waits) if server.polled[0][1] == f"t{number}")
    waits[busy].cancel()
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert sum(isinstance(result, Task) for result in results) == 9


async def test_polls_are_not_cut_off_for_good_by_somebody_elses_cancel(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """A program that cancels all tasks but the one that waits does not stop its polling."""
    server.latency = 10.0
    wait = asyncio.create_task(waiter.wait(server.submit(5.0).id))
    await asyncio.sleep(1.0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), wait}:
        task.cancel()
    assert (await wait).succeeded


async def test_polls_at_a_time_are_bounded(server: TaskServer) -> None:
    """However many tasks are due."""
    server.latency = 5.0
    waiter = TaskWaiter(server, concurrency=7, use_list=False)
    await asyncio.gather(*(waiter.wait(server.submit(1.0).id) for _ in range(100)))
    assert server.busiest == 7


@pytest.mark.parametrize(
    ("schedule", "learned", "most"),
    [(None, 64, 60), (None, 0, 100), (10.0, 0, 60)],
    ids=["learned", "nothing known", "fixed"],
)
async def test_tasks_submitted_together_are_not_polled_together(
    server: TaskServer, schedule: float | None, learned: int, most: int
) -> None:
    """Five hundred of them: the busiest tenth of a second has 60 to 100 polls, and not 500."""
    rng = random.Random(1)
    known = LearnedSchedule(rng=rng)
    for _ in range(learned):
        known.learn(30.0 * 2.0 ** rng.gauss(0.0, 0.5))
    waiter = TaskWaiter(
        server, schedule=schedule or known, use_list=False, concurrency=500, rng=rng
    )
    tasks = [server.submit(30.0 * 2.0 ** rng.gauss(0.0, 0.5)) for _ in range(500)]
    await asyncio.gather(*map(waiter.wait, tasks))
    moments = [moment for moment, _ in server.polled]
    busiest = max(
        sum(other < moment + 0.1 for other in moments[at : at + 300])
        for at, moment in enumerate(moments)
    )
    assert busiest <= most


# ------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize(
    ("schedule", "polls"),
    [(5, range(20, 22)), (tenacity.wait_exponential(max=16), range(10, 11))],
    ids=["seconds", "tenacity"],
)
async def test_schedules_of_the_users(
    server: TaskServer, schedule: ScheduleLike, polls: range
) -> None:
    """Seconds and tenacity's strategies go through one small interface."""
    waiter = TaskWaiter(server, schedule=schedule)
    await waiter.wait(server.submit(100.0))
    assert waiter.polls in polls


async def test_the_sessions_schedule_is_the_default(server: TaskServer) -> None:
    """What the waiter was given wins."""
    server.schedule = LearnedSchedule()
    assert "aim=6.4" in repr(TaskWaiter(server))
    assert "FixedSchedule(9)" in repr(TaskWaiter(server, schedule=9))


async def test_durations_are_learned_from_the_servers_times(server: TaskServer) -> None:
    """The server says when a task was created and changed, to the millisecond."""
    schedule = LearnedSchedule()
    waiter = TaskWaiter(server, schedule=schedule)
    await asyncio.gather(*(waiter.wait(server.submit(20.0)) for _ in range(5)))
    assert schedule.learned == 5
    assert schedule._durations.mean == pytest.approx(20.0, abs=0.01)


async def test_durations_are_guessed_when_the_server_does_not_tell(server: TaskServer) -> None:
    """Between the last look that saw it going on and the first that did not."""
    server.has_times = False
    schedule = LearnedSchedule()
    waiter = TaskWaiter(server, schedule=schedule)
    for _ in range(30):
        await waiter.wait(server.submit(20.0))
    assert schedule._durations.mean == pytest.approx(20.0, rel=0.1)


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
async def test_a_wrong_clock_is_found_out(server: TaskServer, ahead: float) -> None:
    """Ours is two hours off: after a few tasks ages and delays are right again."""
    waiter = TaskWaiter(server, use_list=False, rng=random.Random(1))

    def reported(task: Task) -> Task:
        shift = timedelta(seconds=ahead)
        assert task.created_at is not None
        assert task.updated_at is not None
        return attrs.evolve(
            task, created_at=task.created_at - shift, updated_at=task.updated_at - shift
        )

    server.fault = lambda task_id, _number: reported(
        server.snapshot(server.scripts[task_id], server.clock.monotonic())
    )
    for _ in range(30):
        await waiter.wait(reported(server.submit(20.0)))
    before = waiter.polls
    for _ in range(10):
        await waiter.wait(reported(server.submit(20.0)))
    lag = waiter._shared.timing.server.lag + server.clock.time() - server.clock.monotonic()
    assert lag == pytest.approx(ahead, abs=2.5)
    assert (waiter.polls - before) / 10 < 9


async def test_a_schedule_that_raises_ends_the_wait(server: TaskServer) -> None:
    """A bug of the user's comes to the user, at the first plan and at later ones."""

    class Broken:
        def __init__(self) -> None:
            self.calls = 0

        def first(self, n: int = 1) -> float:
            self.calls += 1
            if self.calls > 1:
                raise ZeroDivisionError
            return float(n)

        def next(self, age: float, attempt: int, n: int = 1) -> float:
            raise OverflowError(f"{age}{attempt}{n}")

        def learn(self, duration: float, n: int = 1) -> None: ...

    waiter = TaskWaiter(server, schedule=Broken())
    with pytest.raises(OverflowError):
        await waiter.wait(server.submit(20.0))
    with pytest.raises(ZeroDivisionError):
        await waiter.wait(server.submit(20.0))
    assert waiter.waiting == 0


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"error_budget": -1},
        {"not_found_grace": float("nan")},
        {"concurrency": 0},
        {"schedule": "often"},
        {"schedule": -5},
    ],
)
def test_settings_that_make_no_sense_are_refused(
    server: TaskServer, options: dict[str, object]
) -> None:
    """At once, by name."""
    with pytest.raises(InputError, match=f"^{next(iter(options))}="):
        TaskWaiter(server, **options)  # type: ignore[arg-type]  # that is the point


# ------------------------------------------------------------------------------ loops


def test_one_waiter_in_two_runs(server: TaskServer) -> None:
    """Nothing is tied to the event loop of its making, or of its first use."""
    waiter = TaskWaiter(server)

    async def main() -> Task:
        return await waiter.wait(server.submit(20.0))

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(main()).succeeded
    assert len(waiter._pollers) == 1


def test_one_waiter_in_two_loops_at_once() -> None:
    """Each loop has its own scheduler; what is learned is shared."""
    server = TaskServer()
    waiter = TaskWaiter(server)
    done: list[Task] = []

    async def main() -> None:
        tasks = [server.submit(20.0, task_id=f"{threading.get_ident()}-{n}") for n in range(20)]
        done.extend([task async for task in waiter.as_completed(tasks)])

    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40
    assert waiter.waiting == 0


def test_a_loop_that_was_closed_in_the_middle_is_forgotten(server: TaskServer) -> None:
    """`asyncio.run` cancels those who wait, and leaves no warning."""
    waiter = TaskWaiter(server)

    async def leave_waiting() -> None:
        for task in [server.submit(20.0), server.submit(30.0)]:
            asyncio.get_running_loop().call_soon(asyncio.ensure_future, waiter.wait(task.id))
        await asyncio.sleep(1.0)

    for _ in range(3):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(leave_waiting())
    gc.collect()
    assert waiter.waiting == 0


async def test_closing_ends_the_waits(server: TaskServer) -> None:
    """The tasks go on; so does the waiter, if it is used again."""
    async with TaskWaiter(server) as waiter:
        waits = [asyncio.create_task(waiter.wait(server.submit(20.0).id)) for _ in range(5)]
        await asyncio.sleep(3.0)
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(result) for result in results} == {WaitTimeoutError}
    assert "waiter was closed" in str(results[0])
    assert (server.busy, waiter.waiting, idle()) == (0, 0, True)
    assert (await waiter.wait("t0")).succeeded


async def test_closing_reaches_other_loops(server: TaskServer) -> None:
    """Who waits there is told, too."""
    waiter = TaskWaiter(server)
    outcome: list[object] = []

    async def elsewhere() -> None:
        try:
            await waiter.wait(server.submit(1e9))
        except WaitTimeoutError as error:
            outcome.append(error)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    while not waiter.waiting:
        await asyncio.to_thread(threading.Event().wait, 0.01)
    await waiter.aclose()
    await asyncio.to_thread(thread.join)
    assert len(outcome) == 1


# ------------------------------------------------------------------------------ telling


async def test_events_tell_the_story(server: TaskServer) -> None:
    """Each poll, change and retry is reported as it happens."""
    reported: list[Event] = []
    waiter = TaskWaiter(server, on_event=reported.append, schedule=4, rng=random.Random(1))
    server.fault = lambda _id, number: ServerError("down") if number == 2 else None
    await waiter.wait(server.submit(20.0, starts=0.5))
    kinds = [type(event) for event in reported]
    assert kinds.count(Polled) == waiter.polls - 1
    assert kinds.count(Retried) == waiter.retries == 1
    changes = [event for event in reported if isinstance(event, Changed)]
    assert [event.previous for event in changes] == ["submitted", "processing"]
    assert changes[-1].task.succeeded
    assert changes[-1].delay == pytest.approx(waiter.mean_delay)


async def test_counters_count(server: TaskServer, waiter: TaskWaiter) -> None:
    """They are what a benchmark reads."""
    await asyncio.gather(*(waiter.wait(server.submit(20.0)) for _ in range(3)))
    assert (waiter.polls, waiter.finished) == (server.polls, 3)
    assert 0.0 < waiter.mean_delay <= waiter.longest_delay
    assert (waiter.list_calls, waiter.notifications, waiter.retries, waiter.waiting) == (0, 0, 0, 0)


async def test_the_log_has_fields(
    server: TaskServer, waiter: TaskWaiter, caplog: pytest.LogCaptureFixture
) -> None:
    """Each record carries the event's name and its fields, and no signed address."""
    caplog.set_level(logging.DEBUG, logger="comet_async.waiter")
    server.fault = lambda _id, number: ServerError("down") if number == 1 else None
    await waiter.wait(server.submit(10.0))
    fields = [vars(record) for record in caplog.records]
    assert {record["comet_event"] for record in fields} == {"polled", "changed", "retried"}
    assert {record["comet_task_id"] for record in fields} == {"t0"}
    assert "cdn.example" not in repr(fields)
    levels = {record["comet_event"]: record["levelname"] for record in fields}
    assert levels == {"polled": "DEBUG", "changed": "DEBUG", "retried": "INFO"}


async def test_a_hook_that_raises_costs_no_result(
    server: TaskServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and not called again."""
    calls = 0

    def hook(_event: Event) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("no")

    assert (await TaskWaiter(server, on_event=hook).wait(server.submit(5.0))).succeeded
    assert calls == 1
    assert caplog.text.count("on_event raised") == 1


# ------------------------------------------------------------------------------ weight


async def test_errors_are_each_waiters_own(server: TaskServer, waiter: TaskWaiter) -> None:
    """Two who wait for one task raise two errors, with two tracebacks."""
    server.fault = lambda _id, _number: AuthenticationError("no", hint="look at the key")
    task = server.submit(20.0)
    one, other = await asyncio.gather(waiter.wait(task), waiter.wait(task), return_exceptions=True)
    assert one is not other
    assert str(one) == str(other)
    assert "look at the key" in str(one)
    assert "do not submit" in str(copy.copy(one))


async def test_waiting_tasks_are_light(server: TaskServer) -> None:
    """A wait and all that belongs to it: 1,400 bytes, and what a coverage run adds to them."""
    waiter = TaskWaiter(server, schedule=1000)
    tasks = [server.submit(1e6) for _ in range(5000)]
    gc.collect()
    tracemalloc.start()
    waits = [asyncio.create_task(waiter.wait(task)) for task in tasks]
    await asyncio.sleep(1.0)
    gc.collect()
    weight = tracemalloc.get_traced_memory()[0] / len(tasks)
    tracemalloc.stop()
    assert waiter.waiting == len(tasks)
    assert weight < 1900
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_nothing_grows_with_the_tasks_that_were(server: TaskServer) -> None:
    """Short waits with long deadlines leave nothing behind in the scheduler."""
    waiter = TaskWaiter(server, timeout=1e6, use_list=False)
    for _ in range(40):
        await asyncio.gather(*(waiter.wait(server.submit(0.5)) for _ in range(25)))
    poller = waiter._pollers[asyncio.get_running_loop()]
    assert len(poller._timers) == 0
    assert len(poller._timers._heap) < 200


@pytest.mark.parametrize("task", [None, 123, "", b"953"])
async def test_what_is_no_task_is_reported(waiter: TaskWaiter, task: object) -> None:
    """Ids are text; that the task goes on and is paid for would be no help here."""
    with pytest.raises(InputError, match="is not a task or a task's id") as caught:
        await waiter.wait(task)  # type: ignore[arg-type]  # on purpose
    assert caught.value.hint == "pass a Task, or its id as text"
    with pytest.raises(InputError, match="is not a task"):
        await anext(waiter.transitions(task))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match="is not a task"):
        await anext(waiter.as_completed([task]))  # type: ignore[list-item]  # on purpose
    assert idle()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5"])
async def test_a_timeout_that_is_none_is_refused(
    server: TaskServer, waiter: TaskWaiter, timeout: float
) -> None:
    """For the waiter, and for one wait."""
    with pytest.raises(InputError, match=r"^timeout="):
        TaskWaiter(server, timeout=timeout)
    with pytest.raises(InputError, match=r"^timeout="):
        await waiter.wait(server.submit(1.0), timeout=timeout)


def test_a_waiter_of_ones_own_shares_what_the_session_learned() -> None:
    """It has the session's schedule and its callbacks, unless it is given others."""
    receiver, other = CallbackReceiver(), CallbackReceiver()
    session = CometSession("key", callbacks=receiver)
    waiter = TaskWaiter(session)
    assert waiter._shared.timing.schedule is session.waiter._shared.timing.schedule
    assert waiter._callbacks is receiver
    assert waiter._shared.by_external_id
    different = TaskWaiter(session, schedule=5, callbacks=other)
    assert different._callbacks is other
    assert repr(different._shared.timing.schedule) == "FixedSchedule(5)"


async def test_a_poll_starts_one_worker(server: TaskServer, waiter: TaskWaiter) -> None:
    """Not one for each that could run: a worker costs as much as decoding an answer."""
    server.lists = "off"
    loop, started = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        started.append(asyncio.Task(coro, loop=loop, **options))
        return started[-1]

    waits = [asyncio.create_task(waiter.wait(server.submit(float(n)))) for n in range(20, 40)]
    loop.set_task_factory(factory)
    await asyncio.gather(*waits)
    loop.set_task_factory(None)
    assert 20 <= len(started) <= waiter.polls + waiter.list_calls


async def test_workers_that_are_cancelled_before_they_begin_are_replaced(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Somebody who cancels all tasks of the loop in that moment stops no wait for good."""
    loop = asyncio.get_running_loop()
    waits = [asyncio.create_task(waiter.wait(server.submit(5.0))) for _ in range(3)]

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        loop.set_task_factory(None)
        task = asyncio.Task(coro, loop=loop, **options)
        task.cancel()
        return task

    loop.set_task_factory(factory)
    async with asyncio.timeout(600.0):
        done = await asyncio.gather(*waits)
    assert all(task.succeeded for task in done)
