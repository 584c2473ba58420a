"""What holds for every history: reported once, not before the end, soon after; whoever cancels."""

# ruff: noqa: S311 - seeded durations; nothing is guarded by them
from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine

import pytest
from hypothesis import given, settings, strategies as st

from comet_async._polling.timing import ServerClock
from comet_async._polling.watch import NEVER, TimerHeap, WatchedTask
from comet_async._wire.decode import Notification
from comet_async.callbacks import CallbackReceiver
from comet_async.errors import (
    CometError,
    ConnectionLostError,
    DecodeError,
    NotFoundError,
    RateLimitError,
    ServerError,
    WaitTimeoutError,
)
from comet_async.models import Task, TaskStatus
from comet_async.testing import VirtualLoop
from comet_async.waiter import TaskWaiter
from tests.support.task_server import IMAGES, TaskServer

FAULTS: list[CometError | None] = [
    None,
    None,
    None,
    ConnectionLostError("lost"),
    ServerError("down"),
    RateLimitError("slow", retry_after=7.0),
    DecodeError("no answer"),
    NotFoundError("none"),
]


def run(main: Coroutine[None, None, None]) -> None:
    """Run *main* on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


histories = st.fixed_dictionaries(
    {
        "tasks": st.lists(
            st.tuples(
                st.floats(0.0, 20.0),  # seconds after the one before
                st.floats(0.01, 300.0),  # duration
                st.booleans(),  # failed
            ),
            min_size=1,
            max_size=25,
        ),
        "seed": st.integers(0, 10_000),
        "schedule": st.sampled_from([None, 3.0, 30.0]),
        "lists": st.sampled_from(["off", "on", "empty", "stale", "broken"]),
        "hidden": st.sets(st.integers(0, 24), max_size=5),
        "faults": st.lists(st.integers(0, len(FAULTS) - 1), min_size=1, max_size=17),
        "callbacks": st.lists(st.tuples(st.floats(0.0, 400.0), st.integers(0, 24)), max_size=20),
        "latency": st.sampled_from([0.0, 0.05, 2.0]),
        "prefetch": st.integers(1, 30),
    }
)


@settings(max_examples=2 * settings.default.max_examples)
@given(history=histories)
def test_every_task_is_reported_once_and_in_time(history: dict[str, object]) -> None:
    """Whatever arrives when, lasts how long, fails how often, and is called back or listed.

    In time means: within the longest interval that the schedule, the backoff and the list allow.
    """
    run(_live(**history))  # type: ignore[arg-type]  # drawn from the strategies above


async def _live(
    *,
    tasks: list[tuple[float, float, bool]],
    seed: int,
    schedule: float | None,
    lists: str,
    hidden: set[int],
    faults: list[int],
    callbacks: list[tuple[float, int]],
    latency: float,
    prefetch: int,
) -> None:
    server = TaskServer(latency=latency, hidden=frozenset(f"t{n}" for n in hidden))
    server.lists = lists
    server.fault = lambda task_id, number: FAULTS[
        faults[(number * 7 + int(task_id[1:])) % len(faults)] if number < 9 else 0
    ]
    receiver = CallbackReceiver(clock=server.clock)
    waiter = TaskWaiter(
        server, schedule=schedule, callbacks=receiver, error_budget=1e6, rng=random.Random(seed)
    )

    async def submit() -> AsyncIterator[Task]:
        for pause, duration, failed in tasks:
            await asyncio.sleep(pause)
            yield server.submit(duration, failed=failed)

    async def call_back() -> None:
        for moment, number in sorted(callbacks):
            await asyncio.sleep(max(0.0, began + moment - server.clock.monotonic()))
            receiver.handle_body({}, f'{{"task_id": "t{number}"}}'.encode())

    began = server.clock.monotonic()
    caller = asyncio.create_task(call_back())
    reported: Counter[str] = Counter()
    async for done in waiter.as_completed(submit(), prefetch=prefetch):
        script = server.scripts[done.id]
        late = server.clock.monotonic() - script.ends
        reported[done.id] += 1
        assert done.failed == script.failed
        assert late >= -0.001
        # With a small look-ahead a task may have ended before it was taken.
        assert prefetch < len(tasks) or late <= (600.0 if lists == "stale" else 330.0)
    caller.cancel()
    assert reported == Counter(server.scripts.keys())
    assert waiter.waiting == 0


@settings(max_examples=settings.default.max_examples)
@given(
    durations=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=10),
    readers=st.lists(
        st.tuples(
            st.sampled_from(["wait", "follow", "collect"]), st.integers(0, 9), st.floats(0, 60)
        ),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 1000),
)
def test_any_crowd_of_readers_sees_the_same(
    durations: list[float], readers: list[tuple[str, int, float]], seed: int
) -> None:
    """Some leave early; the others get each task, its states in order, and end."""

    async def main() -> None:
        server = TaskServer()
        waiter = TaskWaiter(server, schedule=2, rng=random.Random(seed))
        tasks = [server.submit(duration) for duration in durations]

        async def read(way: str, number: int) -> None:
            task = tasks[number % len(tasks)]
            if way == "wait":
                assert (await waiter.wait(task)).id == task.id
            elif way == "follow":
                states = [str(snap.status) async for snap in waiter.transitions(task)]
                assert states in (["submitted", "processing", "succeed"], ["submitted", "succeed"])
            else:
                assert len([done async for done in waiter.as_completed(tasks)]) == len(tasks)

        async def impatient(way: str, number: int, patience: float) -> None:
            try:
                async with asyncio.timeout(patience if patience < 30 else None):
                    await read(way, number)
            except TimeoutError:
                assert patience < 30

        await asyncio.gather(*(impatient(*reader) for reader in readers))
        await asyncio.sleep(0)
        assert waiter.waiting == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


# ------------------------------------------------------------------------------ cancellation


async def _story(way: str, server: TaskServer, waiter: TaskWaiter) -> None:
    """Wait in one of the ways, over polls, faults, list calls and an async source."""
    if way == "wait":
        await waiter.wait(server.submit(4.0))
    elif way == "follow":
        async for _ in waiter.transitions(server.submit(4.0)):
            pass
    else:

        async def source() -> AsyncIterator[Task]:
            for _ in range(6):
                await asyncio.sleep(0.3)
                yield server.submit(4.0)

        async for _ in waiter.as_completed(source()):
            pass


class SteppedLoop(VirtualLoop):
    """A loop that cancels a task at a given turn."""

    victim: asyncio.Task[None] | None = None
    turns = 0

    def _run_once(self) -> None:
        if self.victim is not None:
            if self.turns == 0:
                self.victim.cancel()
            self.turns -= 1
        super()._run_once()  # type: ignore[misc]  # no public way to step a loop


@pytest.mark.parametrize("way", ["wait", "follow", "collect"])
def test_cancelled_at_every_await(way: str) -> None:
    """At each turn of the loop: the caller gets its CancelledError, and nothing is left behind.

    Somebody else who waits for the same task gets it all the same.
    """

    async def once(turns: int) -> bool:
        server = TaskServer(lists="on")
        server.fault = lambda _id, number: ServerError("down") if number == 2 else None
        waiter = TaskWaiter(server, schedule=1, rng=random.Random(1))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppedLoop)
        other = asyncio.create_task(waiter.wait(server.submit(6.0)))
        loop.victim = victim = asyncio.create_task(_story(way, server, waiter))
        loop.turns = turns
        await asyncio.wait([victim])
        loop.victim = None
        assert (await other).succeeded
        await asyncio.sleep(0)
        assert waiter.waiting == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return victim.cancelled() or victim.result() is not None

    turns, cancelled = 0, True
    while cancelled:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            cancelled = runner.run(once(turns))
        turns += 1
    assert turns > 15
    gc.collect()  # a warning about something left behind would fail the test


def test_closing_at_every_moment() -> None:
    """Whatever is on its way: the waits end with their ids, and nothing is left."""

    async def main() -> None:
        for tenths in range(0, 60, 3):
            server = TaskServer(lists="on", latency=0.3)
            waiter = TaskWaiter(server, schedule=1, rng=random.Random(1))
            waits = [asyncio.create_task(waiter.wait(server.submit(6.0))) for _ in range(6)]
            await asyncio.sleep(tenths / 10)
            await waiter.aclose()
            results = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(result) for result in results} <= {WaitTimeoutError, Task}
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


# ------------------------------------------------------------------------------ many


class LeanServer(TaskServer):
    """Answers at once, and in few words."""

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Tell whether the task has ended."""
        del timeout
        over = self.clock.monotonic() >= self.scripts[task_id].ends
        status = TaskStatus.SUCCEED if over else TaskStatus.PROCESSING
        return Task(id=task_id, status=status, kind=kind, images=IMAGES if over else ())


@pytest.mark.slow
def test_a_hundred_thousand_tasks() -> None:
    """All in flight at once; each is reported once, and none before its end."""

    async def main() -> None:
        server = LeanServer()
        waiter = TaskWaiter(server, schedule=50, use_list=False)
        rng = random.Random(1)
        ids = [server.submit(rng.uniform(10.0, 60.0)).id for _ in range(100_000)]
        tasks = [Task(id=task_id, status=TaskStatus.SUBMITTED) for task_id in ids]
        reported: set[str] = set()
        async for done in waiter.as_completed(tasks, prefetch=100_000):
            assert server.clock.monotonic() >= server.scripts[done.id].ends
            reported.add(done.id)
        assert len(reported) == waiter.finished == 100_000
        assert waiter.polls <= 200_000

    run(main())


# ------------------------------------------------------------------------------ parts


@given(
    moves=st.lists(
        st.tuples(st.integers(0, 5), st.floats(0.0, 100.0) | st.just(NEVER), st.booleans())
    )
)
def test_the_agenda_wakes_each_at_its_time(
    moves: list[tuple[int, float, bool]],
) -> None:
    """However often entries are put off, moved forward and dropped."""
    timers = TimerHeap()
    entries = [WatchedTask(f"t{number}", "expand", 1, 0.0) for number in range(6)]
    kept: set[int] = set()
    for number, due, drop in moves:
        entries[number].due = due
        timers.put(entries[number])
        kept.add(number)
        if drop:
            timers.drop(entries[number])
            kept.discard(number)
    woken: list[str] = []
    clock = 0.0
    while timers.earliest() < NEVER:
        clock = timers.earliest()
        entry = timers.take(clock)
        assert entry is not None
        if entry.due > clock:
            timers.put(entry)
        else:
            woken.append(entry.id)
    assert sorted(woken) == sorted(f"t{n}" for n in kept if entries[n].due < NEVER)
    assert len(timers) == 0


def test_the_agenda_throws_waste_away() -> None:
    """Entries that left long before their time do not fill the memory."""
    timers = TimerHeap()
    for number in range(10_000):
        entry = WatchedTask(f"t{number}", "expand", 1, 0.0)
        entry.due = 1e9 + number
        timers.put(entry)
        timers.drop(entry)
    assert len(timers._heap) < 200


class StoppedClock:
    """Clocks that show what they are set to."""

    def __init__(self, wall: float, monotonic: float) -> None:
        self._wall, self._monotonic = wall, monotonic

    def time(self) -> float:
        """Return the wall clock."""
        return self._wall

    def monotonic(self) -> float:
        """Return the other clock."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Not needed here."""


@given(
    offset=st.floats(-1e5, 1e5),
    changes=st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 5)), min_size=1, max_size=30),
)
def test_a_wrong_clock_is_never_made_worse(
    offset: float, changes: list[tuple[float, float]]
) -> None:
    """What is believed of it lies between "right as it is" and the truth."""
    clock = ServerClock(StoppedClock(wall=1e9 + offset, monotonic=0.0))
    moment = 1e9
    for gap, interval in changes:
        moment += gap  # on the server; our monotonic clock began at its 1e9
        ours = moment - 1e9
        clock.observe(moment, received=ours + interval * 0.7, after=ours - interval * 0.3)
    ahead = clock.lag + 1e9 + offset
    assert min(0.0, offset) - 0.01 <= ahead <= max(0.0, offset) + 5.0
    if abs(offset) > 10.0:
        assert abs(ahead - offset) < 6.0


def test_a_clock_that_was_set_is_believed_again() -> None:
    """An operator sets the server's clock back by an hour: the old bounds contradict the new."""
    clock = ServerClock(StoppedClock(wall=0.0, monotonic=0.0))
    clock.observe(1000.0, received=1000.5, after=999.0)
    clock.observe(2000.0, received=5600.5, after=5599.0)
    clock.observe(3000.0, received=6600.5, after=6599.0)
    assert clock.lag == pytest.approx(3600.0, abs=3.0)


@given(known=st.sampled_from(["t0", "other"]), by=st.sampled_from(["task", "external"]))
def test_hints_by_any_id(known: str, by: str) -> None:
    """A program that hears of changes otherwise passes them on itself."""

    async def main() -> None:
        server = TaskServer()
        waiter = TaskWaiter(server, schedule=60, rng=random.Random(1))
        task = server.submit(10.0, external_task_id="mine")
        wait = asyncio.create_task(waiter.wait(task))
        await asyncio.sleep(11.0)
        waiter.notify(
            Notification(task_id=known) if by == "task" else Notification(external_task_id="mine")
        )
        await asyncio.sleep(1.0)
        assert wait.done() == (known == "t0" or by == "external")
        wait.cancel()

    run(main())
