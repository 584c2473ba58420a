"""`Secret` holds a key without showing it; `redact` keeps keys out of every text.

Nothing that prints, logs, pickles or copies a `Secret` shows what it holds; only
`Secret.reveal` does, at the one place where a request is signed.
"""

from __future__ import annotations

import hmac
import logging
import re
from typing import NoReturn, final

from comet_async.errors import ConfigError, InputError

# Names under which storage services sign an address: X-Amz-Signature, AWSAccessKeyId, sig, …
_SIGNED = (
    r"[\w.-]{0,40}(?:key|token|sign|secret|auth|credential|policy|expires)[\w.-]{0,40}"
    r"|sig|x-[a-z-]*"
)
_LONG = 200
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]+"), r"\1 …"),
    (re.compile(r"(?<![A-Za-z0-9])sk-[\w-]{4,}"), "sk-…"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "jwt-…"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_…"),
    (re.compile(r"(://[^\s/@:]*:)[^\s/@]+@"), r"\1…@"),
    (re.compile(rf"(?i)([?&](?:{_SIGNED})=)[^&\s\"']+"), r"\1…"),
    (re.compile(rf"[A-Za-z0-9+/_-]{{{_LONG},}}={{0,2}}"), "(base64 …)"),
)


SHORTEST = 8
"""Shorter keys are not removed from texts: every text would lose its words."""

QUOTES = "\"'`\u2018\u2019\u201c\u201d"
"""What a key neither begins nor ends with."""


@final
class Secret:
    """A key that is not in its own ``repr`` or ``str``: only `reveal` returns it.

    Args:
        value: The key. Spaces and a byte-order mark around it are trimmed.
        name: What to call it in errors.

    Raises:
        ConfigError: It is empty, in quotes, or has a space, a line break or another character
            in it that a key can't have (and that could smuggle a header); or *name* is not text.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str, *, name: str = "the API key") -> None:
        problem = _problem_of(value, name)
        if problem is not None:
            del value  # a frame's variables end up in error reports
            raise problem
        self.__value = value.strip(_TRIMMED)

    def reveal(self) -> str:
        """Return the key itself."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret('…')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.reveal())

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __reduce__(self) -> NoReturn:
        msg = "a Secret can't be pickled or copied; read the key again where it is needed"
        raise TypeError(msg)


_TRIMMED = " \t\ufeff"


def _is_secret(value: object) -> bool:
    return isinstance(value, Secret)


def _problem_of(value: object, name: object) -> ConfigError | None:
    """Return why *value* can't be a key, without showing it."""
    if not isinstance(name, str) or not name:
        return ConfigError("the name of a key must be text", field="name", limit="text")
    limit = "printable ASCII without spaces or quotes"
    if not isinstance(value, str):
        kind = type(value).__name__
        return ConfigError(f"{name} is {kind}, not text", field="key", value=kind, limit="text")
    trimmed = value.strip(_TRIMMED)
    reason, hint = None, "copy it again as it is"
    if not trimmed:
        reason, hint = "is empty", "pass it as api_key, or set COMETAPI_KEY"
    elif trimmed[0] in QUOTES or trimmed[-1] in QUOTES:
        reason = "is in quotes"
        hint = "remove them: docker's env files, for one, keep quotes as part of the value"
    elif "\n" in trimmed or "\r" in trimmed:
        reason, hint = "has a line break in it", "copy it again, without line breaks"
    elif " " in trimmed or "\t" in trimmed:
        reason, hint = "has a space in it", "copy it again, without spaces"
    elif not all("!" <= character <= "~" for character in trimmed):
        reason = "has a character in it that is not printable ASCII"
    if reason is None:
        return None
    return ConfigError(f"{name} {reason}", field="key", limit=limit, hint=hint)


def redact(text: str, *secrets: Secret) -> str:
    """Return *text* without keys, tokens, signed query strings and long Base64 runs."""
    for secret in secrets:
        if len(secret.reveal()) >= SHORTEST:
            text = text.replace(secret.reveal(), "…")
    if not text or (len(text) < _LONG and text.isalnum()):
        return text  # every pattern but the last needs a space or a sign
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def repr_redacted(text: str) -> str:
    """Return the ``repr`` of a source's name, which may be a signed URL."""
    return repr(redact(text))


_TRACEBACKS = logging.Formatter()


class RedactingFilter(logging.Filter):
    """A logging filter that redacts each record's final text and traceback; it drops nothing.

    Args:
        secrets: Keys to remove wherever they occur, in addition to all that looks like one.

    Raises:
        InputError: One is not a `Secret`.
    """

    def __init__(self, *secrets: Secret) -> None:
        super().__init__()
        if not all(map(_is_secret, secrets)):
            raise InputError("secrets must be Secrets", field="secrets", limit="a Secret each")
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact *record* in place and keep it."""
        record.msg = redact(record.getMessage(), *self._secrets)
        record.args = None
        if record.exc_info:
            # Formatters take this text instead of making their own.
            trace = _TRACEBACKS.formatException(record.exc_info)
            record.exc_text = redact(trace, *self._secrets)
        return True
