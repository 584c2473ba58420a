"""Web servers for tests: each answers what a test wrote down, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
from aiohttp import web
from yarl import URL

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Answer: TypeAlias = web.Response | dict[str, Any]


@attrs.frozen
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        """The body's JSON."""
        return json.loads(self.body)


@attrs.define
class Server:
    """A running server: where it is, and what it was asked."""

    port: int = 0
    seen: list[Seen] = attrs.field(factory=list)

    @property
    def url(self) -> URL:
        """Where it listens."""
        return URL(f"http://127.0.0.1:{self.port}")

    @property
    def paths(self) -> list[str]:
        """The addresses that were asked for, with their queries."""
        return [request.path for request in self.seen]


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve with *handler* until the block ends."""
    server = Server()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        server.seen.append(Seen(request.method, request.raw_path, headers, body))
        return await handler(request)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


def answering(*answers: Answer) -> Handler:
    """Give *answers* in order (a mapping is JSON with status 200), the last one forever."""
    left = list(answers)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        del request
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, dict):
            return web.json_response(answer)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    return handle
