"""What does not end a wait, and what does: faults at each poll, patience, the retry budget."""

# ruff: noqa: S311 - seeded jitter; nothing is guarded by it
from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterator

import attrs
import pytest

from comet_async._polling.failures import RetryQueue
from comet_async._polling.watch import FailureStreak, WatchedTask
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConfigError,
    ConnectionLostError,
    DecodeError,
    InputError,
    NotFoundError,
    RateLimitError,
    RejectedError,
    RouteUnavailableError,
    ServerError,
    WaitTimeoutError,
)
from comet_async.events import Event, Retried
from comet_async.models import Task
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer

Wrong = BaseException | Callable[[TaskServer], Task]


def strange(server: TaskServer) -> Task:
    """Return an answer with a word that nobody knows."""
    truth = server.snapshot(server.scripts["t0"], server.clock.monotonic())
    return attrs.evolve(truth, status="hatching", images=())


# As the wire room tells them: a dropped connection, a server that fails, a proxy's page, an
# answer that was cut, a limit, a task that is not shown yet, a route that is gone for a moment.
FAULTS: dict[str, Wrong] = {
    "drop": ConnectionLostError("connection lost"),
    "timeout": ConnectionLostError("no complete answer"),
    "500": ServerError("500", status=500),
    "502 with HTML": ServerError("502: <html>", status=502),
    "429 with Retry-After": RateLimitError("429", status=429, retry_after=4.0),
    "200 with HTML": DecodeError("an HTML page"),
    "truncated": DecodeError("the JSON ends early"),
    "not found": NotFoundError("404", status=404),
    "route missing": RouteUnavailableError("404", status=404),
    "unknown state": strange,
    "refused": RejectedError("400", status=400),
    "bare OSError": OSError("foreign"),
}
ENDS: dict[str, CometError] = {
    "key refused": AuthenticationError("401", status=401),
    "no credit": AccountError("402", status=402),
    "certificate": ConfigError("not trusted"),
    "bad id": InputError("no id", field="task_id"),
}


@pytest.fixture
def waiter(server: TaskServer) -> TaskWaiter:
    """Return a waiter that asks each two seconds."""
    return TaskWaiter(server, schedule=2, use_list=False, rng=random.Random(1))


def fail(server: TaskServer, wrong: Wrong, *numbers: int) -> None:
    """Let these polls fail, or all if none is named."""

    def fault(_id: str, number: int) -> BaseException | Task | None:
        if numbers and number not in numbers:
            return None
        return wrong(server) if callable(wrong) else wrong

    server.fault = fault


# ------------------------------------------------------------------------------ one fault


@pytest.mark.parametrize("number", [1, 2, 3, 6])
@pytest.mark.parametrize("fault", FAULTS)
async def test_one_fault_is_survived(
    server: TaskServer, waiter: TaskWaiter, fault: str, number: int
) -> None:
    """At whichever poll; also the one that would have told of the end."""
    fail(server, FAULTS[fault], number)
    done = await waiter.wait(server.submit(10.0))
    assert done.succeeded
    assert waiter.mean_delay < 8.0


@pytest.mark.parametrize("fault", FAULTS)
async def test_three_faults_in_a_row_are_survived(
    server: TaskServer, waiter: TaskWaiter, fault: str
) -> None:
    """And every other answer may fail for good."""
    fail(server, FAULTS[fault], 2, 3, 4, *range(6, 100, 2))
    assert (await waiter.wait(server.submit(10.0))).succeeded


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("fault", ENDS)
async def test_reasons_of_the_account_end_the_wait_at_once(
    server: TaskServer, waiter: TaskWaiter, fault: str, number: int
) -> None:
    """And settings of ours. The error tells how to go on; nothing is asked any more."""
    fail(server, ENDS[fault], number)
    with pytest.raises(type(ENDS[fault]), match="do not submit it again") as caught:
        await waiter.wait(server.submit(100.0))
    assert caught.value.task_id == "t0"
    assert waiter.polls == number
    assert ENDS[fault].hint is None


async def test_a_key_that_is_refused_ends_all_waits(server: TaskServer) -> None:
    """Every other request would meet the same."""
    waiter = TaskWaiter(server, schedule=5, concurrency=1, use_list=False)
    fail(server, ENDS["key refused"])
    waits = [asyncio.create_task(waiter.wait(server.submit(100.0))) for _ in range(50)]
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(result) for result in results} == {AuthenticationError}
    assert len({id(result) for result in results}) == 50
    assert waiter.polls == 1


@attrs.define
class Listed:
    """A schedule that takes its waits from an iterator, which ends."""

    waits: Iterator[float]
    end: type[Exception]

    def first(self, n: int = 1) -> float:
        """Return the first wait."""
        return self.next(0.0, 0, n)

    def next(self, age: float, attempt: int, n: int = 1) -> float:
        """Return the next wait."""
        del age, attempt, n
        for wait in self.waits:
            return wait
        raise self.end

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing."""


@pytest.mark.parametrize("end", [StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("by", ["wait", "as_completed"])
async def test_a_schedule_that_is_at_its_end_ends_the_wait(
    server: TaskServer, end: type[Exception], by: str
) -> None:
    """No future takes a StopIteration, and a StopAsyncIteration would pass for the last task."""
    waiter = TaskWaiter(server, schedule=Listed(iter([1.0, 2.0]), end), use_list=False)
    task = server.submit(100.0)
    found = waiter.wait(task) if by == "wait" else anext(waiter.as_completed([task]))
    with pytest.raises(RuntimeError, match=end.__name__) as caught:
        await asyncio.wait_for(found, 1000.0)
    assert isinstance(caught.value.__cause__, end)
    assert waiter.waiting == 0


async def test_a_bug_in_the_source_ends_the_wait(server: TaskServer, waiter: TaskWaiter) -> None:
    """It is raised to whoever waits, and not hidden by patience."""
    fail(server, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        await waiter.wait(server.submit(10.0))


async def test_an_error_that_can_not_be_copied_ends_the_wait(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Each wait gets a copy of its own where that is possible."""

    class OddError(Exception):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(f"{code} {text}")

    fail(server, OddError(7, "odd"))
    with pytest.raises(OddError, match="7 odd"):
        await asyncio.wait_for(waiter.wait(server.submit(10.0)), 100.0)


async def test_a_bug_in_the_backoff_ends_the_wait(server: TaskServer) -> None:
    """It is the user's own, and raised to whoever waits."""

    def strategy(_state: object) -> float:
        raise ZeroDivisionError("bug")

    @attrs.define(eq=False)
    class Server(TaskServer):
        backoff: Callable[[object], float] = strategy

    source = Server(clock=server.clock)
    fail(source, ServerError("500", status=500), 1)
    waiter = TaskWaiter(source, schedule=2, use_list=False)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(waiter.wait(source.submit(10.0)), 100.0)


# ------------------------------------------------------------------------------ patience


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "not found"])
async def test_patience_ends_with_the_last_error(
    server: TaskServer, waiter: TaskWaiter, fault: str
) -> None:
    """After five minutes of nothing else; it tells the id, and that the task goes on."""
    fail(server, FAULTS[fault])
    task = server.submit(10.0)
    began = server.clock.monotonic()
    expected = DecodeError if callable(FAULTS[fault]) else type(FAULTS[fault])
    with pytest.raises(expected) as caught:
        await waiter.wait(task)
    assert server.clock.monotonic() - began == pytest.approx(302.0, abs=4.0)
    if isinstance(caught.value, CometError):
        assert caught.value.task_id == "t0"
        assert "do not submit it again" in str(caught.value)


async def test_not_found_is_no_failure_of_a_young_task(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Gateways show a task some time after they took it: a minute is not counted."""
    fail(server, FAULTS["not found"])
    began = server.clock.monotonic()
    with pytest.raises(NotFoundError):
        await waiter.wait(server.submit(10.0))
    assert server.clock.monotonic() - began == pytest.approx(360.0, abs=35.0)


async def test_any_good_answer_restores_the_patience(server: TaskServer) -> None:
    """An hour of failures is survived if some answer in five minutes is good."""
    waiter = TaskWaiter(server, schedule=2, error_budget=20, use_list=False, rng=random.Random(1))
    good = 0.0

    def fault(_id: str, _number: int) -> BaseException | None:
        nonlocal good
        now = server.clock.monotonic()
        if now - good < 15.0:
            return ServerError("down")
        good = now
        return None

    server.fault = fault
    assert (await waiter.wait(server.submit(600.0))).succeeded


async def test_a_deadline_comes_before_patience(server: TaskServer, waiter: TaskWaiter) -> None:
    """The error is the deadline's, also while answers fail."""
    fail(server, FAULTS["500"])
    began = server.clock.monotonic()
    with pytest.raises(WaitTimeoutError):
        await waiter.wait(server.submit(10.0), timeout=30)
    assert server.clock.monotonic() - began == pytest.approx(30.0, abs=0.1)
    assert waiter.polls < 15


async def test_failing_near_the_deadline_is_no_busy_loop(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """The last look is one look, whatever becomes of it."""
    fail(server, FAULTS["drop"])
    server.latency = 0.0
    with pytest.raises(WaitTimeoutError):
        await waiter.wait(server.submit(10.0), timeout=1)
    assert waiter.polls <= 2


async def test_an_unknown_word_is_warned_of_once(
    server: TaskServer, waiter: TaskWaiter, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it comes."""
    fail(server, strange, *range(1, 6))
    await waiter.wait(server.submit(20.0))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "unknown task status 'hatching': treated as unfinished"
    ]


# ------------------------------------------------------------------------------ how often


@pytest.mark.parametrize(("polled", "waited"), [(4.0, 4.0), (0.0, 0.5), (1e9, 60.0), (None, 0.5)])
async def test_retry_after_only_lengthens_the_wait(
    server: TaskServer, polled: float | None, waited: float
) -> None:
    """Retry-After is obeyed, up to a minute; zero does not shorten our own half a second."""
    reported: list[Event] = []
    waiter = TaskWaiter(server, schedule=2, on_event=reported.append, rng=random.Random(1))
    fail(server, RateLimitError("slow", retry_after=polled), 1)
    await waiter.wait(server.submit(20.0))
    retried = next(event for event in reported if isinstance(event, Retried))
    assert retried.wait == pytest.approx(waited, rel=0.26)
    first, second = (moment for moment, _ in server.polled[:2])
    assert second - first == pytest.approx(retried.wait + server.latency, abs=0.1)


async def test_retries_of_one_task_grow_apart(server: TaskServer, waiter: TaskWaiter) -> None:
    """Half a second, one, two, up to half a minute."""
    fail(server, FAULTS["500"])
    with pytest.raises(ServerError):
        await waiter.wait(server.submit(10.0))
    moments = [moment for moment, _ in server.polled]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    for gap, exact in zip(gaps, [0.5, 1, 2, 4, 8, 16, 30, 30], strict=False):
        assert 0.7 * exact <= gap <= 1.3 * exact + 0.1


async def test_failures_of_many_are_no_storm(server: TaskServer) -> None:
    """Five hundred tasks wait, and the server is down for four minutes.

    Each asks once as planned; the retries of all together are 64 and one a second. When the
    server is back they double with each good answer, and all tasks are found.
    """
    waiter = TaskWaiter(server, schedule=60, use_list=False, rng=random.Random(1))
    tasks = [server.submit(30.0) for _ in range(500)]
    began = server.clock.monotonic()
    server.fault = lambda _id, _number: (
        ServerError("down") if server.clock.monotonic() - began < 240.0 else None
    )
    await asyncio.gather(*map(waiter.wait, tasks))
    during = sum(moment - began < 240.0 for moment, _ in server.polled)
    assert during <= 500 + 64 + 240
    assert waiter.finished == 500
    assert server.clock.monotonic() - began < 270.0


async def test_those_without_a_retry_end_in_time(server: TaskServer) -> None:
    """The server does not come back: everybody is told after five minutes, not after hours."""
    waiter = TaskWaiter(server, schedule=10, use_list=False, rng=random.Random(1))
    fail(server, FAULTS["500"])
    tasks = [server.submit(30.0) for _ in range(1000)]
    began = server.clock.monotonic()
    results = await asyncio.gather(*map(waiter.wait, tasks), return_exceptions=True)
    assert {type(result) for result in results} == {ServerError}
    assert server.clock.monotonic() - began == pytest.approx(315.0, abs=12.0)


async def test_those_without_a_retry_wait_for_it_beside_a_healthy_task(
    server: TaskServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others get answers they are polled once more in their turn, one a second.

    Until then they sleep, also after their budgets have ended.
    """
    asked = 0
    admits = RetryQueue.admits

    def counted(queue: RetryQueue, entry: WatchedTask, streak: FailureStreak, now: float) -> bool:
        nonlocal asked
        asked += 1
        assert asked < 20_000  # looked at again and again in the same moment
        return admits(queue, entry, streak, now)

    monkeypatch.setattr(RetryQueue, "admits", counted)
    waiter = TaskWaiter(server, schedule=10, use_list=False, rng=random.Random(1))
    healthy = [server.submit(5000.0) for _ in range(2)]
    ids = {task.id for task in healthy}
    server.fault = lambda task_id, _number: None if task_id in ids else ServerError("500")
    waits = [asyncio.create_task(waiter.wait(task)) for task in healthy]
    failing = [waiter.wait(server.submit(5000.0)) for _ in range(400)]
    began = server.clock.monotonic()
    async with asyncio.timeout(5000.0):
        results = await asyncio.gather(*failing, return_exceptions=True)
    assert {type(result) for result in results} == {ServerError}
    assert 300.0 < server.clock.monotonic() - began < 800.0
    for wait in waits:
        wait.cancel()


async def test_one_bad_task_does_not_hinder_the_others(server: TaskServer) -> None:
    """The server fails for one of fifty only: the others never notice."""
    waiter = TaskWaiter(server, schedule=5, error_budget=1e9, use_list=False, rng=random.Random(1))
    server.fault = lambda task_id, _number: ServerError("down") if task_id == "t7" else None
    tasks = [server.submit(60.0) for _ in range(50)]
    bad = asyncio.create_task(waiter.wait(tasks.pop(7)))
    await asyncio.gather(*map(waiter.wait, tasks))
    assert waiter.longest_delay < 6.0
    bad.cancel()


async def test_a_parked_task_can_be_left(server: TaskServer) -> None:
    """It waits for a retry that will not come, and somebody loses interest."""
    waiter = TaskWaiter(server, schedule=1, use_list=False, rng=random.Random(1))
    fail(server, FAULTS["500"])
    waits = [asyncio.create_task(waiter.wait(server.submit(30.0))) for _ in range(300)]
    await asyncio.sleep(60.0)
    for wait in waits[:299]:
        wait.cancel()
    server.fault = lambda _id, _number: None
    assert (await waits[299]).succeeded
    assert waiter.waiting == 0


async def test_a_parked_task_that_the_list_shows_leaves_its_turn_to_the_next(
    server: TaskServer,
) -> None:
    """Else the next one sleeps until its error budget is used up, beside a healthy server."""
    waiter = TaskWaiter(server, schedule=1000, use_list=False, rng=random.Random(1))
    fail(server, FAULTS["500"])
    waits = [asyncio.create_task(waiter.wait(server.submit(4000.0).id)) for _ in range(2)]
    await asyncio.sleep(0)
    waiter._shared.policy.retries.tokens = -30.0
    await asyncio.sleep(10.0)
    (poller,) = waiter._pollers.values()
    now = server.clock.monotonic()
    assert server.polls == 2
    server.fault = lambda _id, _number: None
    first = poller._retries._parked[0]
    poller.apply_listed(first, server.snapshot(server.scripts[first.id], now), now)
    await asyncio.sleep(60.0)
    assert [task_id for _, task_id in server.polled[2:]] == [{"t0": "t1", "t1": "t0"}[first.id]]
    for wait in waits:
        wait.cancel()


async def test_an_id_that_nobody_knows_is_not_called_paid(server: TaskServer) -> None:
    """A wait for a mistyped id ends with what the server said, and with advice that fits."""
    waiter = TaskWaiter(server, timeout=30)
    with pytest.raises(WaitTimeoutError, match="the last poll failed: no task t7") as caught:
        await waiter.wait("t7")
    assert "check its id" in str(caught.value.hint)


async def test_the_reason_of_a_wait_that_ended_is_one_sentence(server: TaskServer) -> None:
    """The advice of the last failed poll would stand beside that of the wait."""
    server.fault = lambda _id, _number: NotFoundError("no such task", hint="wait a little")
    with pytest.raises(WaitTimeoutError, match="the last poll failed: no such task") as caught:
        await TaskWaiter(server, timeout=30).wait("t7")
    assert "wait a little" not in str(caught.value)


@pytest.mark.parametrize(
    ("timeout", "shown"), [(0.4924791, "0.49 s"), (5, "5 s"), (599.98713, "600 s")]
)
async def test_the_time_of_a_wait_is_shown_as_people_say_it(
    server: TaskServer, timeout: float, shown: str
) -> None:
    """A session passes on what the request left of its time: a number with many digits."""
    with pytest.raises(WaitTimeoutError, match=f"after {shown} of waiting"):
        await TaskWaiter(server, timeout=timeout).wait(server.submit(1e6))
