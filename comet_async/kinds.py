"""What all kinds of tasks share: a path, a request, and a body that streams its pictures.

A kind is one room of its own (`comet_async.expand` is the first): its path, the fields of
its request and their rules. Everything below and above knows only "a task of some kind".
At the end stand the rules that several kinds share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Protocol

import attrs

from comet_async.errors import InputError
from comet_async.images import ImageInput, Picture
from comet_async.keys import JSON

MAX_PROMPT = 2500
"""The longest prompt, in characters."""

MAX_N = 9
"""The most pictures that one task makes."""


@attrs.frozen(kw_only=True)
class TaskKind:
    """A kind of task: where it lives and what it costs.

    Attributes:
        name: Our word for it, as kept in the journal.
        path: The route below the gateway's prefix; create, query and list share it.
        price: List price in USD for one picture, if published; an estimate, never a bill.
    """

    name: str
    path: str
    price: Decimal | None = None


class TaskRequest(Protocol):
    """What a request of any kind offers to the rooms that send it."""

    kind: ClassVar[TaskKind]

    @property
    def n(self) -> int:
        """How many pictures are asked for (and held in flight)."""
        ...

    @property
    def external_task_id(self) -> str | None:
        """The caller's own id, or None to let the library choose."""
        ...

    @property
    def callback_url(self) -> str | None:
        """Where the server reports changes, or None."""
        ...

    def images(self) -> Mapping[str, ImageInput]:
        """Return the pictures to send, by JSON field."""
        ...

    def needless(self, pictures: Mapping[str, Picture]) -> bool:
        """Tell whether a picture already is what is asked for, so that nothing need be paid."""
        ...

    def fields(self, pictures: Mapping[str, Picture]) -> dict[str, JSON]:
        """Return all other fields that decide the result, checked.

        Args:
            pictures: The pictures of `images`, loaded, by JSON field.

        Raises:
            InputError: A field breaks a rule of the API.
        """
        ...


# Made once: json.dumps makes a new one for each text that is not written its own way.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@attrs.frozen
class Body:
    """A JSON object with holes for pictures, which are encoded while they are sent.

    Attributes:
        parts: JSON text and pictures, in order; a picture stands for its Base64 text.
    """

    parts: tuple[bytes | Picture, ...] = attrs.field(repr=False)

    @property
    def length(self) -> int:
        """Size of the whole body in bytes."""
        return sum(
            len(part) if isinstance(part, bytes) else 4 * -(-part.size // 3) for part in self.parts
        )

    @classmethod
    def build(cls, fields: Mapping[str, JSON], pictures: Mapping[str, Picture]) -> Body:
        """Return the body with *fields* and *pictures*; a picture that is a URL stays one."""
        urls = {name: picture.url for name, picture in pictures.items() if picture.url}
        text = _JSON.encode({**urls, **fields})
        parts: list[bytes | Picture] = []
        opening = b"{"
        for name, picture in pictures.items():
            if picture.url is None:
                parts += [opening + json.dumps(name).encode() + b':"', picture]
                opening = b'",'
        if not parts:
            return cls((text.encode(),))
        closing = b'"' if text == "{}" else b'",'
        return cls((*parts, closing + text[1:].encode()))


def checked(check: Callable[[object], object]) -> Callable[[Any, Any, Any], None]:
    """Return *check* as a validator of an attrs field.

    Validators, not converters: with a converter type checkers no longer see a plain field.
    """

    def validate(_request: object, _field: object, value: object) -> None:
        check(value)

    return validate


def check_n(n: object) -> int:
    """Return *n* if it is a whole number from 1 to 9.

    Raises:
        InputError: It is not.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_N:
        msg = f"n={n!r} must be a whole number from 1 to {MAX_N}"
        raise InputError(
            msg, field="n", value=n, limit=f"1 to {MAX_N}", hint=f"ask for 1 to {MAX_N} pictures"
        )
    return n


def check_prompt(prompt: object, *, field: str = "prompt") -> str | None:
    """Return *prompt* if the API takes it; an empty one counts as none.

    Raises:
        InputError: It is not text, or longer than 2500 characters.
    """
    if prompt is None or prompt == "":
        return None
    if not isinstance(prompt, str):
        msg = f"{field} must be text, not {type(prompt).__name__}"
        raise InputError(msg, field=field, value=prompt, limit="text")
    if len(prompt) > MAX_PROMPT:
        msg = f"{field} has {len(prompt)} characters; at most {MAX_PROMPT}"
        raise InputError(
            msg, field=field, value=prompt, limit=f"{MAX_PROMPT} characters", hint="shorten it"
        )
    return prompt


def check_text(value: object, *, field: str) -> str | None:
    """Return *value* if it is printable text of at most 255 characters; empty counts as none.

    Raises:
        InputError: It is not.
    """
    if value is None or value == "":
        return None
    limit = "printable text of at most 255 characters"
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():  # noqa: PLR2004
        msg = f"{field} must be {limit}"
        raise InputError(msg, field=field, value=value, limit=limit)
    return value


def check_own_id(value: object) -> str | None:
    """Return *value* if it can be an ``external_task_id``; empty counts as none.

    Raises:
        InputError: It is not printable text of at most 255 characters.
    """
    return check_text(value, field="external_task_id")
