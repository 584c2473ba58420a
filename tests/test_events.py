"""Events: each has a sentence for the log, a level, and fields that hold no secret."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from comet_async.events import (
    AnswerLost,
    Duplicate,
    Event,
    EventSink,
    Failed,
    JobEvent,
    ListPolled,
    LookedUp,
    NotAccepted,
    Notified,
    Polled,
    Recovered,
    Resubmitted,
    Retried,
    Saved,
    SlotAwaited,
    Submitted,
)

JOB = {"key": "ce1-a", "kind": "expand"}
KNOWN = {**JOB, "task_id": "878"}

EVENTS: list[tuple[Event, str, int]] = [
    (
        Polled(task_id="878", kind="expand", status="odd", age=1.0, seconds=0.1),
        "task 878 is odd after 1.0 s",
        logging.DEBUG,
    ),
    (
        ListPolled(kind="expand", page=1, tasks=30, watched=4, seconds=0.1),
        "page 1 of the list shows 4 tasks being waited for",
        logging.DEBUG,
    ),
    (
        Retried(task_id="878", kind="expand", error="ServerError", failures=1, wait=2.0),
        "task 878: ServerError; polling again in 2.0 s",
        logging.INFO,
    ),
    (Notified(task_id="878"), "task 878: a notification arrived; polling now", logging.DEBUG),
    (
        SlotAwaited(**JOB, seconds=5.0, used=2, limit=2, holders=("ce1-b", "ce1-c")),
        "ce1-a has been waiting for a slot for 5 s: 2 of 2 are held by ce1-b, ce1-c",
        logging.INFO,
    ),
    (
        Submitted(**KNOWN, n=1, seconds=0.5),
        "ce1-a (task 878) was accepted and is billed",
        logging.INFO,
    ),
    (
        Duplicate(**KNOWN),
        "ce1-a (task 878) was accepted earlier; nothing is billed again",
        logging.INFO,
    ),
    (
        NotAccepted(**JOB, error="NotSentError", message="can't connect"),
        "ce1-a was not accepted (can't connect); trying again",
        logging.INFO,
    ),
    (
        AnswerLost(**JOB, error="OutcomeUnknownError", message="reset"),
        "the answer to ce1-a was lost (reset); looking it up",
        logging.WARNING,
    ),
    (LookedUp(**JOB, found=True), "ce1-a was looked up: found", logging.DEBUG),
    (LookedUp(**JOB, found=False), "ce1-a was looked up: proven absent", logging.DEBUG),
    (
        LookedUp(**JOB, found=None),
        "ce1-a was looked up: not found, which proves nothing",
        logging.DEBUG,
    ),
    (
        Recovered(**KNOWN, n=1),
        "ce1-a (task 878) was found on the server; it is billed once",
        logging.INFO,
    ),
    (
        Resubmitted(**JOB, attempt=1),
        "ce1-a is sent again: the server never accepted it",
        logging.WARNING,
    ),
    (
        Saved(**KNOWN, files=(Path("wide/dog.png"),), urls=(), seconds=1.0),
        "ce1-a (task 878) is saved: wide/dog.png",
        logging.INFO,
    ),
    (
        Failed(**KNOWN, error="TaskFailedError", message="no", sent=True),
        "ce1-a (task 878): TaskFailedError: no",
        logging.WARNING,
    ),
]


@pytest.mark.parametrize(("event", "text", "level"), EVENTS, ids=[text for _, text, _ in EVENTS])
def test_an_event_is_logged(
    event: Event, text: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a sentence, a level, and fields for JSON loggers; the hook gets it, too."""
    seen: list[Event] = []
    caplog.set_level(logging.DEBUG, logger="comet_async")
    EventSink(seen.append).emit(event)
    assert seen == [event]
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == (text, level)
    assert record.name == ("comet_async" if isinstance(event, JobEvent) else "comet_async.waiter")
    assert vars(record)["comet_event"] == type(event).__name__.lower()


def test_every_event_is_in_the_table() -> None:
    """A new event needs a sentence."""
    known = {type(event) for event, _text, _level in EVENTS}
    assert set(JobEvent.__subclasses__()) <= known
