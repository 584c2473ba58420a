"""Slots of a journal that several processes use: it counts them when a request starts."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs

from comet_async._jobs.concurrency_limit import CLEAN_RUN
from comet_async._jobs.keyed_lock import KeyedLock
from comet_async._journal.shared import SharedJournal, Signal
from comet_async.clock import Clock
from comet_async.errors import JournalError

RECHECK = 2.0
"""Seconds after which a slot is requested again if no message came."""
RECHECK_EACH = 0.1
"""The same for each worker that waits, if that is longer: all together make ten such requests a
second at most, however many they are."""
_POLL_UNCLAIMED = 10.0
"""Seconds after which unclaimed jobs are polled although slots become free all the time."""
_QUEUE = "the queue for slots"  # its lock's name, as warnings show it


@attrs.define(eq=False)
class SharedSlots:
    """Waits for a slot in the quota that all workers share.

    Of this process's jobs, one at a time requests a slot of the journal; the others queue.

    Attributes:
        journal: The journal.
        clock: Ours.
        account: Whose quota.
        most: The configured limit: most images of the account in flight, over all workers.
        polled_at: When the jobs without a worker were polled last.
    """

    journal: SharedJournal
    clock: Clock
    account: str
    most: int
    _turns: KeyedLock = attrs.field(factory=KeyedLock, init=False)
    _heads: dict[str, AsyncExitStack] = attrs.field(factory=dict, init=False)
    # Whether the server is known to take fewer; None before the journal was read.
    _shrunk: bool | None = attrs.field(default=None, init=False)
    polled_at: float = attrs.field(default=-math.inf, init=False)

    @property
    def crowded(self) -> bool:
        """True while jobs of this process wait for a slot."""
        return self._turns.taken(_QUEUE)

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncGenerator[None, None]:
        """Wait to be the head of the queue, and stay it until `started`."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._turns.of(_QUEUE))
            self._heads[key] = stack
            try:
                yield
            finally:
                self._heads.pop(key, None)

    async def started(self, key: str) -> None:
        """Let the next job of the queue request a slot: *key* has its own."""
        stack = self._heads.pop(key, None)
        if stack is not None:
            await stack.aclose()

    @asynccontextmanager
    async def queued(self, key: str) -> AsyncGenerator[Place, None]:
        """Queue for a slot among the workers, for the head of this one's queue.

        Yields:
            The place in their queue; wait there before each request.
        """
        try:
            with self.journal.listening_for_slot(self.account) as signal:
                place = Place(self, signal)
                await place.queue()
                yield place
        finally:
            if key in self._heads:  # it leaves without a slot
                with contextlib.suppress(JournalError):
                    await self.journal.unqueue_for_slot(self.account)

    async def shrink(self) -> None:
        """Allow fewer images in flight: the server has just refused one."""
        self._shrunk = True
        await self.journal.shrink(self.account)

    async def accepted(self) -> None:
        """Count an accepted request, while the server is known to take fewer than configured."""
        if self._shrunk is None:
            self._shrunk = await self.journal.quota(self.account) is not None
        if self._shrunk:
            left = await self.journal.grow(self.account, self.most, CLEAN_RUN)
            self._shrunk = left is not None


@attrs.define(eq=False)
class Place:
    """This worker's place in the queue of all workers.

    Attributes:
        slots: Whose slots.
        signal: Set when it is this worker's turn.
        others: How many others wait for theirs.
        called: Whether it is this worker's turn.
        check: Whether a slot may be free that no worker was offered.
    """

    slots: SharedSlots
    signal: Signal
    others: int = 0
    called: bool = False
    check: bool = False

    async def queue(self) -> None:
        """Enter the queue, or keep the place in it."""
        self.called = False
        self.others = await self.slots.journal.queue_for_slot(self.slots.account)
        self.check = not self.others  # else it was offered to them

    async def wait(self) -> bool:
        """Wait until a slot may be free.

        Returns:
            True if that takes so long that the jobs without a worker should be polled: one of them
            may have ended, and still hold a slot.
        """
        if self.called:  # but got no slot
            await self.queue()
        if self.check:
            self.check = False
            return False
        pause = max(RECHECK, self.others * RECHECK_EACH)
        self.called = await self.signal.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
        if not self.called:
            await self.queue()
            self.check = False  # that is what happens now
        # A busy account sends signals all the time, and so must not rely on silence.
        now = self.slots.clock.monotonic()
        if self.called and now - self.slots.polled_at < _POLL_UNCLAIMED:
            return False
        self.slots.polled_at = now
        return True
