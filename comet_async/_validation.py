"""Checks of arguments, shared by everything public: a field, its value, and the limit it breaks.

The functions ``check_…`` are called by functions; `number`, `flag` and `instance_of` are
validators for the fields of attrs classes.
"""

from __future__ import annotations

import asyncio
import math
import numbers
import os
import random
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Protocol, cast

from comet_async.errors import ConfigError, InputError

Validator = Callable[[Any, Any, Any], None]
"""What attrs calls with the object, the field and its value."""


class Field(Protocol):
    """The field of an attrs class that a validator gets."""

    name: str


# The limits of Linux, macOS and Windows for one name; that of Linux for a path, less a file's name.
_LONGEST_NAME = 255
_LONGEST_PATH = 4096 - 1 - _LONGEST_NAME

_PLAIN = (str, int, float, bool, bytes, type(None))


def shown(value: object) -> str:
    """Return *value* for a message: short, and nothing of a large or foreign object."""
    if isinstance(value, _PLAIN):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:59]}…"  # noqa: PLR2004 - fits on one line
    return f"<{type(value).__name__}>"


def wrong(field: str, value: object, limit: str, *, hint: str | None = None) -> InputError:
    """Return the error for a *value* that is not *limit* (such as "a positive number")."""
    plain = value if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"
    return InputError(
        f"{field}={shown(value)} is not {limit}", field=field, value=plain, limit=limit, hint=hint
    )


def check_number(
    field: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Refuse a *value* that is not a finite number within the limits; True is not a number.

    Raises:
        InputError: It is not.
    """
    size = _size(value, whole=whole)
    low = least is None or size >= least
    high = most is None or size <= most
    if not (math.isfinite(size) and low and high and (above is None or size > above)):
        raise wrong(field, value, _range(least=least, above=above, most=most, whole=whole))


# NumPy's numbers are numbers, too; Python's own come first because they are told at once.
_WHOLE = (int, numbers.Integral)
_NUMBERS = (int, float, numbers.Real)


def _size(value: object, *, whole: bool) -> float:
    """Return *value* as a float; NaN, which is not within any limits, if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, _WHOLE if whole else _NUMBERS):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _range(*, least: float | None, above: float | None, most: float | None, whole: bool) -> str:
    what = "a whole number" if whole else "a number"
    if least is not None and most is not None:
        return f"{what} from {least:g} to {most:g}"
    if least is not None:
        return f"{what} of at least {least:g}"
    if above is not None:
        return f"{what} above {above:g}" + ("" if most is None else f", at most {most:g}")
    return what if most is None else f"{what} of at most {most:g}"


def check_flag(field: str, value: object) -> None:
    """Refuse a *value* that is not True or False: "no" would count as yes.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, bool):
        raise wrong(field, value, "True or False")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a *value* that is not one of some words.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise wrong(field, value, "one of " + ", ".join(choices))


def check_instance(
    field: str,
    value: object,
    kinds: type | tuple[type, ...],
    limit: str,
    *,
    hint: str | None = None,
) -> None:
    """Refuse a *value* that is of none of the *kinds*, and so is not *limit*.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, kinds):
        raise wrong(field, value, limit, hint=hint)


def check_several(field: str, value: object, limit: str) -> None:
    """Refuse a *value* that can't be iterated over; text is one thing, not its letters.

    Raises:
        InputError: It can't.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable | AsyncIterable):
        raise wrong(field, value, limit)


def check_call(field: str, value: object) -> None:
    """Refuse a *value* that can't be called, or must be awaited; None means nothing to call.

    Raises:
        InputError: It can't, or what it would do would never happen.
    """
    if value is None:
        return
    if not callable(value):
        raise wrong(field, value, "a function")
    if iscoroutinefunction(value) or iscoroutinefunction(type(value).__call__):
        hint = "it is called, and not awaited: start a task in it"
        raise wrong(field, value, "a function without async", hint=hint)


def check_path(field: str, value: object) -> None:
    """Refuse a *value* that can't be the path of a file or a folder.

    Raises:
        InputError: It is not text or an object with a path, is empty, or can't be a name.
    """
    limit = "a path: text that is not empty, or a Path"
    if not isinstance(value, str | os.PathLike):
        raise wrong(field, value, limit)
    text: object = os.fspath(value)
    if not isinstance(text, str) or not text or not can_be_a_name(text):
        raise wrong(field, text, limit)


def can_be_a_name(text: str) -> bool:
    """Return False if no file system can hold *text*: it has a NUL, or half a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def check_writable_path(field: str, value: object) -> None:
    """Refuse a *value* that can't be the path of a file or a folder to write; see `check_path`.

    Raises:
        InputError: It is not a path, or is longer than file systems accept.
    """
    check_path(field, value)
    text = os.fspath(cast("str | os.PathLike[str]", value))
    size = _bytes(text)
    if size <= _LONGEST_NAME or "://" in text:
        return  # no name in it is longer than all of it; or it is an address in a store
    longest = max((_bytes(name) for name in Path(text).parts), default=0)
    if longest > _LONGEST_NAME or size > _LONGEST_PATH:
        limit = f"a path of at most {_LONGEST_PATH} bytes, with names of at most {_LONGEST_NAME}"
        raise wrong(field, text, limit, hint="choose a shorter one")


def check_journal_path(field: str, value: object) -> None:
    """Refuse a *value* that can't be the path of a journal; see `check_writable_path`.

    Raises:
        InputError: It is not a path, or it is a name that means something other than a file to
            SQLite; as a path it would become a file in the working folder, and remember what a test
            has bought.
    """
    check_writable_path(field, value)
    if value == ":memory:" or (isinstance(value, str) and value.startswith("file:")):
        hint = "leave journal= out for a memory that ends with the session"
        raise wrong(field, value, "the path of a file", hint=hint)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def check_offers(field: str, value: object, names: Sequence[str], limit: str) -> None:
    """Refuse a *value* that lacks one of the attributes in *names*, and so is not *limit*.

    Raises:
        InputError: It lacks one.
    """
    if not all(hasattr(value, name) for name in names):
        raise wrong(field, value, limit)


def check_callbacks(value: object) -> None:
    """Refuse what can't say when callbacks come; None means that none do.

    Raises:
        InputError: It can't.
    """
    if value is not None:
        names = ("subscribe", "last_notification")
        check_offers("callbacks", value, names, "a CallbackReceiver")


def check_clock(value: object) -> None:
    """Refuse what is not a clock.

    Raises:
        InputError: It is not.
    """
    check_offers("clock", value, ("time", "monotonic", "sleep"), "a clock")


def check_rng(value: object) -> None:
    """Refuse what is not a source of randomness; None means the usual one.

    Raises:
        InputError: It is not.
    """
    if value is not None and not isinstance(value, random.Random):
        raise wrong("rng", value, "a random.Random")


def check_text(field: str, value: object, *, empty: bool = False) -> None:
    """Refuse a *value* that is not text, or is empty unless *empty* text is allowed.

    Raises:
        InputError: It is not text, or empty.
    """
    if not isinstance(value, str):
        raise wrong(field, value, "text")
    if not value and not empty:
        raise InputError(f"{field} is empty", field=field, value=value, limit="some text")


DOTS = frozenset({".", ".."})
"""What leads to another route when it ends a URL, even percent-encoded (RFC 3986, 5.2.4)."""


def check_id(field: str, value: object) -> None:
    """Refuse a *value* that can't be an id on the server: it goes into a URL.

    Raises:
        InputError: It is not text, not valid Unicode, empty, or one that leads elsewhere in a URL.
    """
    check_text(field, value)
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise wrong(field, value, "valid Unicode")
    if value in DOTS:
        raise wrong(field, value, "more than one or two dots")


def number(
    *, least: float | None = None, above: float | None = None, whole: bool = False
) -> Validator:
    """Return a validator; see `check_number`."""

    def validate(_owner: object, field: Field, value: object) -> None:
        check_number(field.name, value, least=least, above=above, whole=whole)

    return validate


def flag(_owner: object, field: Field, value: Any) -> None:  # noqa: ANN401 - any field's
    """Validate a field that is True or False."""
    check_flag(field.name, value)


def text(_owner: object, field: Field, value: Any) -> None:  # noqa: ANN401 - any field's
    """Validate a field that is text."""
    check_text(field.name, value)


def instance_of(*kinds: type | None) -> Validator:
    """Return a validator for a field that holds one of *kinds*; None allows None."""
    classes = tuple(kind for kind in kinds if kind is not None)
    limit = " or ".join(kind.__name__ if kind is not None else "None" for kind in kinds)

    def validate(_owner: object, field: Field, value: object) -> None:
        if not isinstance(value, classes) and not (value is None and None in kinds):
            raise wrong(field.name, value, limit)

    return validate


def check_timeout(timeout: object) -> None:
    """Refuse a *timeout* that can't be one, before anything is paid for it.

    Raises:
        InputError: It is neither None nor a number of at least 0.
    """
    if timeout is not None and timeout != math.inf:
        check_number("timeout", timeout, least=0)


def check_event_loop() -> asyncio.AbstractEventLoop:
    """Return the running asyncio event loop; refuse to work without one, as under trio.

    Raises:
        ConfigError: None is running.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "no asyncio event loop is running",
            hint="use it in a coroutine that asyncio runs; under anyio choose the asyncio "
            "backend: trio is not supported",
        ) from None


def check_concurrency(value: int) -> int:
    """Return *value* if it is a whole number of at least 1.

    Raises:
        InputError: It is not.
    """
    check_number("concurrency", value, least=1, whole=True)
    return value
