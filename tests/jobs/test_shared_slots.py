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
    """A journal in which this worker is told of a slot every *every* seconds, always in vain."""

    clock: VirtualClock
    every: float
    others: int = 0
    queued: int = 0

    @contextmanager
    def listening_for_slot(self, account: str) -> Iterator[Journal]:
        """Give the signal of a free slot."""
        assert account == "account"
        yield self

    async def queue_for_slot(self, account: str) -> int:
        """Return how many others wait."""
        assert account == "account"
        self.queued += 1
        return self.others

    async def wait(self, most: float) -> bool:
        """Wait until a slot is freed; return whether one was."""
        await self.clock.sleep(min(self.every, most))
        return self.every <= most


@attrs.define
class Count:
    """What a worker that waits asks for."""

    polls: int = 0
    requests: int = 0


async def wait(every: float, seconds: float, others: int = 0) -> Count:
    """Wait in vain for so many seconds."""
    clock, count = VirtualClock(), Count()

    slots = SharedSlots(
        journal=cast("Any", Journal(clock, every, others)),
        clock=clock,
        account="account",
        most=4,
    )
    end = clock.monotonic() + seconds
    async with slots.queued("key") as place:
        while clock.monotonic() < end:
            count.polls += await place.wait()
            count.requests += 1
    return count


async def test_a_long_wait_has_unclaimed_jobs_polled() -> None:
    """The slot may be held by a job whose worker died."""
    assert 8 <= (await wait(every=60, seconds=20)).polls <= 13


async def test_a_busy_account_polls_them_too() -> None:
    """Slots that become free all the time don't hide those that never do."""
    assert (await wait(every=0.1, seconds=60)).polls in {6, 7}


async def test_many_workers_request_no_more_than_few() -> None:
    """What each does in case a message was lost is bounded for all of them together."""
    count = await wait(every=10_000, seconds=10_000, others=999)
    assert 80 <= count.requests <= 130  # ten a second for a thousand


async def test_who_was_told_in_vain_queues_again_and_looks_once() -> None:
    """What became free meanwhile was told to nobody, if nobody else waits."""
    assert 99 <= (await wait(every=1, seconds=100)).requests - 100 <= 101
    assert (await wait(every=1, seconds=100, others=3)).requests == 100
