"""The table of states and moves."""

from __future__ import annotations

import itertools

import pytest

from comet_async._journal.states import (
    ACCEPTED,
    FINAL,
    IN_DOUBT,
    IN_FLIGHT,
    LEFT_OVER,
    MEANINGS,
    MOVES,
    OPEN,
    JobState,
    check_move,
)
from comet_async.errors import JournalError

PAIRS = tuple(itertools.product((None, *JobState), JobState))
# What only a person, or proof that nothing was paid, may bring back to where it can be sent.
BACK_TO_PLANNED = {None, "sending", "unknown", "uncertain", "rejected"}


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_only_moves_of_the_table_pass(old: JobState | None, new: JobState) -> None:
    """Every pair of states is either a move of the table or an error that names both."""
    if (old, new) in MOVES:
        assert check_move(old, new).new is new
        return
    with pytest.raises(JournalError, match=f"from {old or 'nothing'} to {new}"):
        check_move(old, new)


def test_sending_is_entered_from_planned_only() -> None:
    """No state but `planned` leads to a paid request."""
    assert [old for old, new in MOVES if new is JobState.SENDING] == [JobState.PLANNED]


def test_planned_is_entered_with_proof_only() -> None:
    """Nothing that was accepted can ever be sent again."""
    assert {old for old, new in MOVES if new is JobState.PLANNED} == BACK_TO_PLANNED


def test_unpaid_moves_leave_what_was_sent() -> None:
    """Only a clear answer or a proof of absence takes a purchase back."""
    unpaid = {(move.old, move.new) for move in MOVES.values() if move.unpaid}
    assert unpaid == {("sending", "planned"), ("sending", "rejected"), ("unknown", "planned")}


def test_every_state_is_reached_and_explained() -> None:
    """No state is dead, and each has a meaning."""
    assert {new for _, new in MOVES} == set(JobState) == set(MEANINGS)


def test_open_and_final_share_all_states() -> None:
    """A run goes on with a state or leaves it; what is in flight it goes on with."""
    assert set(JobState) == OPEN | FINAL
    assert not OPEN & FINAL
    assert IN_FLIGHT < OPEN


def test_tags_are_numbered_without_gaps() -> None:
    """The moves are called T1, T2, … so that each has a place in the documentation."""
    tags = list(dict.fromkeys(move.tag for move in MOVES.values()))
    assert tags == [f"T{number}" for number in range(1, len(tags) + 1)]


def test_a_left_over_job_is_neither_new_nor_final() -> None:
    """What a run continues without its source: sent at some time, and not saved yet."""
    assert OPEN - {JobState.PLANNED, JobState.SENDING} == LEFT_OVER


def test_an_accepted_job_was_paid_or_may_have_been() -> None:
    """No state is both accepted and in doubt; all other states cost nothing."""
    assert not ACCEPTED & IN_DOUBT
    free = {JobState.PLANNED, JobState.SENDING, JobState.REJECTED, JobState.ABANDONED}
    assert set(JobState) - ACCEPTED - IN_DOUBT == free
