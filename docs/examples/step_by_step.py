"""Submit several images, watch one of them, and take all as they end."""

import asyncio

from comet_async import CometSession, ExpandRequest, Margins, TaskWaiter

PHOTOS = ["photos/china.jpg", "photos/coffee.png", "photos/rocket.jpg"]


async def main() -> None:
    """Submission and waiting are two things."""
    async with CometSession() as comet:
        margins = Margins(up=0.3)
        tasks = [await comet.submit(ExpandRequest(image=path, margins=margins)) for path in PHOTOS]

        waiter = TaskWaiter(comet, timeout=600)
        async for snapshot in waiter.transitions(tasks[0]):
            print(snapshot.id, snapshot.status)

        async for done in waiter.as_completed(tasks):
            print(done.id, "succeeded" if done.succeeded else done.message)


if __name__ == "__main__":
    asyncio.run(main())
