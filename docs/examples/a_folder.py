"""Expand a folder; run it again to resume."""

import asyncio

from comet_async import CometSession, Margins


async def main() -> None:
    """Print each image's outcome as it ends."""
    async with CometSession(concurrency=8) as comet:
        run = comet.expand_folder("photos", "wide", Margins.for_aspect("2:1"), max_spend=1)
        async for outcome in run:
            print(outcome.source, outcome.status, *outcome.files)
            if outcome.error is not None:
                print("  ", outcome.error)


if __name__ == "__main__":
    asyncio.run(main())
