"""Snapshots of tasks: states in any gateway's words, frozen, comparable, picklable."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from comet_async.errors import NotSentError
from comet_async.models import ResultImage, Task, TaskPage, TaskStatus
from comet_async.outcomes import Outcome, OutcomeStatus

SIGNED = "https://cdn.example/a.png?sign=canary"


def task(**fields: object) -> Task:
    """Return a finished task, with *fields* changed."""
    image = ResultImage(index=0, url=SIGNED, watermark_url=SIGNED, task_id="7")
    usual: dict[str, object] = {
        "id": "7",
        "status": TaskStatus.SUCCEED,
        "images": (image,),
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "units": Decimal(8),
        "raw": {"task_id": "7", "url": SIGNED},
    }
    return Task(**{**usual, **fields})  # type: ignore[arg-type]  # names are checked by attrs


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("submitted SUBMITTED queued NOT_START pending", TaskStatus.SUBMITTED),
        ("processing IN_PROGRESS running", TaskStatus.PROCESSING),
        ("succeed Succeeded SUCCESS completed COMPLETE done Finished", TaskStatus.SUCCEED),
        ("failed FAILURE failed_permanently", TaskStatus.FAILED),
        ("canceled CANCELLED cancelled_by_user TaskCanceled cancellation", TaskStatus.FAILED),
        ("aborted ABORT task_aborted expired expiry", TaskStatus.FAILED),
        ("timeout TIMED_OUT time-out TimedOut upstream_time_out", TaskStatus.FAILED),
        ("rejected auto-rejected error ERROR_UPSTREAM systemError", TaskStatus.FAILED),
    ],
)
def test_words_for_a_state(words: str, status: TaskStatus) -> None:
    """Every gateway's word, in any case and with spaces around it, means the same state."""
    assert {TaskStatus.parse(f" {word} ") for word in words.split()} == {status}


@pytest.mark.parametrize(
    "word",
    [
        "Reviewing",
        "canceling",
        "cancel_requested",
        "error_retrying",
        "no_error",
        "timeout_pending",
        "incomplete",
        "not_failed",
        "partially_completed",
        "terrorised",
    ],
)
def test_new_word_stays_as_it_is(word: str) -> None:
    """An unknown word is kept, and is not an end, even if it has one in it."""
    assert TaskStatus.parse(word) == word
    assert not task(status=word).done


def test_rank_goes_from_submission_to_the_end() -> None:
    """States are ordered by how far a task has come; both ends are equally far."""
    assert [state.rank for state in TaskStatus] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("status", "done", "succeeded", "failed"),
    [
        (TaskStatus.SUBMITTED, False, False, False),
        (TaskStatus.PROCESSING, False, False, False),
        (TaskStatus.SUCCEED, True, True, False),
        (TaskStatus.FAILED, True, False, True),
    ],
)
def test_ends(status: TaskStatus, done: bool, succeeded: bool, failed: bool) -> None:
    """Only the two ends are done."""
    snapshot = task(status=status)
    assert (snapshot.done, snapshot.succeeded, snapshot.failed) == (done, succeeded, failed)


def test_equality_is_about_the_task() -> None:
    """Two answers that show the same are equal, whatever else came with them."""
    assert task() == task(request_id="another", raw={})
    assert hash(task()) == hash(task(request_id="another", raw={}))
    assert task() != task(status=TaskStatus.FAILED)


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, attrs.evolve])
def test_copies(through: object) -> None:
    """A copy shows the same, raw object included."""
    again = through(task())  # type: ignore[operator]  # all three take one task
    assert (again, dict(again.raw)) == (task(), dict(task().raw))


def test_pickle() -> None:
    """A snapshot survives the way to another process, and stays read-only there."""
    again = pickle.loads(pickle.dumps(task()))  # noqa: S301 - our own bytes
    assert (again, dict(again.raw)) == (task(), dict(task().raw))
    with pytest.raises(TypeError):
        again.raw["task_id"] = "8"


def test_raw_is_a_copy() -> None:
    """What happens to the caller's dictionary does not reach the snapshot."""
    raw: dict[str, object] = {"task_id": "7"}
    snapshot = task(raw=raw)
    raw["task_id"] = "8"
    assert snapshot.raw == {"task_id": "7"}


def test_frozen() -> None:
    """Nothing changes for the holder of a snapshot."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        task().status = TaskStatus.FAILED  # type: ignore[misc]  # the point of the test


def test_signed_addresses_do_not_show() -> None:
    """A repr, which ends in logs, holds no signed address."""
    assert "canary" not in repr(task())
    assert "canary" not in repr(TaskPage(tasks=(task(),), number=1, size=1))


@pytest.mark.parametrize(("size", "last"), [(1, False), (2, True)])
def test_last_page(size: int, last: bool) -> None:
    """A page is the last one when it is short."""
    assert TaskPage(tasks=(task(),), number=1, size=size).last is last


@pytest.mark.parametrize("full", [True, False])
def test_a_task_as_json(full: bool) -> None:
    """All that it has, but for the server's own object."""
    moment = datetime(2026, 1, 31, 17, 20, tzinfo=UTC)
    image = ResultImage(index=0, url="https://cdn.example/a.png?signature=1", task_id="1")
    more: dict[str, Any] = {"created_at": moment, "units": Decimal("0.5"), "images": (image,)}
    snapshot = Task(id="1", status=TaskStatus.SUCCEED, raw={"secret": 1}, **(more if full else {}))
    written = json.loads(json.dumps(snapshot.as_dict()))
    assert written.keys() == {field.name for field in attrs.fields(Task)} - {"raw"}
    assert (written["id"], written["status"], written["updated_at"]) == ("1", "succeed", None)
    if full:
        assert datetime.fromisoformat(written["created_at"]) == moment
        assert written["units"] == "0.5"
        assert written["images"] == [{"index": 0, "url": image.url, "watermark_url": None}]


@pytest.mark.parametrize("full", [True, False])
def test_an_outcome_as_json(full: bool) -> None:
    """With its task and its error, if it has them."""
    newest, error = Task(id="1", status="new"), NotSentError("no network", external_task_id="ce1-x")
    more: dict[str, Any] = {"task": newest, "error": error, "files": (Path("wide/dog.png"),)}
    outcome = Outcome(source="dog.png", status=OutcomeStatus.PENDING, **(more if full else {}))
    written = json.loads(json.dumps(outcome.as_dict()))
    assert written.keys() == {field.name for field in attrs.fields(Outcome)}
    assert (written["source"], written["status"]) == ("dog.png", "pending")
    assert written["task"] == (newest.as_dict() if full else None)
    assert written["error"] == (json.loads(json.dumps(error.as_dict())) if full else None)
    assert written["files"] == ([str(Path("wide/dog.png"))] if full else [])
