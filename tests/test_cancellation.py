"""What reaches its end although its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comet_async import CometSession, ExpandRequest, Margins, SessionClosedError
from comet_async.journal import SqliteJournal
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualClock


async def test_a_caller_that_is_cancelled_while_it_closes_a_session_waits_for_the_end(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes, tmp_path: Path
) -> None:
    """The answer to what is being sent is recorded, and another session can have the journal."""
    path = tmp_path / "jobs.sqlite3"
    sandbox.faults.add(Fault("slow", seconds=10))
    comet = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path)
    call = asyncio.create_task(
        comet.submit(ExpandRequest(image=photo, margins=Margins.uniform(0.1)))
    )
    await asyncio.sleep(1)
    closing = asyncio.create_task(comet.aclose())
    for _ in range(3):
        await asyncio.sleep(0.1)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(SessionClosedError) as caught:
        await call
    async with await SqliteJournal.open(path) as journal:
        record = await journal.get(str(caught.value.external_task_id))
    assert record is not None
    assert record.state == "submitted"


async def test_a_call_that_closes_its_own_session_is_not_waited_for(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes
) -> None:
    """An image's stream closes the session: it would wait for itself as long as it may."""
    comet = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock)

    async def pieces() -> AsyncIterator[bytes]:
        await comet.aclose()
        yield photo

    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(SessionClosedError):
        await comet.expand(pieces(), Margins.uniform(0.1))
    assert loop.time() - begin < 1
    assert not sandbox.ledger.charges
