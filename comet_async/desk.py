"""What all runs over one journal share while they run in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs

from comet_async.quota import InFlight
from comet_async.records import JobRecord, Journal, NewJob
from comet_async.turns import Turns


@attrs.define(eq=False)
class Desk:
    """Several runs over one journal must not send the same job, nor count places apart.

    Attributes:
        places: Images in flight.
        journal: The journal.
        turns: Who works on a job: one at a time.
        sending: Requests on their way, each recorded when it ends.
    """

    places: InFlight
    journal: Journal
    turns: Turns = attrs.field(factory=Turns)
    sending: set[asyncio.Task[JobRecord]] = attrs.field(factory=set)

    @asynccontextmanager
    async def alone(self, record: JobRecord) -> AsyncGenerator[JobRecord, None]:
        """Work on a job alone in this process; a second caller waits, then sees the result.

        Gives the record as it is then.
        """
        async with self.turns.of(record.key):
            yield await self.journal.get(record.key) or record

    @asynccontextmanager
    async def planned(self, job: NewJob, *, now: float) -> AsyncGenerator[JobRecord, None]:
        """Write *job* down, and work on it as in `alone`.

        Raises:
            KeyReuseError: Its key is known for another request.
        """
        if self.turns.taken(job.key):
            # Whoever has it may take long: a crash meanwhile must not lose this wish.
            await self.journal.plan([job], now=now)
        async with self.turns.of(job.key):
            (record,) = await self.journal.plan([job], now=now)
            yield record

    async def settle(self) -> None:
        """Wait until each request on its way has been recorded."""
        here = asyncio.get_running_loop()
        mine = {task for task in self.sending if task.get_loop() is here}
        if mine:
            await asyncio.wait(mine)
