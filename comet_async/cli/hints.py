"""What the library's errors advise, in the words of the command line.

The library speaks of arguments (``prepare=True``, ``max_jobs``); commands have options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from comet_async.errors import CometError, ConfigError, InputError

OPTIONS: Mapping[str, str] = {
    "prepare": "--prepare",
    "prompt": "--prompt",
    "n": "-n",
    "concurrency": "--concurrency",
    "timeout": "--timeout",
    "settle": "--settle",
    "max_jobs": "--max-jobs",
    "max_spend": "--max-spend",
    "price": "--price",
    "retry_failed": "--retry-failed",
    "verify_remote": "--verify-remote",
    "checksum": "--checksum",
    "fresh": "--fresh",
    "proxy": "--proxy",
    "gateway": "--gateway",
    "up": "--up",
    "down": "--down",
    "left": "--left",
    "right": "--right",
    "size": "--size",
    "aspect": "--to",
    "anchor": "--anchor",
    "out": "--out",
    "journal": "--journal",
    "exclude": "--exclude",
    "include": "--include",
    "follow_links": "--follow-links",
    "at_once": "--at-once",
    "grace": "--grace",
    "priority": "--priority",
    "budget": "--budget",
}
"""The option for each argument of the library that an error may name as its field."""

_ADDRESSED = re.compile(r"Margins\(([a-z]+)=([0-9.]+)\)")
_ASSIGNED = re.compile(
    rf"\b({'|'.join(sorted(OPTIONS, key=len, reverse=True))})="
    r"(?:(True)\b|(?='?[\w.-]))?"
)
_NAMED = re.compile(rf"\b({'|'.join(name for name in OPTIONS if '_' in name)})\b")
_BY_ARGUMENT = "pass it as api_key, or "  # of a key that is empty
_FOUND = re.compile(r"find\('([^']+)'\)")
_MEASURING = "use CometSession.measure()"  # of an image that is a URL
_SIZE = re.compile(r"([0-9]+)x([0-9]+)")


def in_options(text: str) -> str:
    """Return *text* with options where it names arguments of the library."""
    text = text.replace(_MEASURING, "download it first").removeprefix(_BY_ARGUMENT)
    text = _ADDRESSED.sub(lambda found: f"{OPTIONS.get(found[1], found[1])} {found[2]}", text)
    text = _FOUND.sub(r"comet-async status \1", text)
    text = _ASSIGNED.sub(_option, text)
    return _NAMED.sub(lambda found: OPTIONS[found[1]], text)


def _option(found: re.Match[str]) -> str:
    option = OPTIONS[found[1]]
    follows = found.string[found.end() : found.end() + 1]
    return option if found[2] or follows in {"", " ", ")", ",", ";"} else f"{option} "


def message_of(error: CometError) -> str:
    """Return what happened, in the words of the command line."""
    field = error.field if isinstance(error, InputError) else ""
    text = error.message
    if field in OPTIONS and text.startswith(f"{field} "):
        text = OPTIONS[field] + text.removeprefix(field)
    return in_options(text)


def with_option(error: CometError) -> str | None:
    """Return the error's advice in the words of the command line, or None if there is none."""
    if isinstance(error, InputError):
        if error.field == "size" and (size := _SIZE.fullmatch(error.value or "")):
            return _other_shape(int(size[1]), int(size[2]))
        if error.hint is not None and (option := OPTIONS.get(error.field)):
            hint = in_options(error.hint)
            named = option in hint or option in message_of(error)
            return hint if named or error.field == "n" else f"{hint} ({option})"
    if isinstance(error, ConfigError) and error.field == "api_key" and error.limit == "":
        return f"{error.hint}: comet-async expand DIR --out OUT --to 16:9 --sandbox"
    return None if error.hint is None else in_options(error.hint)


def _other_shape(width: int, height: int) -> str:
    """Return what to do about a canvas of an impossible size: expand to its shape, then scale."""
    divisor = math.gcd(width, height) or 1
    shape = f"{width // divisor}:{height // divisor}"
    return f"expansion only adds around an image: use --to {shape}, and scale the result"
