"""Sessions over one journal in PostgreSQL, as several workers have them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from comet_async import CometSession, Margins
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox

pytestmark = pytest.mark.program

MARGINS = Margins(left=0.25, right=0.25)


async def expanded(session: CometSession, photos: Path, out: Path) -> list[str]:
    """Expand a folder; return how its images ended."""
    return [str(outcome.status) async for outcome in session.expand_folder(photos, out, MARGINS)]


@pytest.mark.real_loop
async def test_several_sessions_share_a_folder(
    database: str, schema: str, photos: Path, tmp_path: Path
) -> None:
    """Whichever of them sends a request, each image is charged once and saved once."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(seed=1, speed=50, engine="stub"))
        sessions = []
        for _ in range(3):
            journal = await stack.enter_async_context(
                await PostgresJournal.open(database, schema=schema)
            )
            session = CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal, schedule=0.1)
            sessions.append(await stack.enter_async_context(session))
        runs = [expanded(session, photos, tmp_path / "out") for session in sessions]
        assert await asyncio.gather(*runs) == [["done"] * 3] * 3
        assert len(sandbox.ledger.charges) == 3
