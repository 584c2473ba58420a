"""Keys: they do not show, do not leave, and are taken out of every text."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import traceback
from typing import Any

import pytest
from hypothesis import given, strategies as st

from comet_async.errors import ConfigError
from comet_async.secret import RedactingFilter, Secret, redact

CANARY = "canary0123456789abcdef"
BASE64 = base64.b64encode(bytes(range(200))).decode()


def test_reveal() -> None:
    """The key comes out at one place, without the spaces and the mark around it."""
    assert Secret(f"\ufeff {CANARY}\t").reveal() == CANARY


@pytest.mark.parametrize(
    "show", [str, repr, "{!r:>20}".format, "%s".__mod__, lambda key: f"{key}{[key]}"]
)
def test_does_not_show(show: Any) -> None:  # noqa: ANN401 - any way of making text
    """No way of turning it into text shows it."""
    assert "canary" not in show(Secret(CANARY))


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_does_not_leave(take: Any) -> None:  # noqa: ANN401 - any way of copying
    """It is neither copied nor pickled."""
    with pytest.raises(TypeError, match="can't be pickled or copied"):
        take(Secret(CANARY))


def test_has_no_dictionary() -> None:
    """Tools that dump an object's variables find none."""
    with pytest.raises(TypeError):
        vars(Secret(CANARY))


def test_equality() -> None:
    """Keys compare by what they hold, and with nothing but keys."""
    assert Secret(CANARY) == Secret(f" {CANARY}")
    assert hash(Secret(CANARY)) == hash(Secret(CANARY))
    assert Secret(CANARY) != Secret("another")
    assert Secret(CANARY) != CANARY


@pytest.mark.parametrize("value", ["", " ", "\ufeff"])
def test_empty(value: str) -> None:
    """An empty key is refused, with where to put one."""
    with pytest.raises(ConfigError, match="COMETAPI_KEY"):
        Secret(value)


@pytest.mark.parametrize("inside", [" ", "\n", "\r\nX-Evil: 1", "\x00", "é", "\u200b"])
def test_what_could_smuggle_a_header(inside: str) -> None:
    """A space, a control character or anything outside ASCII is refused, and not shown."""
    with pytest.raises(ConfigError) as caught:
        Secret(f"canary{inside}key")
    assert "canary" not in str(caught.value)
    (*_, frame) = traceback.walk_tb(caught.value.__traceback__)
    assert "canary" not in repr(frame[0].f_locals)


@pytest.mark.parametrize("value", [None, 5, b"sk-canary", ["sk-canary"]])
def test_key_that_is_not_text(value: Any) -> None:  # noqa: ANN401 - that is the point
    """It is an error of ours, with the type and not the value."""
    with pytest.raises(ConfigError, match="not text") as caught:
        Secret(value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Authorization: Bearer {CANARY}", "Authorization: Bearer …"),
        (f"BEARER {CANARY}, then", "BEARER …, then"),
        (f"key sk-{CANARY} refused", "key sk-… refused"),
        (f"COMETAPI_sk-{CANARY}", "COMETAPI_sk-…"),
        ("the task-runner of disk-drives", "the task-runner of disk-drives"),
        (f"eyJhbGciOi.{CANARY}.x-y_z", "jwt-…"),
        (f"whsec_{CANARY}=", "whsec_…"),
        (f"https://a.example/b?x=1&sign={CANARY}&y=2", "https://a.example/b?x=1&sign=…&y=2"),
        (f"?AWSAccessKeyId={CANARY}", "?AWSAccessKeyId=…"),
        (f"?X-Amz-Credential={CANARY}", "?X-Amz-Credential=…"),
        (f"?sig={CANARY}", "?sig=…"),
        (f"--proxy http://me:{CANARY}@proxy:3128", "--proxy http://me:…@proxy:3128"),
        ("http://a.example:80/me@b.example", "http://a.example:80/me@b.example"),
        ("?pageNum=1&pageSize=30", "?pageNum=1&pageSize=30"),
        (f"image={BASE64}.", "image=(base64 …)."),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    """What looks like a key goes, whoever's it is; all else stays."""
    assert redact(text) == expected


def test_redact_a_key_without_a_look() -> None:
    """A key that looks like nothing goes when it is named."""
    assert redact(f"a{CANARY}b", Secret("other"), Secret(CANARY)) == "a…b"


@given(st.text(), st.text())
def test_redact_takes_any_text(before: str, after: str) -> None:
    """A named key is gone from wherever it stands."""
    assert CANARY not in redact(before + CANARY + after, Secret(CANARY))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> logging.Logger:
    """Return a logger with the filter, whose output is captured."""
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("test_secret")
    logger.filters = [RedactingFilter(Secret(CANARY))]
    return logger


def test_filter(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    """A record's text is redacted after its arguments are put in, and no record is dropped."""
    log.debug("sent %s with %d", {"Authorization": f"Bearer {CANARY}"}, 7)
    log.debug("100 %")
    assert [record.getMessage() for record in caplog.records] == [
        "sent {'Authorization': 'Bearer …'} with 7",
        "100 %",
    ]


def test_filter_redacts_tracebacks(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    """An exception's text goes through the same sieve."""
    try:
        {"": ""}[CANARY]
    except KeyError:
        log.exception("failed")
    assert "KeyError: '…'" in caplog.text
    assert "Traceback" in caplog.text
    assert CANARY not in caplog.text
