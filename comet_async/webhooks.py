"""Signatures of callbacks by the Standard Webhooks rules, without I/O.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, as
Kling uses them: https://klingai.com/document-api/api/get-started/callbacks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import NoReturn, final

from comet_async.errors import ConfigError, InputError
from comet_async.secret import Secret

TOLERANCE = 300.0
"""Seconds that a signature's time may be off; the specification's five minutes."""

_PREFIX = "whsec_"
_ID, _TIME, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


@final
class WebhookSecret:
    """A secret that callbacks are signed with; it does not show itself.

    Args:
        value: As the console shows it: ``whsec_`` and Base64. The prefix may be missing.

    Raises:
        ConfigError: It is no such secret.
    """

    __slots__ = ("__key",)

    def __init__(self, value: str | Secret) -> None:
        text = Secret(value).reveal() if isinstance(value, str) else value.reveal()
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not key:
            raise ConfigError(
                "the webhook secret is not Base64 text",
                hint="copy it from the console as it is: whsec_…",
            )
        self.__key = key

    def __repr__(self) -> str:
        return "WebhookSecret('…')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WebhookSecret can't be pickled; read it again where it is needed")

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """Return the signature of a callback, as its header holds it.

        Args:
            message_id: The header ``webhook-id``.
            timestamp: The header ``webhook-timestamp``: seconds since 1970.
            body: The body, as it travels.
        """
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(self.__key, signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"


def signed_headers(
    secret: WebhookSecret, body: bytes, *, message_id: str, now: float
) -> dict[str, str]:
    """Return the headers of a signed callback: for tests of your own receiver.

    Args:
        secret: What to sign with.
        body: The body, as it travels.
        message_id: A unique id of the delivery.
        now: The wall clock.
    """
    timestamp = int(now)
    return {
        _ID: message_id,
        _TIME: str(timestamp),
        _SIGNATURE: secret.sign(message_id, timestamp, body),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[WebhookSecret],
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> str:
    """Check a callback's signature; return its ``webhook-id``.

    Any of the signatures in the header may match any of the secrets: there are two of each while
    a secret is rotated.

    Args:
        headers: The callback's headers, in any case.
        body: The body, as it came: parsing and writing it again would change it.
        secrets: The secrets that are valid now.
        now: The wall clock.
        tolerance: Seconds that the signature's time may be off, either way. 300 by default.

    Raises:
        InputError: The signature is missing, too old, or of another secret.
    """
    known = {name.lower(): value for name, value in headers.items()}
    message_id = known.get(_ID, "")
    if not message_id:
        raise _refused(_ID, "is missing")
    stamp = known.get(_TIME, "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004  # seconds
        raise _refused(_TIME, "is no number of seconds")
    timestamp = int(stamp)
    if abs(now - timestamp) > tolerance:
        raise _refused(_TIME, f"is more than {tolerance:g} s off")
    given = [word.encode() for word in known.get(_SIGNATURE, "").split()[:16]]
    right = [secret.sign(message_id, timestamp, body).encode() for secret in secrets]
    # All are compared: the time taken tells nothing.
    matches = [hmac.compare_digest(one, other) for one in given for other in right]
    if not any(matches):
        raise _refused(_SIGNATURE, "does not match")
    return message_id


def _refused(field: str, why: str) -> InputError:
    return InputError(f"the callback's {field} {why}", field=field, limit="Standard Webhooks")
