"""Slots of a journal that several processes use: it counts them when a request starts."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs

from comet_async._jobs.admission import CLEAN_RUN, KeyedLock
from comet_async._journal.shared import SharedJournal
from comet_async.clock import Clock

_RECHECK = 2.0
"""Seconds after which a slot is requested again if no message came."""
_POLL_UNCLAIMED = 10.0
"""Seconds after which unclaimed jobs are polled although slots become free all the time."""


@attrs.define(eq=False)
class SharedSlots:
    """Waits for a slot in the quota that all workers share.

    Of this process's jobs, one at a time requests a slot of the journal; the others queue.

    Attributes:
        journal: The journal.
        clock: Ours.
        account: Whose quota.
        most: The configured limit: most images of the account in flight, over all workers.
        poll_unclaimed: Called during a long wait: a job without a worker may hold a slot.
    """

    journal: SharedJournal
    clock: Clock
    account: str
    most: int
    poll_unclaimed: Callable[[], Awaitable[None]]
    _turns: KeyedLock = attrs.field(factory=KeyedLock, init=False)
    _heads: dict[str, AsyncExitStack] = attrs.field(factory=dict, init=False)
    # Whether the server is known to take fewer; None before the journal was read.
    _shrunk: bool | None = attrs.field(default=None, init=False)
    _polled_at: float = attrs.field(default=-math.inf, init=False)

    @property
    def crowded(self) -> bool:
        """True while jobs of this process wait for a slot."""
        return self._turns.taken("")

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncGenerator[None, None]:
        """Wait to be the head of the queue, and stay it until `started`."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._turns.of(""))
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
    async def freed(self) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Give a function that waits until a slot may be free; enter it before requesting one."""
        with self.journal.listening_for_slot(self.account) as signal:

            async def wait() -> None:
                signalled = await signal.wait(_RECHECK)
                # A busy account sends signals all the time, and so must not rely on silence.
                now = self.clock.monotonic()
                if not signalled or now - self._polled_at >= _POLL_UNCLAIMED:
                    self._polled_at = now
                    await self.poll_unclaimed()

            yield wait

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
