"""A TCP proxy that makes a good connection bad, in toxiproxy's words.

Example:
    >>> async with FaultProxy("127.0.0.1", sandbox_port) as proxy:
    ...     slow = proxy.add(Latency(latency=0.5))
    ...     ...  # point a client at proxy.url
    ...     proxy.remove(slow)
"""

from __future__ import annotations

import asyncio
import logging
from typing import Self

import attrs

from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.sandbox._faults.sockets import reset
from comet_async.sandbox._faults.toxics import CloseError, Forward, Link, Piece, Stream, Toxic

_CHUNK = 32 * 1024
_AHEAD = 64  # chunks that may wait for their toxics; then the sender is slowed down

logger = logging.getLogger(__name__)


@attrs.define(eq=False)
class FaultProxy:
    """Passes connections on to another address, through toxics.

    Args:
        target_host: Where connections are passed on to.
        target_port: Its port.
        host: Address to listen on; only this machine by default.
        port: Where to listen; 0 takes a free port.
        clock: Paces what is slowed down.
    """

    target_host: str
    target_port: int
    host: str = attrs.field(default="127.0.0.1", kw_only=True)
    port: int = attrs.field(default=0, kw_only=True)
    clock: Clock = attrs.field(default=SYSTEM_CLOCK, kw_only=True)
    toxics: list[Toxic] = attrs.field(factory=list, init=False)
    """What connections suffer, in this order; changes hold for open connections, too."""
    accepted: int = attrs.field(default=0, init=False)
    """How many connections came."""
    _server: asyncio.Server | None = attrs.field(default=None, init=False)
    _connections: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    @property
    def url(self) -> str:
        """Where it listens, as the root of addresses."""
        return f"http://{self.host}:{self.port}"

    def add(self, toxic: Toxic) -> Toxic:
        """Add a toxic behind the others and return it."""
        self.toxics.append(toxic)
        return toxic

    def remove(self, toxic: Toxic) -> None:
        """Remove a toxic, if it is there."""
        self.toxics = [item for item in self.toxics if item is not toxic]

    def clear(self) -> None:
        """Take all toxics away."""
        self.toxics = []

    async def up(self) -> None:
        """Listen; after `down` on the same port as before."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def __aenter__(self) -> Self:
        """Start to listen."""
        await self.up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.down()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it went down while this one was being accepted
            writer.transport.abort()
            return
        self.accepted += 1
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        # Even if it is cancelled before its first step.
        connection.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self.target_host, self.target_port
            )
        except OSError:
            return
        ends = (writer.transport, far_writer.transport)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump("upstream", reader, far_writer))
                group.create_task(self._pump("downstream", far_reader, writer))
        except* CloseError as caught:
            for end in ends:
                _end(end, by_reset=any(_resets(exc) for exc in caught.exceptions))
        except* OSError:
            logger.debug("a connection broke")
        finally:
            far_writer.close()

    async def _pump(
        self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass one direction on until it ends."""
        link = Link(stream=stream, clock=self.clock)
        queue: asyncio.Queue[Piece | None] = asyncio.Queue(_AHEAD)

        async def deliver(piece: Piece) -> None:
            writer.write(piece.data)
            await writer.drain()

        async def read() -> None:
            while data := await reader.read(_CHUNK):
                await queue.put(Piece(data=data, arrived=self.clock.monotonic()))
            await queue.put(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            while (piece := await queue.get()) is not None:
                await self._through(link, deliver)(piece)
            for toxic in self._of(link):
                await toxic.closing(link)
            writer.write_eof()

    def _of(self, link: Link) -> list[Toxic]:
        return [toxic for toxic in self.toxics if link.suffers(toxic)]

    def _through(self, link: Link, deliver: Forward) -> Forward:
        """Return the way through all toxics of the moment."""
        forward = deliver
        for toxic in reversed(self._of(link)):
            forward = _bind(toxic, forward, link)
        return forward


def _bind(toxic: Toxic, forward: Forward, link: Link) -> Forward:
    async def apply(piece: Piece) -> None:
        await toxic.apply(piece, forward, link)

    return apply


def _resets(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(_resets(item) for item in exc.exceptions)
    return isinstance(exc, CloseError) and exc.reset


def _end(transport: asyncio.WriteTransport, *, by_reset: bool) -> None:
    if by_reset:
        reset(transport)
    else:
        transport.close()
