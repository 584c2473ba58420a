"""The server says when an image is ready, so it is hardly asked."""

import asyncio
from pathlib import Path

from comet_async import CallbackReceiver, CometSession, ExpandRequest, Margins, TaskWaiter

WIDE = Margins.for_aspect("2:1")


async def main() -> None:
    """Listen on a port, submit, and wait for what comes in."""
    async with CallbackReceiver(port=8331) as receiver, CometSession(callbacks=receiver) as comet:
        waiter = TaskWaiter(comet, callbacks=receiver)
        tasks = [
            await comet.submit(ExpandRequest(image=photo, margins=WIDE))
            for photo in sorted(Path("photos").glob("*.jpg"))
        ]
        async for task in waiter.as_completed(tasks):
            print(task.id, task.status, *(image.url for image in task.images))
        print(f"{len(tasks)} tasks, {waiter.polls} polls, {waiter.notifications} callbacks heeded")


if __name__ == "__main__":
    asyncio.run(main())
