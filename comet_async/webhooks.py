"""Signatures of callbacks: Standard Webhooks, as Kling sends them when a secret is set.

Kling, "Callbacks": https://klingai.com/document-api/api/get-started/callbacks. The scheme:
https://github.com/standard-webhooks/standard-webhooks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

import attrs

from comet_async.errors import ConfigError
from comet_async.secret import Secret

TOLERANCE = 300.0
"""Seconds that a delivery's time may differ from ours, either way."""

_PREFIX = "whsec_"
_VERSION = "v1"


def _key_of(secret: str | Secret) -> bytes:
    text = secret.reveal() if isinstance(secret, Secret) else secret.strip()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError("the webhook secret is not Base64", hint="copy it whole: whsec_…")
    return key


def _keys_of(secrets: Iterable[str | Secret]) -> tuple[bytes, ...]:
    return tuple(_key_of(secret) for secret in secrets)


@attrs.frozen
class WebhookVerifier:
    """Tells whether a delivery was signed with one of our secrets.

    Args:
        secrets: ``whsec_…`` texts; two during the seven days of a key's rotation.

    Raises:
        ConfigError: A secret is not Base64.
    """

    _keys: tuple[bytes, ...] = attrs.field(converter=_keys_of, repr=False, alias="secrets")

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str | None:
        """Return the delivery's id, or None when the signature is missing, wrong or stale.

        Args:
            headers: The delivery's headers, in any case.
            body: The body's raw bytes: the signature is over these, not over their meaning.
            now: The wall clock, seconds.
        """
        found = {name.lower(): value for name, value in headers.items()}
        delivery = found.get("webhook-id", "")
        moment = found.get("webhook-timestamp", "")
        if not delivery or not moment.isascii() or not moment.isdigit():
            return None
        if abs(now - int(moment)) > TOLERANCE:
            return None
        signed = f"{delivery}.{moment}.".encode() + body
        offered = found.get("webhook-signature", "").split()
        good = False
        for key in self._keys:
            digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
            for signature in offered:
                # No early end: the time taken tells nothing about how near a guess is.
                good |= hmac.compare_digest(f"{_VERSION},{digest}".encode(), signature.encode())
        return delivery if good else None
