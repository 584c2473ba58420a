"""What all runs over one journal share while they run in the same process."""

from __future__ import annotations

import asyncio

import attrs

from comet_async.quota import InFlight
from comet_async.records import JobRecord
from comet_async.turns import Turns


@attrs.define(eq=False)
class Desk:
    """Several runs over one journal must not send the same job, nor count places apart.

    Attributes:
        places: Images in flight.
        turns: Who works on a job: one at a time.
        sending: Requests on their way, each recorded when it ends.
    """

    places: InFlight
    turns: Turns = attrs.field(factory=Turns)
    sending: set[asyncio.Task[JobRecord]] = attrs.field(factory=set)

    async def settle(self) -> None:
        """Wait until each request on its way has been recorded."""
        here = asyncio.get_running_loop()
        mine = {task for task in self.sending if task.get_loop() is here}
        if mine:
            await asyncio.wait(mine)
