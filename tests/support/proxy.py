"""A forward proxy on this machine: it passes requests on, opens tunnels, and remembers both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
from yarl import URL

_REFUSED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@attrs.define(eq=False)
class ForwardProxy:
    """A running proxy.

    Attributes:
        routes: The ports of this machine that stand for hosts elsewhere.
        authorization: What the header ``Proxy-Authorization`` must say, or None.
        seen: The first lines of the requests that came.
        port: Where it listens.
    """

    routes: Mapping[str, int] = attrs.field(factory=dict)
    authorization: str | None = None
    seen: list[str] = attrs.field(factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, or one tunnel."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        self.seen.append(line)
        wanted = f"Proxy-Authorization: {self.authorization}"
        if self.authorization is not None and wanted not in fields:
            writer.write(_REFUSED)
            writer.close()
            return
        method, target, version = line.split()
        url = URL(f"//{target}" if method == "CONNECT" else target)
        host = url.host or ""
        there = ("127.0.0.1", self.routes[host]) if host in self.routes else (host, url.port or 0)
        far_reader, far = await asyncio.open_connection(*there)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            kept = [field for field in fields if not field.startswith(("Host:", "Proxy-"))]
            kept += [f"Host: {there[0]}:{there[1]}", "Connection: close"]
            lines = [f"{method} {url.raw_path_qs} {version}", *kept, "", ""]
            far.write("\r\n".join(lines).encode("latin1"))
        back = asyncio.create_task(_pump(far_reader, writer))
        forth = asyncio.create_task(_pump(reader, far))
        await back
        forth.cancel()
        await asyncio.gather(forth, return_exceptions=True)
        far.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def forward_proxy(
    routes: Mapping[str, int] | None = None, *, authorization: str | None = None
) -> AsyncIterator[ForwardProxy]:
    """Run a proxy until the block ends."""
    proxy = ForwardProxy(routes or {}, authorization)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.sleep(1)
