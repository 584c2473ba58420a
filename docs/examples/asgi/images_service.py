"""Images over HTTP: several workers, callbacks, and nothing paid twice, restarts included.

Start it with: uvicorn images_service:app --workers 2 --no-access-log
"""

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

from comet_async import (
    CallbackReceiver,
    CometError,
    CometSession,
    InputError,
    JournalBusyError,
    Margins,
    WaitTimeoutError,
)

WIDE = Margins.for_aspect("2:1")
LARGEST = 10 * 1024 * 1024  # bytes; the API takes no more
PATIENCE = 50  # seconds; below the time limit of the proxy in front

logger = logging.getLogger("images")


async def open_session(stack: AsyncExitStack, receiver: CallbackReceiver) -> CometSession:
    """Open a session with the first journal that no other worker holds."""
    folder = Path(os.environ["JOURNALS"])
    for number in itertools.count():
        session = CometSession(
            journal=folder / f"jobs-{number}.sqlite3",
            verify_remote=True,  # what another worker bought is found on the server
            callbacks=receiver,
        )
        try:
            return await stack.enter_async_context(session)
        except JournalBusyError:
            continue
    raise AssertionError


async def resume(comet: CometSession) -> None:
    """Collect what was under way when a worker stopped."""
    async for outcome in comet.resume():
        logger.info("%s: %s", outcome.external_task_id, outcome.status)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep one session for as long as the worker runs."""
    receiver = CallbackReceiver(public_url=os.environ["HOOKS_URL"], token=os.environ["HOOKS_TOKEN"])
    async with AsyncExitStack() as stack:
        comet = await open_session(stack, receiver)
        app.state.receiver, app.state.comet = receiver, comet
        resuming = asyncio.create_task(resume(comet))
        yield
        resuming.cancel()


router = APIRouter()


@router.post("/images")
async def widen(request: Request) -> dict[str, str]:
    """Expand the image in the body. Repeating a request is free: it is the same job."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST:
            raise HTTPException(413)
    try:
        task = await request.app.state.comet.expand(bytes(data), WIDE, timeout=PATIENCE)
    except InputError as error:  # nothing was sent
        raise HTTPException(422, error.as_dict()) from error
    except WaitTimeoutError as error:  # the job continues: the caller repeats the request
        raise HTTPException(504, error.as_dict(), {"Retry-After": "10"}) from error
    except CometError as error:
        raise HTTPException(502, error.as_dict()) from error
    return {"task": task.id, "url": task.images[0].url}


@router.post("/hooks/cb/{token}")
async def callback(request: Request, token: str) -> Response:
    """Pass a callback on to the session; the answer has no body."""
    peer = request.client.host if request.client else ""
    receiver: CallbackReceiver = request.app.state.receiver
    status = await receiver.handle_request(token, request.headers, request.stream(), peer=peer)
    return Response(status_code=status)


def make_app() -> FastAPI:
    """Return the application; its session lives as long as it does."""
    made = FastAPI(lifespan=lifespan)
    made.include_router(router)
    return made


app = make_app()
