"""The table of states and moves."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from comet_async._journal.states import (
    FINAL,
    IN_FLIGHT,
    MEANINGS,
    MOVES,
    OPEN,
    JobState,
    as_markdown,
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


def test_the_documentation_prints_the_table() -> None:
    """The tables in the documentation are those of the code."""
    page = Path(__file__).parents[2] / "docs" / "guides" / "journal.md"
    assert as_markdown() in page.read_text("utf-8")
