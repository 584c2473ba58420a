"""Calls that are ended from outside."""

from __future__ import annotations

import asyncio

import pytest

from comet_async._jobs.calls import Calls
from comet_async.errors import SessionClosedError


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
