"""Texts that PostgreSQL can't hold, written so that it can.

File names and servers' words may hold NUL or lone surrogates. Such a character, and the mark
itself, becomes the mark and four hexadecimal digits; all other texts stay as they are.
"""

from __future__ import annotations

import re

_MARK = "\ue000"  # for private use; hardly anybody's text holds it
_BAD = re.compile(f"[\0\ud800-\udfff{_MARK}]")
_ESCAPED = re.compile(f"{_MARK}([0-9a-f]{{4}})")


def encode(text: str) -> str:
    """Return *text* as PostgreSQL can hold it."""
    if text.isascii() and "\0" not in text:
        return str(text)  # a plain one: a member of an enumeration would be written by its name
    return _BAD.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def decode(text: str) -> str:
    """Return what `encode` was given."""
    if _MARK not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
