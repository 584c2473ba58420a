"""Expand one image and save the result."""

import asyncio

from comet_async import CometSession, Margins


async def main() -> None:
    """Submit, wait, download."""
    async with CometSession() as comet:
        task = await comet.expand(
            "photos/china.jpg", Margins.for_aspect("2:1"), prompt="a temple by a lake"
        )
        path = await comet.download(task.images[0], "china-wide.png", exists="replace")
        print(path, task.units)


if __name__ == "__main__":
    asyncio.run(main())
