"""A holder for keys, and the redaction that keeps them out of every text.

Nothing that prints, logs, pickles or copies a `Secret` shows what it holds; only
`Secret.reveal` does, at the one place where a request is signed.
"""

from __future__ import annotations

import hmac
import logging
import re
from typing import NoReturn, final

from comet_async.errors import ConfigError

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
    (re.compile(rf"(?i)([?&](?:{_SIGNED})=)[^&\s\"']+"), r"\1…"),
    (re.compile(rf"[A-Za-z0-9+/_-]{{{_LONG},}}={{0,2}}"), "(base64 …)"),
)


SHORTEST = 8
"""A shorter key is no secret, and removing it would empty every text."""


@final
class Secret:
    """A key that does not show itself.

    Args:
        value: The key. Spaces and a byte-order mark around it are trimmed.

    Raises:
        ConfigError: It is empty, or holds a space, a line break or another control
            character inside (which could smuggle a header).
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        trimmed = value.strip(" \t\ufeff")
        if not trimmed:
            msg = "the API key is empty"
            raise ConfigError(msg, hint="set COMETAPI_KEY, or give api_key")
        if not all("!" <= character <= "~" for character in trimmed):
            msg = "the API key holds a space, a line break or a character outside ASCII"
            raise ConfigError(msg, hint="copy the key again, without line breaks")
        self.__value = trimmed

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


def redact(text: str, *secrets: Secret) -> str:
    """Return *text* without keys, tokens, signed query strings and long Base64 runs."""
    for secret in secrets:
        if len(secret.reveal()) >= SHORTEST:
            text = text.replace(secret.reveal(), "…")
    if len(text) < _LONG and text.isalnum():
        return text  # every pattern but the last needs a space or a sign
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


_TRACEBACKS = logging.Formatter()


class RedactingFilter(logging.Filter):
    """A logging filter that redacts each record's final text and traceback; it drops nothing.

    Args:
        secrets: Keys to remove wherever they stand, besides all that looks like one.
    """

    def __init__(self, *secrets: Secret) -> None:
        super().__init__()
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
