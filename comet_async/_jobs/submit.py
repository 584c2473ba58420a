"""A paid request without a journal: sent once, and looked for when its answer is lost.

There is nothing here that outlives the process. What can be known is found out now; what
can't is said, with the id that finds the task later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import attrs

from comet_async._http.api import Api
from comet_async._http.body import Body
from comet_async._images.load import ImageInput, SourceImage
from comet_async._jobs.admission import SendBackoff
from comet_async._jobs.reconcile import TaskLookup
from comet_async.clock import Clock
from comet_async.errors import (
    CometError,
    DuplicateTaskError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitError,
    ServerError,
)
from comet_async.models import Task
from comet_async.requests import TaskKind, TaskRequest

logger = logging.getLogger("comet_async.purchase")

UNREACHED = 10.0
"""Seconds of trying to reach the server before the caller is told."""

BUSY = 300.0
"""Seconds of waiting for a place or for a rate limit before the caller is told. Three quick
tries do not outlast a full account, https://github.com/Comfy-Org/ComfyUI_frontend/issues/4117."""

_LONGEST_PAUSE = 30.0


@attrs.define(eq=False)
class Submitter:
    """Sends paid requests of one account."""

    api: Api
    clock: Clock
    settle: float
    load: Callable[[ImageInput, str], Awaitable[SourceImage]]
    callback_url: Callable[[], str | None]
    heard: Callable[[str], str | None] = lambda _key: None
    _sending: set[asyncio.Task[Task]] = attrs.field(factory=set, init=False)

    async def submit(self, request: TaskRequest, key: str) -> Task:
        """Return the task that *request* makes.

        A cancelled caller does not cut the request off: it is sent to its end, and the id
        of what was bought is logged.

        Args:
            request: What to ask for.
            key: The external id, unless the request has one of its own.

        Raises:
            InputError: A rule of the API is broken; nothing was sent.
            OutcomeUnknownError: It may have been accepted, and could not be found.
            CometError: It was not accepted; see each error's ``hint``.
        """
        images = {name: await self.load(image, name) for name, image in request.images().items()}
        key = request.external_task_id or key
        fields = self.api.gateway.adapt(request.fields(images)) | {"external_task_id": key}
        if callback := request.callback_url or self.callback_url():
            fields["callback_url"] = callback
        return await self._submit(request.kind, Body.build(fields, images), key)

    async def settle_in_flight(self) -> None:
        """Wait until each request that is being sent has been answered."""
        if self._sending:
            await asyncio.wait(self._sending)

    async def _submit(self, kind: TaskKind, body: Body, key: str) -> Task:
        begin, attempt, persistence = self.clock.monotonic(), 1, SendBackoff()
        while True:
            lost: CometError
            try:
                return await self._create(kind, body, key)
            except (NotSentError, RateLimitError, ServerError) as error:
                pause = persistence.pause(error, attempt)
                limit = UNREACHED if isinstance(error, NotSentError) else BUSY
                if self.clock.monotonic() + pause - begin > limit:
                    raise
            except (OutcomeUnknownError, DuplicateTaskError) as error:
                lost = error
                break
            attempt += 1
            await self.clock.sleep(pause)
        return await self._look_for(kind, key, lost)

    async def _create(self, kind: TaskKind, body: Body, key: str) -> Task:
        """Send once, to the end whoever leaves; another try is made for a caller who is there."""
        create = self.api.create(kind, body, external_task_id=key)
        task = asyncio.create_task(create, name=f"submit {key}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_orphan)
            raise

    async def _look_for(self, kind: TaskKind, key: str, lost: CometError) -> Task:
        """Ask for the task until the settle time is over; absence proves nothing here."""
        lookup = TaskLookup(self.api, self.heard)
        begin, pause = self.clock.monotonic(), 1.0
        while True:
            try:
                finding = await lookup.look(kind, key, known=None)
            except CometError:  # the key is refused by now, which undoes no purchase
                break
            if finding.task is not None:
                return finding.task
            left = self.settle - (self.clock.monotonic() - begin)
            if left <= 0:
                break
            await self.clock.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise OutcomeUnknownError(
            lost.message,
            external_task_id=key,
            status=lost.status,
            code=lost.code,
            request_id=lost.request_id,
            sent=True,
            hint="it may have been accepted and paid: do not submit it again; "
            f"ask later, by session.find({key!r}) or comet-async status {key}; "
            "a journal does it for you",
        )


def _log_orphan(task: asyncio.Task[Task]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        logger.warning("task %s was bought after its caller had gone", task.result().id)
    elif isinstance(error, OutcomeUnknownError):
        logger.warning("task of %s may have been bought", error.external_task_id)
