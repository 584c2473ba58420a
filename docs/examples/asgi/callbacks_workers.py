"""Callbacks in a service with several workers, which Redis connects.

Start it with: uvicorn callbacks_workers:app --workers 2 --no-access-log
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

from comet_async import CallbackReceiver, CometError, CometSession, Margins, Notification

CHANNEL = "comet-callbacks"

# The same token in all workers, and after a restart: python -c "import secrets;
# print(secrets.token_urlsafe(32))"
receiver = CallbackReceiver(token=os.environ["HOOKS_TOKEN"], public_url=os.environ["HOOKS_URL"])


async def callback(request: Request) -> Response:
    """Pass a callback on to all workers: any of them may be the one that waits for its task."""
    if not receiver.verify_token(request.path_params["token"]):
        return Response(status_code=404)
    try:
        event = receiver.unwrap(request.headers, await request.body())
    except CometError:
        return Response(status_code=400)
    await request.app.state.redis.publish(CHANNEL, json.dumps(event.as_dict()))
    return Response(status_code=200)


async def listen(redis: Redis, listening: asyncio.Event) -> None:
    """Notify this worker's session of what any worker received."""
    async with redis.pubsub() as channel:
        await channel.subscribe(CHANNEL)
        async for message in channel.listen():
            listening.set()  # the first message confirms the subscription
            if message["type"] == "message":
                receiver.notify(Notification.from_dict(json.loads(message["data"])))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep one session and one subscription for as long as the worker runs."""
    listening = asyncio.Event()
    async with (
        Redis.from_url(os.environ["REDIS_URL"]) as app.state.redis,
        CometSession(callbacks=receiver) as app.state.comet,
    ):
        listener = asyncio.create_task(listen(app.state.redis, listening))
        await listening.wait()
        yield
        listener.cancel()


app = FastAPI(lifespan=lifespan)
app.add_route("/hooks/cb/{token}", callback, methods=["POST"])


@app.post("/widen")
async def widen(request: Request) -> dict[str, str | int]:
    """Expand the image in the body, and answer with its URL and the number of this worker."""
    task = await request.app.state.comet.expand(await request.body(), Margins.for_aspect("2:1"))
    return {"task": task.id, "url": task.images[0].url, "worker": os.getpid()}
