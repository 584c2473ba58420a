"""A worker of a fleet, as a program: it works on a queue until that is empty."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from comet_async import CometSession
from comet_async.fleet import FleetWorker, fleet_status
from comet_async.postgres import PostgresJournal


async def work(order: dict[str, Any]) -> None:
    """Work until no entry is left, other workers' included."""
    journal = await PostgresJournal.open(
        order["database"], schema=order["schema"], heartbeat=order["heartbeat"], patience=90
    )
    async with (
        journal,
        CometSession(
            order["key"],
            gateway=order["gateway"],
            journal=journal,
            concurrency=order["quota"],
            settle=order["settle"],
            schedule=order["schedule"],
        ) as comet,
    ):
        worker = FleetWorker(comet, at_once=order["at_once"])
        running = asyncio.create_task(worker.run())
        while not running.done():
            status = await fleet_status(journal)
            if not status.queued + status.running:
                worker.stop()
            await asyncio.wait({running}, timeout=0.5)
        await running


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    asyncio.run(work(json.loads(sys.argv[1])))
