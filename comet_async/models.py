"""What the server tells about a task, as frozen facts.

Nothing here changes under its holder: each answer makes a new snapshot. Words and shapes
follow Kling's "Image expansion" page,
https://klingai.com/document-api/api/image/common/outpainting.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs


class TaskStatus(enum.StrEnum):
    """The states a task goes through; a new word of the server's stays plain text."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"

    @classmethod
    def parse(cls, word: str) -> TaskStatus | str:
        """Return the state that *word* means on any gateway, or *word* itself if unknown.

        Gateways say the same in other words (``SUCCESS``, ``IN_PROGRESS``, …), in any case.
        """
        return _WORDS.get(word.strip().lower(), word)

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
        "failed": TaskStatus.FAILED,
        "failure": TaskStatus.FAILED,
    }
)
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
        task_id: The task that made it, so that a link that expired can be asked for again.
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
        created_at: When the server took it (aware UTC), if told.
        updated_at: When it last changed (aware UTC), if told.
        units: What the server says it charged, in its own units, if told.
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
        """True when nothing will change any more."""
        return self.status == _SUCCEED or self.status == _FAILED  # noqa: PLR1714 - a set would hash

    @property
    def succeeded(self) -> bool:
        """True when the images are there."""
        return self.status == _SUCCEED

    @property
    def failed(self) -> bool:
        """True when the task ended without images."""
        return self.status == _FAILED

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
        """True when no page follows; the server gives no total, so a short page tells."""
        return len(self.tasks) < self.size
