"""Content keys."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from comet_async._journal.keys import canonical, content_key, is_own_key, random_key
from comet_async.errors import InputError
from comet_async.models import JSON

SHA = "ab" * 32
FIELDS = {"left": 0.3, "prompt": "white sun", "n": 1}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def key(**changes: Any) -> str:
    """Return the key of a request that differs from the usual one by *changes*."""
    call: dict[str, Any] = {"kind": "expand", "images": {"image": SHA}, "fields": FIELDS}
    return content_key(**(call | changes))


def test_key_is_pinned() -> None:
    """The form never changes: another key would buy everything again."""
    assert key() == "ce1-5bxyqyyxxgjut54w6kl3bkwkyh"


def test_key_is_short_and_plain() -> None:
    """Any gateway takes it, and it shows nothing of the image or the prompt."""
    assert re.fullmatch(r"ce1-[a-z2-7]{26}", key())


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "try_on"},
        {"images": {"image": "cd" * 32}},
        {"images": {"image": "https://example.com/dog.png"}},
        {"images": {"human_image": SHA}},
        {"fields": FIELDS | {"left": 0.30001}},
        {"fields": FIELDS | {"watermark": True}},
        {"salt": "v2"},
        {"attempt": 2},
    ],
    ids=str,
)
def test_another_request_has_another_key(changes: dict[str, Any]) -> None:
    """Whatever changes the request changes the key."""
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "prompt": "white sun", "left": 0.3},
        {"left": 0.3, "prompt": "white sun", "n": 1.0},
        {"left": 3e-1, "prompt": "white sun", "n": 1},
    ],
    ids=str,
)
def test_writing_the_same_request_otherwise_keeps_the_key(fields: dict[str, Any]) -> None:
    """Neither the order nor the way of writing a number matters."""
    assert key(fields=fields) == key()


def test_attempts_are_appended() -> None:
    """A deliberate new purchase is recognisable as one of the same image."""
    assert key(attempt=3) == f"{key()}.3"


def test_attempts_count_from_one() -> None:
    """An attempt before the first is a mistake."""
    with pytest.raises(InputError, match="counts from 1"):
        key(attempt=0)


def test_random_keys_differ() -> None:
    """Without a journal each purchase has a name of its own."""
    keys = {random_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(map(is_own_key, keys))


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (key(), True),
        (key(attempt=2), True),
        (key(attempt=10), True),
        (key() + ".1", False),
        (key() + ".02", False),
        (key()[:-1], False),
        (key() + "\n", False),
        (key().upper(), False),
        ("my-own-id", False),
        ("", False),
    ],
)
def test_own_keys_are_recognised(text: str, *, own: bool) -> None:
    """Orphans on the server's list are told from other programs' tasks by their shape."""
    assert is_own_key(text) is own


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1.50, "1.5"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (10**400, "1" + "0" * 400),
        (True, "true"),
        (None, "null"),
        ("é\n", r'"\u00e9\n"'),
        ({"b": [1, {}], "a": ()}, '{"a":[],"b":[1,{}]}'),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_canonical_form(value: JSON, text: str) -> None:
    """Numbers are plain decimals, names are sorted, all is ASCII."""
    assert canonical(value) == text


@pytest.mark.parametrize("value", [b"\x89PNG", {1: 2}, math.nan, math.inf, {1}], ids=repr)
def test_what_json_cannot_hold_is_refused(value: JSON) -> None:
    """Bytes above all: an image has no place in a request's fields."""
    with pytest.raises(InputError):
        canonical({"image": [value]})


@given(VALUES)
def test_canonical_text_means_the_same(value: JSON) -> None:
    """The canonical form is JSON of an equal value, and its own canonical form."""
    again = json.loads(canonical(value))
    assert again == value
    assert canonical(again) == canonical(value)


@given(VALUES, VALUES)
def test_only_equal_values_share_a_text(one: JSON, other: JSON) -> None:
    """Two requests that differ never meet under one key."""
    if canonical(one) == canonical(other):
        assert one == other
