"""Waiting for a slot that all workers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import attrs

from comet_async._jobs.shared_slots import SharedSlots
from comet_async.testing import VirtualClock


@attrs.define(eq=False)
class Journal:
    """A journal in which another worker frees a slot every *every* seconds."""

    clock: VirtualClock
    every: float

    @contextmanager
    def listening_for_slot(self, account: str) -> Iterator[Journal]:
        """Give the signal of a free slot."""
        assert account == "account"
        yield self

    async def wait(self, most: float) -> bool:
        """Wait until a slot is freed; return whether one was."""
        await self.clock.sleep(min(self.every, most))
        return self.every <= most


async def polls_of(every: float, seconds: float) -> int:
    """Return how often unclaimed jobs were polled in so many seconds."""
    clock = VirtualClock()
    polls = 0

    async def poll() -> None:
        nonlocal polls
        polls += 1

    slots = SharedSlots(
        journal=cast("Any", Journal(clock, every)),
        clock=clock,
        account="account",
        most=4,
        poll_unclaimed=poll,
    )
    end = clock.monotonic() + seconds
    async with slots.freed() as wait:
        while clock.monotonic() < end:
            await wait()
    return polls


async def test_a_long_wait_polls_unclaimed_jobs() -> None:
    """The slot may be held by a job whose worker died."""
    assert await polls_of(every=60, seconds=20) == 10


async def test_a_busy_account_polls_them_too() -> None:
    """Slots that become free all the time don't hide those that never do."""
    assert await polls_of(every=0.1, seconds=60) in {6, 7}
