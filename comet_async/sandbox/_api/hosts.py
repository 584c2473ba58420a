"""Which ``Host`` a request may name.

A web page can point a domain of its own at this machine (DNS rebinding), and the browser then lets
it read what the sandbox shows. Such a request names the foreign domain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from yarl import URL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MISDIRECTED = 421  # RFC 9110, section 15.5.20


class HostGuard:
    """Answers 421 to requests for any host but this one.

    Args:
        names: Host names that are accepted besides ``localhost`` and IP addresses.
        refused: Called with the name that was refused.
    """

    def __init__(self, names: Iterable[str], refused: Callable[[web.Request], None]) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._refused = refused

    def accepts(self, host: str | None) -> bool:
        """Return True if a request may name *host*, a value of the header ``Host``."""
        if host is None:  # HTTP/1.0, which no browser sends
            return True
        try:
            name = (URL(f"http://{host}").host or "").lower()
        except ValueError:
            return False
        return (
            name == "localhost"
            or name.endswith(".localhost")
            or name in self._names
            or _is_address(name)
        )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pass a request on to its handler, or refuse it."""
        if self.accepts(request.headers.get("Host")):
            return await handler(request)
        self._refused(request)
        return web.Response(
            status=_MISDIRECTED,
            text="421 Misdirected Request: this sandbox answers to localhost and to addresses; "
            "other names must be allowed when it is started\n",
        )


def _is_address(name: str) -> bool:
    """Return True for an IP address, which can't be redirected by DNS."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
