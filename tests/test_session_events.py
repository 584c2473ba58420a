"""A session reports what happens to its jobs: to a hook, and in the log."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from comet_async import CometSession, ExpandRequest, Margins, TaskFailedError
from comet_async.events import (
    AnswerLost,
    Duplicate,
    Event,
    Failed,
    JobEvent,
    LookedUp,
    NotAccepted,
    Recovered,
    Resubmitted,
    Saved,
    SlotAwaited,
    Submitted,
)
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualClock

WIDE = Margins(left=0.5)
Open = Callable[..., AbstractAsyncContextManager[CometSession]]


@pytest.fixture
def seen() -> list[Event]:
    """Return the list that a session's events go to."""
    return []


@pytest.fixture
def open_session(sandbox: Sandbox, clock: VirtualClock, seen: list[Event]) -> Open:
    """Return what opens a session that reports to `seen`."""

    def make(**options: Any) -> CometSession:
        url = sandbox.url
        return CometSession(DEFAULT_KEY, gateway=url, clock=clock, on_event=seen.append, **options)

    return make


def of_jobs(seen: list[Event]) -> list[type[Event]]:
    """Return the kinds of the events about jobs, in order."""
    return [type(event) for event in seen if isinstance(event, JobEvent)]


async def test_an_image_is_submitted_and_its_ids_are_logged(
    open_session: Open, seen: list[Event], photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is cancelled later finds both ids in the log at INFO."""
    caplog.set_level(logging.INFO, logger="comet_async")
    async with open_session() as comet:
        task = await comet.expand(photo, WIDE)
    assert of_jobs(seen) == [Submitted]
    (record,) = [r for r in caplog.records if r.name == "comet_async"]
    assert task.id in record.getMessage()
    assert vars(record)["comet_key"] == task.external_task_id


async def test_a_lost_answer_is_reported_from_loss_to_recovery(
    open_session: Open, sandbox: Sandbox, seen: list[Event], photo: bytes
) -> None:
    """Nothing about money is silent."""
    sandbox.faults.add(Fault("drop_after_charge"))
    async with open_session() as comet:
        await comet.expand(photo, WIDE, n=2)
    assert of_jobs(seen) == [AnswerLost, LookedUp, Recovered]
    assert [event.n for event in seen if isinstance(event, Recovered)] == [2]


async def test_a_request_that_never_arrived_is_sent_again(
    open_session: Open, sandbox: Sandbox, seen: list[Event], photo: bytes, tmp_path: Path
) -> None:
    """With a task to try lookups on, absence is proven."""
    async with open_session(journal=tmp_path / "jobs.sqlite3") as comet:
        await comet.expand(photo, WIDE)
        seen.clear()
        sandbox.faults.add(Fault("drop"))
        await comet.expand(photo, Margins(right=0.5))
    assert of_jobs(seen) == [AnswerLost, LookedUp, Resubmitted, Submitted]


async def test_what_was_not_accepted_is_sent_again(
    open_session: Open, seen: list[Event], sandbox: Sandbox, photo: bytes
) -> None:
    """A busy server is asked again, and nothing is billed meanwhile."""
    sandbox.faults.add(Fault("1302", times=2))
    async with open_session() as comet:
        await comet.expand(photo, WIDE)
    assert of_jobs(seen) == [NotAccepted, NotAccepted, Submitted]


async def test_a_known_id_is_a_duplicate(
    open_session: Open, seen: list[Event], photo: bytes
) -> None:
    """Another session, perhaps of another worker, has bought it: nothing is billed again."""
    request = ExpandRequest(image=photo, margins=WIDE, external_task_id="order-17")
    async with open_session() as first:
        await first.submit(request)
    seen.clear()
    async with open_session() as second:
        await second.submit(request)
    assert of_jobs(seen) == [LookedUp, Duplicate]


async def test_a_failed_task_is_reported(
    open_session: Open, seen: list[Event], photo: bytes
) -> None:
    """With the class of the error that the caller gets."""
    async with open_session() as comet:
        with pytest.raises(TaskFailedError):
            await comet.expand(photo, WIDE, prompt="sandbox-risky")
    assert of_jobs(seen) == [Submitted, Failed]
    failed = seen[-1]
    assert isinstance(failed, Failed)
    assert (failed.error, failed.sent) == ("TaskFailedError", True)


async def test_a_limit_that_is_reached_is_logged_once(
    open_session: Open, seen: list[Event], photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for each image that it stops, of which there may be thousands; the hook gets them all."""
    shares = (0.1, 0.2, 0.3, 0.4)
    requests = [ExpandRequest(image=photo, margins=Margins(left=share)) for share in shares]
    async with open_session() as comet:
        _ = [outcome async for outcome in comet.expand_many(requests, max_jobs=1)]
    assert of_jobs(seen).count(Failed) == 3
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "max_jobs" in warning.getMessage()


async def test_a_hook_that_raises_is_called_once(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Events of jobs and of polls have one hook; the image is expanded all the same."""
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise RuntimeError

    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, on_event=broken
    ) as comet:
        assert (await comet.expand(photo, WIDE)).succeeded
    assert [type(event) for event in calls] == [Submitted]
    assert sum("on_event raised" in message for message in caplog.messages) == 1


async def test_saved_files_are_named(
    open_session: Open, seen: list[Event], photos: Path, tmp_path: Path
) -> None:
    """Once: a second run saves nothing."""
    async with open_session() as comet:
        outcomes = [o async for o in comet.expand_folder(photos, tmp_path / "out", WIDE)]
        saved = [event for event in seen if isinstance(event, Saved)]
        files = {file for event in saved for file in event.files}
        assert files == {file for outcome in outcomes for file in outcome.files}
        seen.clear()
        async for _ in comet.expand_folder(photos, tmp_path / "out", WIDE):
            pass
    assert of_jobs(seen) == []


async def test_a_long_wait_for_a_slot_is_reported(
    open_session: Open, seen: list[Event], photo: bytes, make_photo: Callable[..., bytes]
) -> None:
    """With the jobs that hold the slots."""
    async with open_session(concurrency=1) as comet:
        first = await comet.submit(ExpandRequest(image=photo, margins=WIDE))
        other = ExpandRequest(image=make_photo(400, 300, 7), margins=WIDE)
        await comet.submit(other)
    (waited,) = [event for event in seen if isinstance(event, SlotAwaited)]
    assert (waited.used, waited.limit) == (1, 1)
    assert first.id in waited.holders[0]


async def test_a_hook_that_raises_costs_nothing(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the image arrives."""

    def hook(_event: Event) -> None:
        raise ValueError("no")

    url = sandbox.url
    async with CometSession(DEFAULT_KEY, gateway=url, clock=clock, on_event=hook) as comet:
        assert (await comet.expand(photo, WIDE)).succeeded
    assert "on_event raised" in caplog.text


async def test_events_come_in_the_callers_context(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes
) -> None:
    """A request id, or the current span, is there."""
    request_id = contextvars.ContextVar("request_id", default="none")
    found: list[tuple[str, str]] = []

    def hook(event: Event) -> None:
        found.append((type(event).__name__, request_id.get()))

    async def handle(number: int) -> None:
        request_id.set(f"request {number}")
        await comet.expand(photo, Margins(left=0.1 * number))

    url = sandbox.url
    async with CometSession(DEFAULT_KEY, gateway=url, clock=clock, on_event=hook) as comet:
        await asyncio.gather(handle(1), handle(2))
    for event in ("Submitted", "Polled", "Changed"):
        assert {where for name, where in found if name == event} == {"request 1", "request 2"}
