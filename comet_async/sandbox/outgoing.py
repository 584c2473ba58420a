"""What the sandbox itself asks of the network: images to start from, and callbacks.

It talks to this machine only. Anything else is treated as out of reach, which is also what the
service does with an address that it can't fetch.
"""

from __future__ import annotations

import ipaddress
from typing import Protocol

import aiohttp
import attrs
from yarl import URL

from comet_async.sandbox._api.checks import MAX_IMAGE

_SECONDS = 10.0  # for one exchange


class Fetch(Protocol):
    """Fetches an image."""

    async def __call__(self, url: str) -> bytes | None:
        """Return what is at *url*, or None if it is out of reach or too large."""
        ...


def is_loopback(url: str) -> bool:
    """Whether *url* is an http address on this machine."""
    try:
        parsed = URL(url)
        host = parsed.host or ""
        inside = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return inside and parsed.scheme in {"http", "https"}


@attrs.define(eq=False)
class Loopback:
    """An HTTP client that reaches this machine only."""

    _session: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    async def fetch(self, url: str) -> bytes | None:
        """Return what is at *url*, or None if it is out of reach or too large."""
        if not is_loopback(url):
            return None
        try:
            async with self._open().get(url, allow_redirects=False) as reply:
                data = await _read(reply.content) if reply.ok else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return data

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int | None:
        """Send *body* to *url*; return the answer's status, or None if none came."""
        if not is_loopback(url):
            return None
        try:
            async with self._open().post(
                url, data=body, headers=headers, allow_redirects=False
            ) as reply:
                return reply.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


async def _read(content: aiohttp.StreamReader) -> bytes | None:
    """Return all of *content*, or None if it is larger than an image may be."""
    data = bytearray()
    async for chunk in content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > MAX_IMAGE:
            return None
    return bytes(data)
