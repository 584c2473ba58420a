"""Who may call: an API key, or a token that Kling's customers sign themselves.

Kling API: Authentication, https://klingai.com/document-api/api/get-started/authentication.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from typing import Any

from comet_async.sandbox._api.refusals import RefusalError
from comet_async.sandbox.options import Options, Profile

_PARTS = 3  # header, claims, signature


def check_authorization(
    header: str | None, *, key: str | None, options: Options, profile: Profile, now: float
) -> None:
    """Pass if *header* opens the gateway.

    Args:
        header: The request's ``Authorization``.
        key: The API key; None lets any key in.
        options: Hold what tokens are signed with.
        profile: Only Kling takes signed tokens.
        now: Seconds since 1970.

    Raises:
        RefusalError: With one of the codes 1000 to 1004.
    """
    if not header or not header.strip():
        raise RefusalError(1001)
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RefusalError(1002)
    _check_token(token.strip(), key, options, profile, now)


def _check_token(
    token: str, key: str | None, options: Options, profile: Profile, now: float
) -> None:
    # Headers may hold any bytes; what is no UTF-8 comes as lone surrogates.
    given = token.encode("utf-8", "surrogateescape")
    if key is not None and hmac.compare_digest(given, key.encode()):
        return
    if profile == "kling" and token.count(".") == _PARTS - 1:
        _check_signed(token, options, now)
    elif key is not None:
        raise RefusalError(1002)


def _check_signed(token: str, options: Options, now: float) -> None:
    signed, _, signature = token.rpartition(".")
    try:
        header, claims = (_decode(part) for part in signed.split("."))
        given = _unpack(signature)
    except (ValueError, RecursionError):
        raise RefusalError(1002) from None
    if header.get("alg") != "HS256" or claims.get("iss") != options.access_key:
        raise RefusalError(1002)
    # Both parts were Base64, so the text is ASCII.
    wanted = hmac.digest(options.secret_key.encode(), signed.encode("ascii"), hashlib.sha256)
    if not hmac.compare_digest(given, wanted):
        raise RefusalError(1000)
    if _moment(claims, "nbf", 0.0) > now:
        raise RefusalError(1003)
    if _moment(claims, "exp", 0.0) <= now:
        raise RefusalError(1004)


def _moment(claims: dict[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusalError(1002)
    try:
        moment = float(value)
    except OverflowError:
        raise RefusalError(1002) from None
    if not math.isfinite(moment):
        raise RefusalError(1002)
    return moment


def _unpack(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _decode(part: str) -> dict[str, Any]:
    value = json.loads(_unpack(part))
    if isinstance(value, dict):
        return value
    raise ValueError(part)
