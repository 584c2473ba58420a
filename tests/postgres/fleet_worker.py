"""A worker of a fleet, as a program: it runs the jobs of a journal until none is left."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from comet_async import CometSession
from comet_async._journal.states import OPEN
from comet_async.errors import CometError
from comet_async.postgres import PostgresJournal

logger = logging.getLogger("fleet")


async def open_keys(journal: PostgresJournal) -> AsyncIterator[str]:
    """Yield the keys of all jobs that have not come to their end."""
    after = ""
    while page := await journal.find(OPEN, after=after):
        for record in page:
            yield record.key
        after = page[-1].key


async def run_all(comet: CometSession, keys: Sequence[str], at_once: int) -> None:
    """Run jobs, some at a time; what can't be done now is left for later."""
    waiting = iter(keys)

    async def one_by_one() -> None:
        for key in waiting:
            try:
                await comet.run_job(key, timeout=120)
            except CometError as error:
                logger.info("%s: %s", key, error)

    await asyncio.gather(*(one_by_one() for _ in range(at_once)))


async def work(order: dict[str, Any]) -> None:
    """Work until nothing is left: first on this worker's share, then on all that is left."""
    place, workers = order["place"], order["workers"]
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
        while keys := [key async for key in open_keys(journal)]:
            share = [key for key in keys if int.from_bytes(key.encode()) % workers == place]
            await run_all(comet, share or keys, order["at_once"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    asyncio.run(work(json.loads(sys.argv[1])))
