"""Keys: one short name for one purchase, the same in every run.

A key is sent as ``external_task_id``, so it must be opaque: it is a hash and shows neither
file names nor prompts. Equal requests have equal keys whatever the file is called, which is
how a second run, or a second copy of an image, finds out that it is paid already.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Mapping
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import cast

from comet_async.errors import InputError
from comet_async.models import JSON

# Part of what is hashed: a change of the canonical form must never let two forms meet.
_VERSION = 1
_PREFIX = "ce1-"
# 26 characters of Base32 are 130 bits: no two images will ever share a key.
_LENGTH = 26
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)  # of ten bits
PATTERN = rf"{_PREFIX}[a-z2-7]{{{_LENGTH}}}(?:\.(?:[2-9]|[1-9][0-9]+))?"
"""A regular expression for keys made here."""


def content_key(
    kind: str,
    images: Mapping[str, str],
    fields: Mapping[str, JSON],
    *,
    salt: str = "",
    attempt: int = 1,
) -> str:
    """Return the key of a request, computed from what it says.

    Args:
        kind: The kind of task, such as ``"expand"``.
        images: For each image field, the SHA-256 of the bytes, or the URL.
        fields: All other fields of the request.
        salt: Any text; another one makes another purchase of the same request.
        attempt: 1, or the number of a deliberate new purchase after a failed task.

    Raises:
        InputError: *attempt* is below 1, or a field holds what JSON can't.
    """
    if attempt < 1:
        raise InputError("attempt counts from 1", field="attempt", value=attempt, limit=">= 1")
    text = canonical(
        {"v": _VERSION, "kind": kind, "images": images, "fields": fields, "salt": salt}
    )
    key = _shape(hashlib.sha256(text.encode("ascii")).digest())
    return key if attempt == 1 else f"{key}.{attempt}"


def next_attempt(key: str) -> str:
    """Return the key under which a failed job is bought again, if it is."""
    base, _, number = key.rpartition(".")
    return f"{base}.{int(number) + 1}" if base and number.isdecimal() else f"{key}.2"


def random_key() -> str:
    """Return a key for a purchase that no journal remembers."""
    return _shape(secrets.token_bytes(20))


def is_own_key(text: str) -> bool:
    """Return True if *text* has the shape of a key made here."""
    return re.fullmatch(PATTERN, text) is not None


def names_another(key: str, found: str | None) -> bool:
    """Return True if *found*, which an answer names as our own id, is the key of another job.

    An id of another shape proves nothing: a gateway may put its own in the place of ours.
    """
    return found is not None and found != key and is_own_key(found)


def canonical(value: JSON) -> str:
    """Return *value* as JSON text, the same for all ways of writing the same value.

    Names are sorted, numbers are plain decimals (``1``, ``1.0`` and ``1e0`` are one number),
    and everything is ASCII.

    Raises:
        InputError: *value* holds bytes, an infinite number, or anything else not JSON.
    """
    match value:
        case str():
            return encode_basestring_ascii(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case Mapping():
            fields = cast("Mapping[object, JSON]", value)
            pairs = sorted([f"{_name(name)}:{canonical(item)}" for name, item in fields.items()])
            return f"{{{','.join(pairs)}}}"
        case [*items]:
            return f"[{','.join(canonical(item) for item in items)}]"
        case _:
            raise InputError(f"a request can't hold {type(value).__name__}", limit="JSON")


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise InputError("the names of a request's fields must be text", value=name, limit="JSON")
    return encode_basestring_ascii(name)


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise InputError("a number must be finite", value=value, limit="JSON")
    if value.is_integer():
        return str(int(value))
    # repr gives the shortest digits that mean this float; Decimal only moves the point.
    digits = repr(value)
    return format(Decimal(digits), "f") if "e" in digits else digits


def _shape(digest: bytes) -> str:
    # Base32 of the first 130 bits, as base64.b32encode writes it, in a quarter of the time.
    bits = int.from_bytes(digest[:17], "big") >> 6
    return _PREFIX + "".join([_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10)])
