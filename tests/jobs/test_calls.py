"""Calls that are ended from outside."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from comet_async import CometSession, Margins, WaitTimeoutError
from comet_async._jobs.calls import Calls
from comet_async._jobs.loops import finished
from comet_async.errors import ConcurrencyLimitError, InputError, RateLimitError, SessionClosedError
from comet_async.events import Event, Failed, Submitted
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualLoop


async def use(calls: Calls, answered: asyncio.Event) -> str:
    """Make a call that waits for *answered*, and do something else afterwards."""
    async with calls.begin("dog.png", timeout=None, at_once=False):
        await answered.wait()
    await asyncio.sleep(1)
    return "went on"


async def test_a_call_is_ended_with_the_reason() -> None:
    """Its caller gets the reason as an error, not a cancellation."""
    calls = Calls(None)  # type: ignore[arg-type]  # only a call with a job needs the jobs
    caller = asyncio.create_task(use(calls, asyncio.Event()))
    await asyncio.sleep(0)
    calls.end(SessionClosedError("closed"))
    with pytest.raises(SessionClosedError):
        await caller


async def test_a_caller_whose_call_has_just_ended_is_not_cancelled() -> None:
    """The answer came before the end took effect: what the caller does next is its own."""
    calls, answered = Calls(None), asyncio.Event()  # type: ignore[arg-type]  # see above
    caller = asyncio.create_task(use(calls, answered))
    await asyncio.sleep(0)
    answered.set()
    calls.end(SessionClosedError("closed"))
    assert await caller == "went on"


async def test_the_end_of_a_call_wakes_those_who_wait_for_it() -> None:
    """Nobody looks from time to time: without a timer, the next turns of the loop are enough."""
    calls, answered = Calls(None), asyncio.Event()  # type: ignore[arg-type]  # see above
    caller = asyncio.create_task(use(calls, answered))
    await asyncio.sleep(0)
    ending = asyncio.create_task(calls.ended(None))
    await asyncio.sleep(0)
    answered.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert ending.done()
    assert not caller.done()
    await caller


async def test_a_call_that_does_not_end_is_not_waited_for_forever() -> None:
    """Closing a session takes no longer than it was given."""
    calls = Calls(None)  # type: ignore[arg-type]  # see above
    caller = asyncio.create_task(use(calls, asyncio.Event()))
    await asyncio.sleep(0)
    await calls.ended(5.0)
    assert not caller.done()
    caller.cancel()
    await asyncio.wait({caller})


@pytest.mark.real_loop
async def test_a_request_in_a_loop_that_ends_is_not_waited_for_forever() -> None:
    """A loop of another thread may be over before it says that its task has ended."""
    other = asyncio.new_event_loop()
    stop = other.call_soon_threadsafe
    other.call_soon_threadsafe = lambda *_args, **_more: None  # type: ignore[method-assign, assignment, return-value]  # it never gets to it
    request: asyncio.Task[Any] = other.create_task(asyncio.Event().wait())
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    waiting = asyncio.create_task(finished([request]))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    stop(other.stop)
    thread.join()
    async with asyncio.timeout(10):
        await waiting
    request.cancel()
    await asyncio.to_thread(other.run_until_complete, asyncio.wait({request}))
    other.close()


@pytest.mark.real_loop
async def test_calls_in_loops_of_other_threads_are_waited_for() -> None:
    """They need the journal to say what they know, so it must not be closed before."""
    calls = Calls(None)  # type: ignore[arg-type]  # see above
    begun, may_end = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with calls.begin("dog.png", timeout=None, at_once=False):
            begun.set()
            await asyncio.to_thread(may_end.wait, 30)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        other = threads.submit(asyncio.run, elsewhere())
        assert begun.wait(30)
        ending = asyncio.create_task(calls.ended(None))
        done, _ = await asyncio.wait({ending}, timeout=0.2)
        assert not done
        may_end.set()
        await ending
        other.result(30)


def _pass_an_hour(event: Event) -> None:
    """Keep the loop busy for an hour when an answer has come, as a handler that blocks would."""
    if isinstance(event, Submitted):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(3600)


async def test_a_deadline_in_the_turn_of_the_answer_says_that_the_task_is_billed(
    sandbox: Sandbox, photo: bytes
) -> None:
    """Otherwise the caller would be told that nothing was sent, try again, and pay twice."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, on_event=_pass_an_hour) as comet:
        with pytest.raises(WaitTimeoutError) as caught:
            await comet.expand(photo, Margins.uniform(0.1), timeout=60)
    (charge,) = sandbox.ledger.charges
    assert caught.value.sent is True
    assert caught.value.retryable is False
    assert caught.value.task_id == charge.task_id


async def test_a_deadline_before_anything_was_sent_says_why(photo: bytes) -> None:
    """What keeps the request from being sent is in the error, not only in the log."""
    async with CometSession(DEFAULT_KEY, gateway="http://127.0.0.1:9") as comet:
        with pytest.raises(WaitTimeoutError, match="can't connect") as caught:
            await comet.expand(photo, Margins.uniform(0.1), timeout=5)
        assert caught.value.sent is False
        with pytest.raises(ConcurrencyLimitError, match="can't connect"):
            await comet.expand(photo, Margins.uniform(0.2), busy="raise")


async def test_a_deadline_while_the_account_is_busy_says_so(sandbox: Sandbox, photo: bytes) -> None:
    """The same for a refusal that is tried again."""
    sandbox.faults.add(Fault("1303", times=None))
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url) as comet:
        with pytest.raises(WaitTimeoutError, match="as many images in flight"):
            await comet.expand(photo, Margins.uniform(0.1), timeout=5)


@pytest.mark.parametrize(("task", "kind"), [("../7", None), ("7", "walk")])
async def test_what_belongs_to_no_task_is_not_called_billed(
    comet: CometSession, task: str, kind: str | None
) -> None:
    """A typing error of the caller's has nothing to resume."""
    with pytest.raises(InputError) as caught:
        await comet.wait(task, kind=kind)
    assert "billed" not in str(caught.value)


async def test_a_caller_cancelled_in_the_turn_of_the_answer_learns_of_the_task(
    sandbox: Sandbox, photo: bytes
) -> None:
    """The note on the cancellation names the task, as it does a moment later."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, on_event=_pass_an_hour) as comet:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(60):
                await comet.expand(photo, Margins.uniform(0.1), timeout=None)
    (charge,) = sandbox.ledger.charges
    assert caught.value.__cause__ is not None
    assert f"task {charge.task_id}" in caught.value.__cause__.__notes__[0]


async def test_an_image_that_is_not_kept_is_no_news(
    sandbox: Sandbox, photo: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each resumption has its outcome and its event, and no warning."""
    events = list[Event]()

    def session() -> CometSession:
        return CometSession(
            DEFAULT_KEY, gateway=sandbox.url, journal=tmp_path / "jobs", on_event=events.append
        )

    fault = sandbox.faults.add(Fault("429", on="create", times=None))
    async with session() as comet:
        with pytest.raises(RateLimitError):
            await comet.expand(photo, Margins(up=0.3), busy="raise")
    sandbox.faults.remove(fault)
    caplog.clear()
    events.clear()
    async with session() as comet:
        (outcome,) = [outcome async for outcome in comet.resume()]
    assert outcome.status == "invalid"
    assert [type(event) for event in events] == [Failed]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
