"""How the network is reached: time limits, proxy, certificates."""

from __future__ import annotations

import math
from ssl import SSLContext
from typing import TYPE_CHECKING

import attrs

from comet_async.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

SLOWEST = 50_000.0
"""Bytes a second of the slowest uplink that an upload's deadline allows for."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Limits of one exchange, in seconds.

    Attributes:
        connect: To reach the server, TLS included. 10 by default.
        answer: For a paid request: from the body's last byte to the answer. 60 by default.
        ask: For a question: the whole exchange. 20 by default.
    """

    connect: float = 10.0
    answer: float = 60.0
    ask: float = 20.0

    @classmethod
    def of(cls, given: float | Timeouts | None) -> Timeouts:
        """Return the limits that *given* stands for: seconds for one exchange, or limits.

        Seconds never shorten the wait for the answer to a paid request.

        Raises:
            ConfigError: It is no positive number of seconds.
        """
        if given is None:
            return cls()
        if isinstance(given, Timeouts):
            return given
        if not 0 < given < math.inf:
            msg = f"request_timeout={given!r} must be a positive number of seconds"
            raise ConfigError(msg, hint="20 is the default")
        return cls(ask=float(given), answer=max(cls().answer, float(given)))

    def post(self, length: int) -> float:
        """Return how long a POST of *length* bytes may take in all."""
        return 3 * self.connect + self.answer + length / SLOWEST


@attrs.frozen(kw_only=True)
class Network:
    """How to reach the network.

    Attributes:
        session: Your own ``aiohttp.ClientSession`` for the API's calls, never closed by us;
            by default one is made for each event loop.
        proxy: Address of an HTTP proxy.
        ssl: Your own SSL context, for an additional authority or a client certificate.
        trust_env: Read ``HTTP_PROXY`` and ``.netrc`` as aiohttp does. False by default.
        uploads: How many large bodies are on the wire at once. 4 by default.
        downloads: How many results are fetched at once. 8 by default.
        connections: The most connections at once. 33 by default.
    """

    session: aiohttp.ClientSession | None = attrs.field(default=None, repr=False)
    proxy: str | None = attrs.field(default=None, repr=False)
    ssl: SSLContext | None = attrs.field(default=None, repr=False)
    trust_env: bool = False
    uploads: int = 4
    downloads: int = 8
    connections: int = 33
