"""A service that only enqueues, and answers from the journal; workers of a fleet do the rest.

Start it with: uvicorn fleet_service:app --workers 4, and workers with: comet-async worker.
"""

import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse

from comet_async import CometSession, ExpandRequest, InputError, Margins
from comet_async.fleet import enqueue_many
from comet_async.postgres import PostgresJournal

SHARED = Path(os.environ["SHARED_FOLDER"])  # the same path on all machines
WIDE = Margins.for_aspect("16:9")
LARGEST = 10 * 1024 * 1024  # bytes


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep one journal for as long as the service runs."""
    journal = await PostgresJournal.open(os.environ["DATABASE_URL"])
    async with journal, CometSession(journal=journal) as comet:
        app.state.journal, app.state.comet = journal, comet
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/images", status_code=202)
async def enqueue(request: Request) -> dict[str, Any]:
    """Take an image, and answer at once with the key of its job; the same one for the same image.

    A caller that was cut off may repeat its request.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST:
            raise HTTPException(413)
    source = SHARED / "in" / hashlib.sha256(data).hexdigest()
    source.parent.mkdir(parents=True, exist_ok=True)
    part = source.with_name(f"{source.name}.{os.urandom(4).hex()}")
    part.write_bytes(data)
    part.rename(source)  # workers never see half of it
    order = ExpandRequest(image=str(source), margins=WIDE)
    comet = request.app.state.comet
    (one,) = [each async for each in enqueue_many(comet, [order], out=SHARED / "out")]
    if one.outcome is not None and isinstance(one.outcome.error, InputError):
        raise HTTPException(422, str(one.outcome.error))
    return {"job": one.key}


@app.get("/images/{key}")
async def state(request: Request, key: str) -> dict[str, Any]:
    """Return how far a job has come, from the journal alone."""
    job = await request.app.state.journal.get(key)
    if job is None:
        raise HTTPException(404)
    return {"job": key, "state": job.state, "reason": job.message}


@app.get("/images/{key}/file")
async def file(request: Request, key: str) -> FileResponse:
    """Return the image of a job that is done."""
    for place in await request.app.state.journal.destinations(key):
        for saved in place.files:
            return FileResponse(saved.name)
    raise HTTPException(404)
