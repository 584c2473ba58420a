"""What all handlers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import attrs
from aiohttp import web

from comet_async.clock import Clock
from comet_async.sandbox._api.answers import Answer, Dialect
from comet_async.sandbox._api.ids import Ids
from comet_async.sandbox._api.tokens import check_authorization
from comet_async.sandbox._faults.injection import Wire
from comet_async.sandbox._faults.rules import Call, Fault, Faults
from comet_async.sandbox.callbacks import Callbacks
from comet_async.sandbox.ledger import Ledger
from comet_async.sandbox.options import Options, Profile
from comet_async.sandbox.results import Leak, Results
from comet_async.sandbox.tasks import SandboxTask, Tasks


@attrs.define(eq=False)
class Changes:
    """Wakes the streams that watch the sandbox; several changes at once may wake them once."""

    _watchers: set[asyncio.Event] = attrs.field(factory=set, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def notify(self) -> None:
        """Say that something changed."""
        for watcher in self._watchers:
            watcher.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self.notify()

    async def stream(self) -> AsyncGenerator[None, None]:
        """Yield at once, and then after changes, until the sandbox closes."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            while not self._closed:
                yield
                await watcher.wait()
                watcher.clear()
        finally:
            self._watchers.discard(watcher)


@attrs.define(eq=False, kw_only=True)
class State:
    """Everything that a handler needs."""

    clock: Clock
    key: str | None = attrs.field(repr=False)
    options: Options
    ids: Ids
    ledger: Ledger
    faults: Faults
    results: Results
    tasks: Tasks
    callbacks: Callbacks
    wire: Wire
    changes: Changes = attrs.field(factory=Changes)
    leaks: list[Leak] = attrs.field(factory=list)
    unexpected: list[str] = attrs.field(factory=list)
    """Requests that a correct client does not send, each with the reason."""

    def note_unexpected(self, request: web.Request, reason: str) -> None:
        """Record a request that a correct client does not send."""
        self.unexpected.append(f"{request.method} {request.path}: {reason}")

    def dialect(self, profile: Profile) -> Dialect:
        """Return how *profile* speaks in this exchange."""
        return Dialect(
            profile=profile,
            options=self.options,
            request_id=self.ids.request_id(),
            comet_id=self.ids.comet_request_id(self.clock.time()),
            image_urls=self.results.url,
        )

    def check_key(self, request: web.Request, profile: Profile) -> None:
        """Pass if the request may come in.

        Raises:
            RefusalError: It may not.
        """
        check_authorization(
            request.headers.get("Authorization"),
            key=self.key,
            options=self.options,
            profile=profile,
            now=self.clock.time(),
        )

    async def send(
        self, request: web.Request, dialect: Dialect, answer: Answer, fault: Fault | None = None
    ) -> web.StreamResponse:
        """Send *answer*, or what *fault* makes of it."""
        if dialect.profile == "comet":
            answer = answer.with_headers({"X-Cometapi-Request-Id": dialect.comet_id})
        return await self.wire.send(request, fault, dialect, answer)

    def take(
        self, call: Call, task: SandboxTask | None = None, name: str = "", *, charged: bool = False
    ) -> Fault | None:
        """Return the fault that a call is to meet, if any.

        Args:
            call: What is being done.
            task: The task concerned, if it is known.
            name: The id in the request.
            charged: Whether a create call is charged by now.
        """
        names = (task.external_id, task.id) if task else (name,)
        return self.faults.take(call, names, charged=charged)
