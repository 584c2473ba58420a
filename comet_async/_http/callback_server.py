"""The HTTP server of a callback receiver: small, silent, and quick to hang up.

A connection serves one request. It is closed when the request's headers don't arrive in time, and
no answer names the software that made it. Requests are not logged: their paths hold the token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from aiohttp import web

from comet_async._cancellation import finished

HEADER_TIMEOUT = 10.0
"""Seconds in which the headers of a request have to arrive."""

Handle: TypeAlias = Callable[..., Awaitable[int]]
"""`CallbackReceiver.handle_request`: returns the HTTP status to answer with."""

# What aiohttp would log are requests, which hold the token, and what is not HTTP at all.
_SILENCE: Final = logging.Logger("silence", logging.CRITICAL + 1)  # noqa: LOG001  # not by name
_PREFIX = "/cb/"
_NOT_FOUND = 404


class _Connection(web.RequestHandler):
    """One connection, closed if it does not send a whole header in time."""

    begun = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEADER_TIMEOUT, self._close_unless_begun, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def handle_error(self, *args: Any, **details: Any) -> web.StreamResponse:
        """Answer what is not HTTP, without naming the software."""
        return _anonymous(super().handle_error(*args, **details))

    def _close_unless_begun(self, transport: asyncio.BaseTransport) -> None:
        if not self.begun:
            transport.close()


def _anonymous(response: web.StreamResponse) -> web.StreamResponse:
    response.headers["Server"] = ""  # left out, aiohttp would name its version and Python's
    response.force_close()
    return response


class CallbackServer:
    """A server that passes ``POST /cb/<token>`` on.

    Args:
        handle: What takes the callbacks.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._manager: web.Server | None = None
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address and the port.

        Raises:
            OSError: The address can't be used.
        """
        loop = asyncio.get_running_loop()
        manager = web.Server(self._answer)

        def connect() -> _Connection:
            # A few bytes can unpack to gigabytes, and signatures are made over what travels.
            return _Connection(
                manager, loop=loop, access_log=_SILENCE, logger=_SILENCE, auto_decompress=False
            )

        # Started by itself: asyncio loses a server whose start is cancelled.
        self._server = await loop.create_server(connect, host, port, start_serving=False)
        self._manager = manager
        try:
            await self._server.start_serving()
        except BaseException:
            await self.aclose()
            raise
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound

    async def aclose(self) -> None:
        """Stop listening, and close all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._manager is not None:
            manager, self._manager = self._manager, None
            await finished(asyncio.ensure_future(manager.shutdown(1.0)))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, _Connection):
            request.protocol.begun = True
        status = _NOT_FOUND
        if request.method == "POST" and request.path.startswith(_PREFIX):
            status = await self._handle(
                request.path.removeprefix(_PREFIX),
                request.headers,
                request.content.iter_any(),
                peer=request.remote or "",
            )
        return _anonymous(web.Response(status=status))
