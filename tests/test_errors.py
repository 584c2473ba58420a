"""What every error can do, whichever it is."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import comet_async
from comet_async import errors
from comet_async.errors import CometError

TREE = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, BaseException)
]
COPIES: dict[str, Callable[[CometError], CometError]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),  # noqa: S301  # our own bytes
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
DETAILS: dict[str, Any] = {
    "hint": "wait a minute",
    "sent": True,
    "retryable": True,
    "task_id": "t-1",
    "external_task_id": "photo-1",
    "status": 500,
    "code": 1303,
    "request_id": "r-1",
    "retry_after": 2.5,
}


@pytest.mark.parametrize("kind", TREE)
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_keep_everything(
    kind: type[CometError], copied: Callable[[CometError], CometError]
) -> None:
    """An error that went through a process pool says what it said before."""
    error = kind("It broke", **DETAILS)
    twin = copied(error)
    assert type(twin) is kind
    assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))
    assert {name: getattr(twin, name) for name in DETAILS} == DETAILS


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_one_of_ours(kind: type[CometError]) -> None:
    """One `except CometError` catches them all, and each is exported and documented."""
    assert issubclass(kind, CometError)
    assert kind.__name__ in comet_async.__all__
    assert getattr(comet_async, kind.__name__) is kind
    assert kind.__doc__


@pytest.mark.parametrize("kind", TREE)
def test_messages_are_one_line(kind: type[CometError]) -> None:
    """A log line stays a line, with the hint in it, whatever the server wrote."""
    error = kind("It\nbroke\t badly", hint="wait\na minute")
    assert "\n" not in str(error)
    assert "\n" not in repr(error)
    assert "broke" in str(error)
    assert "minute" in str(error)


@pytest.mark.parametrize("kind", TREE)
def test_errors_are_hashable(kind: type[CometError]) -> None:
    """Errors go into sets, and two of them are two."""
    one, two = kind("It broke"), kind("It broke")
    assert len({one, two, one}) == 2


@pytest.mark.parametrize("kind", TREE)
def test_the_tree_is_drawn(kind: type[CometError]) -> None:
    """The drawing at the top of the file names every error."""
    assert kind.__name__ in (errors.__doc__ or "").split()


COMMON = ("type", "message", "hint", "sent", "retryable", "retry_after", "task_id",
          "external_task_id", "request_id", "status", "code")  # fmt: skip


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_json(kind: type[CometError]) -> None:
    """The keys are the same for all; what a class adds comes after them."""
    record = kind("It broke", **DETAILS).as_dict()
    assert tuple(record)[: len(COMMON)] == COMMON
    assert tuple(record)[len(COMMON) :] == kind.details
    assert {name: record[name] for name in DETAILS} == DETAILS
    assert record["type"] == kind.__name__
    assert json.loads(json.dumps(record)) == record
