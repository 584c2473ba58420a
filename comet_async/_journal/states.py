"""The states of a paid job, and the only moves between them.

The table `MOVES` is the protocol: whatever writes a state calls `check_move` first, the
documentation prints the table, and the tests walk through it. Each move has a tag (T1, T2, …)
by which tests name the moment of its commit.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from comet_async.errors import JournalError


class JobState(enum.StrEnum):
    """The state of a job, in the words that the journal holds."""

    PLANNED = "planned"
    SENDING = "sending"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    UNCERTAIN = "uncertain"
    REJECTED = "rejected"
    SUCCEEDED = "succeeded"
    SAVING = "saving"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    STRANDED = "stranded"
    ABANDONED = "abandoned"


_S = JobState

MEANINGS: Mapping[JobState, str] = MappingProxyType(
    {
        _S.PLANNED: "Recorded, but not sent and not paid.",
        _S.SENDING: "The paid request is on its way.",
        _S.SUBMITTED: "Accepted and paid; the server is working on it.",
        _S.UNKNOWN: "The answer to the paid request was lost; it is being looked up.",
        _S.UNCERTAIN: "Whether it was paid can't be determined; you decide.",
        _S.REJECTED: "The server refused the request; nothing was paid.",
        _S.SUCCEEDED: "The images are ready on the server.",
        _S.SAVING: "The images are here under temporary names.",
        _S.DONE: "The images are saved.",
        _S.FAILED: "The server tried and failed.",
        _S.EXPIRED: "Paid and finished, but the server has cleared the images.",
        _S.STRANDED: "Paid, but the server no longer shows the task; polled again later.",
        _S.ABANDONED: "You abandoned it.",
    }
)

IN_FLIGHT = frozenset({_S.SENDING, _S.UNKNOWN, _S.UNCERTAIN, _S.SUBMITTED})
"""States that may occupy a slot in the account's quota of images in flight."""

FINAL = frozenset({_S.DONE, _S.REJECTED, _S.FAILED, _S.EXPIRED, _S.ABANDONED})
"""States that a run leaves as they are, unless an option says otherwise or a file is missing."""

OPEN = frozenset(JobState) - FINAL
"""States that the next run continues."""

IN_DOUBT = frozenset({_S.UNKNOWN, _S.UNCERTAIN})
"""States in which it is not known whether the request was accepted."""

ACCEPTED = frozenset(
    {_S.SUBMITTED, _S.STRANDED, _S.SUCCEEDED, _S.SAVING, _S.DONE, _S.FAILED, _S.EXPIRED}
)
"""States in which the server has accepted the request, so that a task is known."""

BILLED = ACCEPTED - {_S.FAILED}
"""States of jobs that were billed; failed tasks are not, as a rule: see `is_billed`."""

READY = frozenset({_S.SUCCEEDED, _S.SAVING, _S.DONE})
"""States in which the result exists: on the server, here, or both."""

WITHOUT_RESULT = frozenset({_S.FAILED, _S.EXPIRED})
"""States in which an accepted task gave no result that can still be had."""

ON_SERVER = READY | {_S.SUBMITTED, _S.FAILED}
"""States in which a lookup should find the task, so that it can serve as a control."""

LEFT_OVER = IN_DOUBT | ACCEPTED - FINAL
"""States of jobs that were sent and whose result has not been saved yet."""


@attrs.frozen
class Move:
    """One legal move.

    Attributes:
        tag: Its number, "T1" and on; several moves of the same sense share one.
        old: The state that it leaves; None for a job's first.
        new: The state that it enters.
        why: When it is made.
        unpaid: True when it proves that the request sent last was not paid.
    """

    tag: str
    old: JobState | None
    new: JobState
    why: str
    unpaid: bool = attrs.field(default=False, kw_only=True)


_ALL = (
    Move("T1", None, _S.PLANNED, "the image was read and its key computed"),
    Move("T2", _S.PLANNED, _S.SENDING, "before the first byte of the paid request leaves"),
    Move("T3", _S.SENDING, _S.SUBMITTED, "the server answered with a task id"),
    Move("T4", _S.SENDING, _S.PLANNED, "provably not accepted; may be sent again", unpaid=True),
    Move("T5", _S.SENDING, _S.REJECTED, "the server refused it for good", unpaid=True),
    Move("T6", _S.SENDING, _S.UNKNOWN, "the answer was lost, or the process that sent it ended"),
    Move("T7", _S.UNKNOWN, _S.SUBMITTED, "a lookup or a callback found the task"),
    Move("T8", _S.UNKNOWN, _S.PLANNED, "proven absent after the settle time", unpaid=True),
    Move("T9", _S.UNKNOWN, _S.UNCERTAIN, "no available lookup can answer"),
    Move("T10", _S.UNCERTAIN, _S.SUBMITTED, "a lookup, a callback or you named the task"),
    Move("T11", _S.SUBMITTED, _S.SUCCEEDED, "the server says so"),
    Move("T11", _S.SUBMITTED, _S.FAILED, "the server says so"),
    Move("T12", _S.SUCCEEDED, _S.SAVING, "the files are on the disk under temporary names"),
    Move("T13", _S.SAVING, _S.DONE, "the files have their names and the folder is on the disk"),
    Move("T14", _S.UNCERTAIN, _S.PLANNED, "you ask to send it again, at the risk of paying twice"),
    Move("T14", _S.UNCERTAIN, _S.ABANDONED, "you abandon it"),
    Move("T15", _S.UNCERTAIN, _S.UNKNOWN, "looked up again, which is free, at every start"),
    Move("T16", _S.SUBMITTED, _S.STRANDED, "the server no longer knows the task"),
    Move("T17", _S.STRANDED, _S.SUBMITTED, "polled again, which is free"),
    Move("T18", _S.SUCCEEDED, _S.EXPIRED, "the server has cleared the images"),
    Move("T19", _S.DONE, _S.SUCCEEDED, "a file is missing: fetched again, which is free"),
    Move("T20", _S.SAVING, _S.SUCCEEDED, "a file is missing or differs: fetched again"),
    Move("T21", _S.REJECTED, _S.PLANNED, "you run it again after fixing the cause"),
    Move("T22", _S.PLANNED, _S.SUBMITTED, "found on the server: an earlier journal was lost"),
)

MOVES: Mapping[tuple[JobState | None, JobState], Move] = MappingProxyType(
    {(move.old, move.new): move for move in _ALL}
)
"""All legal moves, by the state left (None for no job yet) and the state entered."""


def check_move(old: JobState | None, new: JobState) -> Move:
    """Return the move from *old* (None: no job yet) to *new*.

    Raises:
        JournalError: The protocol has no such move.
    """
    move = MOVES.get((old, new))
    if move is None:
        raise JournalError(f"a job can't go from {old or 'nothing'} to {new}")
    return move
