"""What an answer holds, before its meaning is known: JSON, its wrappers, its error text.

Gateways put Kling's object into objects of their own and its errors into texts; this module
digs both out. It raises nothing: what can't be read is None or empty.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import TypeAlias

import attrs

from comet_async._wire import error_codes as codes
from comet_async.secret import redact

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Object: TypeAlias = "dict[str, JSON]"

# The deepest wrapper seen has the task at data.data.data.
_MAX_WRAPPERS = 8
# An error object has a dozen values, a page at most 500 tasks: bounds the work on a hostile body.
_MAX_VALUES = 256
MAX_ITEMS = 500
"""Most items of a list that are looked at."""

_MAX_MESSAGE = 2000


@attrs.frozen(kw_only=True)
class Reply:
    """A complete answer as it came over the wire.

    Attributes:
        status: HTTP status.
        headers: Headers by lower-case name.
        body: The body, decompressed. May hold signed URLs: not shown in ``repr``.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)


# Gateways that write JSON by hand leave line breaks in texts.
_DECODER = json.JSONDecoder(strict=False)


def parse(body: bytes | str) -> JSON:
    """Return the JSON in *body*, or None when there is none.

    A text in another encoding is not worth losing a paid task for: it is read as far as it goes.
    """
    try:
        value: JSON = _DECODER.decode(body if isinstance(body, str) else _decode(body))
    except (ValueError, RecursionError):  # broken, or nested too deep
        return None
    return value


def _decode(body: bytes) -> str:
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        return body.decode(encoding, "replace")


def unwrap(answer: JSON) -> tuple[list[Object], JSON]:
    """Follow ``data`` down to the nearest object that has a ``task_status``.

    Returns:
        The objects on the way, outermost first, and what ended it when that is no object.
    """
    chain: list[Object] = []
    while isinstance(answer, dict) and len(chain) < _MAX_WRAPPERS:
        chain.append(answer)
        if word(answer.get("task_status")):
            return chain, None
        answer = answer.get("data")
    return chain, answer


# ------------------------------------------------------------------------ single values

_SUCCESS = frozenset({"0", "200", "success", "succeed", "succeeded", "ok"})


def word(value: JSON) -> str:
    """Return *value* without spaces around it if it is text, else an empty text."""
    return value.strip() if isinstance(value, str) else ""


def text(value: JSON) -> str:
    """Return *value* as text if it is text or a whole number, else an empty text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return word(value)


def identifier(value: JSON) -> str | None:
    """Return *value* if it can be an id: short and printable. Numbers are taken as text.

    A float is not: beyond 2**53 it is another task's id.
    """
    if value is None:
        return None
    found = value.strip() if isinstance(value, str) else text(value)
    return found if found and len(found) <= 256 and found.isprintable() else None  # noqa: PLR2004 - longer than any id


# What can be put into the path of a request and comes back from the server unchanged.
_TASK_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9_.:=~@+-]+")


def task_identifier(value: JSON) -> str | None:
    """Return *value* if it can be the id of a task: one that can be asked for."""
    found = identifier(value)
    return found if found is not None and _TASK_ID.fullmatch(found) else None


def names_task(answer: JSON) -> bool:
    """Return True if *answer* names a task anywhere, by an id that may be unusable."""
    named = (found.get(key) for found in _objects(answer) for key in ("task_id", "taskId"))
    return any(value not in (None, "", 0, False) for value in named)


def says_success(value: JSON) -> bool:
    """Return True for 0, ``"0"``, 200 and the words for success, in any case."""
    return text(value).lower() in _SUCCESS


def error_code(value: JSON) -> int | str | None:
    """Return *value* as an error code, or None when it says success or nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = text(value)
    if not found or says_success(value):
        return None
    if re.fullmatch(r"-?[0-9]{1,9}", found):
        return int(found)
    return tidy(found, limit=64) or None


# ------------------------------------------------------------------------------- errors


@attrs.frozen(kw_only=True)
class Fault:
    """What an answer without a task says.

    Attributes:
        code: Its error code.
        message: Its text, as the server wrote it: `tidy` it before it is shown.
        request_id: Its id in the body.
        envelope: True when it is an error of the API's own, not a proxy's page.
    """

    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    envelope: bool = False


def _objects(answer: JSON) -> Iterator[Object]:
    """Yield the objects inside, outermost first, also those written out as a message."""
    queue = deque([answer])
    for _ in range(_MAX_VALUES):
        if not queue:
            return
        value = queue.popleft()
        if isinstance(value, dict):
            yield value
            message = word(value.get("message"))
            # new-api passes the upstream's whole body on as its message (fail_to_fetch_task).
            if message.startswith("{"):
                queue.append(parse(message))
            value = list(value.values())
        if isinstance(value, list):
            queue.extend(inner for inner in value[:_MAX_VALUES] if isinstance(inner, dict | list))


def _message(found: Object) -> str:
    error = found.get("error")
    for value in (found.get("message"), found.get("msg"), error):
        message = text(value)
        if message and message.lower() not in _SUCCESS and not message.startswith("{"):
            return message
    return ""


def read_fault(answer: JSON) -> Fault:
    """Return what *answer* says is wrong; the most telling code in it wins."""
    objects = list(_objects(answer))
    if not isinstance(answer, dict):
        return Fault()
    error = answer.get("error")
    likely = [error, answer] if isinstance(error, dict) else [answer]
    known = [found for found in objects if codes.is_known(error_code(found.get("code")))][:1]
    all_codes = [error_code(found.get("code")) for found in (*known, *likely)]
    code = next((code for code in all_codes if code is not None), None)
    message = next(filter(None, map(_message, (*known, *likely, *objects))), "")
    ids = filter(None, (identifier(found.get("request_id")) for found in objects))
    return Fault(
        code=code,
        message=message[:_MAX_MESSAGE],
        request_id=tidy(next(ids, ""), limit=80) or None,
        envelope=bool(known) or bool((code or message) and not says_success(answer.get("code"))),
    )


def id_in(message: str) -> str | None:
    """Return the id that CometAPI appends to its texts: ``(request id: …)``."""
    found = re.search(r"request id: ?([\w-]{8,80})", message, re.IGNORECASE | re.ASCII)
    return tidy(found[1]) if found else None


def header_id(headers: Mapping[str, str]) -> str | None:
    """Return the answer's id among its headers."""
    # CometAPI's own name, that of the gateway family it belongs to, and the usual one.
    for name in ("x-cometapi-request-id", "x-oneapi-request-id", "x-request-id"):
        if name in headers and (found := identifier(headers[name])):
            return tidy(found, limit=80)
    return None


def describe(reply: Reply, answer: JSON) -> str:
    """Return in a few words what came instead of a task."""
    start = reply.body[:4096].lstrip()
    if answer is not None:
        return "JSON without a task"
    if not start:
        return "an empty answer"
    if start.startswith(b"<"):
        title = re.search(rb"<title[^>]*>([^<]*)", start, re.IGNORECASE)
        name = tidy(title[1].decode("utf-8", "replace"), limit=80) if title else ""
        return f"a web page, {name!r}" if name else "a web page"
    return "JSON that breaks off" if start[:1] in (b"{", b"[") else "no JSON"


# -------------------------------------------------------------------------------- texts

_QUERY = re.compile(r"(\bhttps?://[^\s?\"'<>]+)\?[^\s\"'<>]+", re.IGNORECASE)
# Longer than any request id, and no word of any language: Base64, a hash, a token.
_LONG_RUN = re.compile(r"[A-Za-z0-9+/_-]{48,}={0,2}")


def tidy(message: str, *, limit: int = 160) -> str:
    """Return a server's text fit for an error: one line, short, without anything secret."""
    # What does not print could steer a terminal, or could not be written out at all.
    message = "".join(char if char.isprintable() else " " for char in message[:4096])
    message = redact(_QUERY.sub(r"\1?…", message))
    message = " ".join(_LONG_RUN.sub("…", message).split())
    return message if len(message) <= limit else f"{message[: limit - 1]}…"


# ------------------------------------------------------------------------------ headers

# A real limit lasts minutes. More than a day is a broken clock or a wrong default, and says
# nothing.
_ABSURD = 86_400.0


def retry_after(headers: Mapping[str, str], *, now: float | None) -> float | None:
    """Return the seconds that the server asks us to wait.

    Args:
        headers: Headers by lower-case name.
        now: The wall clock, for a ``Retry-After`` that is a date, if the answer has no ``Date``
            of its own to compare it with; None reads no dates.

    Returns:
        Seconds, at least 0 (a negative number or a date in the past means "now"). None when
        the server said nothing, and also when it is garbage or more than a day, which our own
        backoff does better. The waiting side puts a cap on it.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _plausible(milliseconds / 1000)
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is None and now is not None:
        moment, sent = _date(value), date_of(headers)
        seconds = None if moment is None else moment - (now if sent is None else sent)
    return None if seconds is None else _plausible(seconds)


def date_of(headers: Mapping[str, str]) -> float | None:
    """Return the server's wall clock when it answered, if the answer has a ``Date``."""
    return _date(headers.get("date", ""))


def _number(value: str) -> float | None:
    value = value.strip()
    return float(value) if re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?", value) else None


def _plausible(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds <= _ABSURD else None


def _date(value: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(value)
        # RFC 9110: a date without a zone is UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
