"""What a failure of the HTTP client means: did the request leave this machine?

The table is data, so that it can be read, and tested against real sockets class by class
(``tests/test_transport.py``). Classes are named, not imported: what is kept of a foreign
exception is a few words, never the exception, whose ``args`` and ``repr`` hold the request's
headers and so the key.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from yarl import URL

from comet_async.errors import CometError, ConfigError, NotSentError


@attrs.frozen
class Mishap:
    """A failed exchange.

    Attributes:
        text: What happened, in words.
        sent: False when the request provably never left; None when that can't be known.
        final: True when another try would fail in the same way.
    """

    text: str
    sent: bool | None = None
    final: bool = False

    def refusal(self, external_task_id: str | None = None) -> CometError:
        """Return the error for a request that never left."""
        if self.final:
            hint = (
                "check the address; if its authority is your own, name its certificate by "
                "SSL_CERT_FILE or in an SSL context"
            )
            return ConfigError(self.text, hint=hint)
        return NotSentError(
            self.text,
            external_task_id=external_task_id,
            hint="nothing was sent; check the address and the network",
        )


# A class stands for its subclasses, unless one of them has a row of its own: both "not sent"
# classes are subclasses of classes that also cover failures after sending.
MISHAPS: Mapping[str, Mishap] = {
    "ClientConnectorCertificateError": Mishap(
        "the certificate is not trusted", sent=False, final=True
    ),
    "ClientConnectorError": Mishap("can't connect", sent=False),
    "ConnectionTimeoutError": Mishap("connecting took too long", sent=False),
    "InvalidURL": Mishap("the address is not valid", sent=False, final=True),
    "ServerDisconnectedError": Mishap("the server closed the connection"),
    "SocketTimeoutError": Mishap("the server did not answer in time"),
    "ClientPayloadError": Mishap("the answer was cut short"),
    "ClientResponseError": Mishap("the answer was not HTTP"),
    "TimeoutError": Mishap("the time for it ran out"),
    "Exception": Mishap("the connection broke"),
}


def describe(exc: Exception, url: URL) -> Mishap:
    """Return what is worth keeping of *exc*, met on the way to *url*."""
    names = [cls.__name__ for cls in type(exc).__mro__]
    row = next(MISHAPS[name] for name in names if name in MISHAPS)
    reason = getattr(getattr(exc, "os_error", None), "strerror", None) or names[0]
    return attrs.evolve(row, text=f"{row.text} ({url.host}:{url.port}, {reason})")
