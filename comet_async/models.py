"""Tasks: their kinds, and what the server says about them and the account, as frozen facts.

Nothing here changes under its holder: each answer makes a new snapshot. Words and shapes
follow Kling's "Image expansion" page,
https://klingai.com/document-api/api/image/common/outpainting.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from comet_async._validation import DOTS, text, wrong

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
"""What JSON can hold. Type checkers take bytes for a sequence; they are refused at run time."""


def _check_route(_owner: object, _field: object, value: Any) -> None:  # noqa: ANN401 - any field's
    good = isinstance(value, str) and value and not value.startswith("/")
    if not good or not DOTS.isdisjoint(value.split("/")):  # dots would lead to another route
        raise wrong("path", value, "a route such as images/generations")


def _check_list_price(_owner: object, _field: object, value: Any) -> None:  # noqa: ANN401 - as above
    if value is not None and not (isinstance(value, Decimal) and value.is_finite() and value >= 0):
        raise wrong("price", value, "a Decimal of at least 0, or None")


@attrs.frozen(kw_only=True)
class TaskKind:
    """A kind of task: where it lives and what it costs.

    ``EXPAND`` is image expansion, ``GENERATION`` makes images from text, and ``TRY_ON`` puts a
    garment on a person.

    Attributes:
        name: Our word for it, as kept in the journal.
        path: The route below the gateway's prefix; create, query and list share it.
        price: List price in USD for one image, if published; an estimate, never a bill.

    Raises:
        InputError: A value can't be used.
    """

    name: str = attrs.field(validator=text)
    path: str = attrs.field(validator=_check_route)
    price: Decimal | None = attrs.field(default=None, validator=_check_list_price)


class TaskStatus(enum.StrEnum):
    """The states a task goes through; a status that is new to the library stays plain text."""

    SUBMITTED = "submitted"
    """Accepted and billed; the server has not begun."""
    PROCESSING = "processing"
    """The server is working on it."""
    SUCCEED = "succeed"
    """Ended with images."""
    FAILED = "failed"
    """Ended without images."""

    @classmethod
    def parse(cls, word: str) -> TaskStatus | str:
        """Return the state that *word* means on any gateway, or *word* itself if unknown.

        Gateways use other words for the same states (``SUCCESS``, ``IN_PROGRESS``, …), in any
        case, and name the ways in which a task fails (``canceled``, ``TIMED_OUT``, …).
        """
        known = _WORDS.get(word.strip().lower())
        if known is not None:
            return known
        return cls.FAILED if _names_a_failure(word) else word

    @property
    def rank(self) -> int:
        """Position on the way from submission (0) to the end (2)."""
        return _RANKS[self]


# Kling's own words, those of its newer API, and those of the new-api gateway family
# (https://github.com/QuantumNous/new-api, dto/task.go).
_WORDS: Mapping[str, TaskStatus] = MappingProxyType(
    {
        "submitted": TaskStatus.SUBMITTED,
        "queued": TaskStatus.SUBMITTED,
        "not_start": TaskStatus.SUBMITTED,
        "pending": TaskStatus.SUBMITTED,
        "processing": TaskStatus.PROCESSING,
        "in_progress": TaskStatus.PROCESSING,
        "running": TaskStatus.PROCESSING,
        "succeed": TaskStatus.SUCCEED,
        "succeeded": TaskStatus.SUCCEED,
        "success": TaskStatus.SUCCEED,
        "completed": TaskStatus.SUCCEED,
        "complete": TaskStatus.SUCCEED,
        "done": TaskStatus.SUCCEED,
        "finished": TaskStatus.SUCCEED,
        "failed": TaskStatus.FAILED,
        "failure": TaskStatus.FAILED,
    }
)
# The families of words for a task that ended without a result, and the words beside them that
# say that it has not ended: "cancel_requested" and "error_retrying" are not failures.
_FAILURE = re.compile(
    r"cancel(?:l?ed|lation|s)?|abort(?:ed|s)?|expire[ds]?|expir(?:y|ation)|timeout"
    r"|reject(?:ed|ion|s)?|error(?:ed|s)?|fail(?:ed|ure|s)?"
)
_UNDERWAY = re.compile(r"\w+ing|request(?:ed)?|retr(?:y|ies)|queued|wait|no|not|non|without")


def _names_a_failure(word: str) -> bool:
    """Return True if *word* belongs to one of the families above, such as ``CANCELED_BY_USER``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word[:64]).lower()
    parts = re.split(r"[^a-z]+", re.sub(r"(?<![a-z])time[ds]?[ _-]?out", "timeout", spaced))
    if any(_UNDERWAY.fullmatch(part) for part in parts):
        return False
    return any(_FAILURE.fullmatch(part) for part in parts)


_RANKS: Mapping[TaskStatus, int] = MappingProxyType(
    {
        TaskStatus.SUBMITTED: 0,
        TaskStatus.PROCESSING: 1,
        TaskStatus.SUCCEED: 2,
        TaskStatus.FAILED: 2,
    }
)
# An enumeration's members are looked up in Python, and each answer asks for these.
_SUCCEED, _FAILED = TaskStatus.SUCCEED, TaskStatus.FAILED


@attrs.frozen(kw_only=True)
class ResultImage:
    """One image of a finished task.

    Attributes:
        index: Position among the task's images, from 0.
        url: Where the image is, for about 30 days. Signed: not shown in ``repr``.
        watermark_url: The watermarked version, if one was asked for.
        task_id: The task that made it, so that an expired link can be renewed.
        kind: The task's kind.
    """

    index: int
    url: str = attrs.field(repr=False)
    watermark_url: str | None = attrs.field(default=None, repr=False)
    task_id: str = ""
    kind: str = "expand"


def _read_only(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw if isinstance(raw, MappingProxyType) else MappingProxyType(dict(raw))


@attrs.frozen(kw_only=True)
class Task:
    """A snapshot of one task.

    Attributes:
        id: The server's id; opaque text.
        status: A `TaskStatus`, or the server's own word if it is a new one.
        message: Why it failed; empty otherwise.
        external_task_id: Our own id of the task, if the server echoes it.
        images: The images of a task that succeeded, by index.
        created_at: When the server accepted it (aware UTC), if known.
        updated_at: When it last changed (aware UTC), if known.
        units: What the server says it charged, in its own units, if known.
        kind: The kind of task: ``"expand"`` and others.
        request_id: The id of the answer, for the provider's support.
        raw: The server's own object, read-only. Holds signed URLs: not shown in ``repr``.
    """

    id: str
    status: TaskStatus | str
    message: str = ""
    external_task_id: str | None = None
    images: tuple[ResultImage, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    units: Decimal | None = None
    kind: str = "expand"
    request_id: str | None = attrs.field(default=None, eq=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only, repr=False, eq=False)

    @property
    def done(self) -> bool:
        """True when the task has ended, whether it succeeded or failed."""
        return self.status == _SUCCEED or self.status == _FAILED  # noqa: PLR1714 - a set would hash

    @property
    def succeeded(self) -> bool:
        """True when the images are there."""
        return self.status == _SUCCEED

    @property
    def failed(self) -> bool:
        """True when the task ended without images."""
        return self.status == _FAILED

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as a dictionary for JSON, without ``raw``.

        Its keys are the attributes' names. Times are text in ISO 8601, ``units`` are text,
        too. Its URLs are signed: anyone who has them can fetch the images.
        """
        names = ("id", "status", "message", "external_task_id", "kind", "request_id")
        moments = {"created_at": self.created_at, "updated_at": self.updated_at}
        return {
            **{name: getattr(self, name) for name in names},
            "status": str(self.status),
            "images": [
                {"index": each.index, "url": each.url, "watermark_url": each.watermark_url}
                for each in self.images
            ],
            **{name: value and value.isoformat() for name, value in moments.items()},
            "units": None if self.units is None else str(self.units),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles: a read-only mapping does not."""
        state = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return state | {"raw": dict(self.raw)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled snapshot."""
        for name, value in state.items():
            object.__setattr__(self, name, _read_only(value) if name == "raw" else value)


@attrs.frozen(kw_only=True)
class TaskPage:
    """One page of the server's list of tasks.

    Attributes:
        tasks: The tasks, in the server's order.
        number: The page's number, from 1.
        size: How many were asked for.
    """

    tasks: tuple[Task, ...]
    number: int
    size: int

    @property
    def last(self) -> bool:
        """True when no page follows; the server gives no total, so a short page is the last."""
        return len(self.tasks) < self.size


@attrs.frozen(kw_only=True)
class Balance:
    """What remains in an account.

    Attributes:
        remaining: The amount; None when there is no limit.
        unit: ``USD``, or ``units`` (Kling; 8 units are one expanded image).
    """

    remaining: Decimal | None
    unit: str

    def __str__(self) -> str:
        if self.remaining is None:
            return "no limit"
        return (
            f"USD {self.remaining:.2f}"
            if self.unit == "USD"
            else f"{self.remaining:.0f} {self.unit}"
        )
