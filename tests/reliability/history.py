"""The history checker: an account book and a journal, held against each other.

It is told nothing about what went wrong in between. Its own test plants faults in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from comet_async._journal.records import JobRecord, JournalEvent
from comet_async._journal.states import JobState, check_move
from comet_async.errors import JournalError

_UNPAID = frozenset({JobState.PLANNED, JobState.REJECTED})
_WITH_TASK = frozenset(
    {JobState.SUBMITTED, JobState.SUCCEEDED, JobState.SAVING, JobState.DONE, JobState.STRANDED}
)


class Charge(Protocol):
    """What a provider says it charged."""

    @property
    def external_task_id(self) -> str:
        """Our own id."""
        ...

    @property
    def task_id(self) -> str:
        """The provider's id."""
        ...


def problems(
    charges: Sequence[Charge],
    posts: Iterable[str],
    records: Iterable[JobRecord],
    events: Iterable[JournalEvent],
) -> list[str]:
    """Return what is wrong, one sentence each; an empty list when nothing is.

    Args:
        charges: What the provider charged, in order.
        posts: The external ids of the paid requests that reached it, in order.
        records: All jobs of the journal, after the world has come to rest.
        events: All moves of the journal, in order.
    """
    known = {record.key: record for record in records}
    found = [
        f"I1: {key} was charged {times} times"
        for key, times in Counter(charge.external_task_id for charge in charges).items()
        if times > 1
    ]
    for charge in charges:
        record = known.get(charge.external_task_id)
        if record is None:
            found.append(f"I2: {charge.task_id} was charged and the journal does not know its key")
        elif record.state in _UNPAID:
            found.append(f"I2: {charge.task_id} was charged and its job is {record.state}")
    return found + _false_claims(charges, known) + _lawless(posts, events)


def _false_claims(charges: Sequence[Charge], known: dict[str, JobRecord]) -> list[str]:
    made = {(charge.external_task_id, charge.task_id) for charge in charges}
    return [
        f"{record.key} is {record.state} with task {record.task_id}, which is not its own"
        for record in known.values()
        if record.state in _WITH_TASK and (record.key, record.task_id) not in made
    ]


def _lawless(posts: Iterable[str], events: Iterable[JournalEvent]) -> list[str]:
    """Return moves that the protocol does not have, and requests that no `sending` announced."""
    found, states, sendings = [], dict[str, str](), Counter[str]()
    for event in events:
        if states.get(event.key) != event.old:
            found.append(f"{event.key} was {states.get(event.key)}, and left {event.old}")
        states[event.key] = event.new
        sendings[event.key] += event.new == JobState.SENDING
        try:
            check_move(JobState(event.old) if event.old else None, JobState(event.new))
        except JournalError as error:
            found.append(str(error))
    found += [
        f"{key} was sent {times} times, and written down {sendings[key]} times"
        for key, times in Counter(posts).items()
        if times > sendings[key]
    ]
    return found
