"""Callbacks in a FastAPI service. Start it with: uvicorn callbacks_fastapi:app --no-access-log."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from comet_async import CallbackReceiver, CometSession, Margins

receiver = CallbackReceiver(
    # How the outside reaches /hooks of this service: https://example.org/hooks
    public_url=os.environ["HOOKS_URL"],
    # The secret part of the path; without one of your own it changes with each start.
    token=os.environ.get("HOOKS_TOKEN"),
)


async def callback(request: Request) -> Response:
    """Pass a callback on; the answer has no body."""
    status = await receiver.handle_request(
        request.path_params["token"],
        request.headers,
        request.stream(),
        peer=request.client.host if request.client else "",
    )
    return Response(status_code=status)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep one session for as long as the service runs."""
    async with CometSession(callbacks=receiver) as app.state.comet:
        yield


app = FastAPI(lifespan=lifespan)
app.add_route("/hooks/cb/{token}", callback, methods=["POST"])


@app.post("/widen")
async def widen(request: Request) -> dict[str, str]:
    """Expand the image in the body, and answer with the address of the result."""
    task = await request.app.state.comet.expand(await request.body(), Margins.for_aspect("2:1"))
    return {"task": task.id, "url": task.images[0].url}
