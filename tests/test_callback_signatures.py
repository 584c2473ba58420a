"""Signatures of callbacks, against the official vector and against everything that is wrong."""

# ruff: noqa: S105 - the secrets are published ones

from __future__ import annotations

import base64
import pickle

import pytest
from hypothesis import given, strategies as st

from comet_async.callbacks import WebhookSecret, signed_headers, verify
from comet_async.errors import ConfigError, InputError
from comet_async.secret import Secret

# Kling's own example, https://klingai.com/document-api/api/get-started/callbacks.
VECTOR_SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
VECTOR_BODY = (
    b'{"id":"1234567890","status":"succeeded","message":"",'
    b'"create_time":1781080778802,"update_time":1781080794151}'
)
VECTOR_TIME = 1781080794
VECTOR = {
    "webhook-id": "9876543210",
    "webhook-timestamp": str(VECTOR_TIME),
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
SECRET = WebhookSecret(VECTOR_SECRET)
OTHER = WebhookSecret("whsec_" + base64.b64encode(b"another secret").decode())


def check(headers: dict[str, str], body: bytes = VECTOR_BODY, *, now: float = VECTOR_TIME) -> str:
    """Verify with the vector's secret and time."""
    return verify(headers, body, [SECRET], now=now)


def test_the_official_vector_is_verified() -> None:
    """What Kling publishes as right is right."""
    assert check(VECTOR) == "9876543210"


def test_the_official_vector_is_made() -> None:
    """What we sign for tests is what Kling would send."""
    made = signed_headers(SECRET, VECTOR_BODY, message_id="9876543210", now=VECTOR_TIME + 0.9)
    assert made == VECTOR


def test_header_names_come_in_any_case() -> None:
    """HTTP does not tell cases apart, and frameworks choose differently."""
    assert check({name.title(): value for name, value in VECTOR.items()}) == "9876543210"


@pytest.mark.parametrize(
    "signature",
    [
        f"v1,AAAA {VECTOR['webhook-signature']}",
        f"{VECTOR['webhook-signature']} v1,AAAA",
        f"v2,xyz v1a,{'=' * 10} {VECTOR['webhook-signature']}",
    ],
    ids=["last", "first", "between others"],
)
def test_any_of_several_signatures_may_match(signature: str) -> None:
    """While a key is rotated there are two."""
    assert check({**VECTOR, "webhook-signature": signature}) == "9876543210"


def test_any_of_several_secrets_may_match() -> None:
    """While a key is rotated the receiver may know two, too."""
    assert verify(VECTOR, VECTOR_BODY, [OTHER, SECRET], now=VECTOR_TIME) == "9876543210"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", None),
        ("webhook-id", ""),
        ("webhook-id", "9876543211"),
        ("webhook-timestamp", None),
        ("webhook-timestamp", "soon"),
        ("webhook-timestamp", "-1781080794"),
        ("webhook-timestamp", "1781080794.0"),
        ("webhook-timestamp", "9" * 400),
        ("webhook-timestamp", "１７８１０８０７９４"),  # noqa: RUF001 - digits, but no ASCII
        ("webhook-timestamp", str(VECTOR_TIME + 1)),
        ("webhook-signature", None),
        ("webhook-signature", ""),
        ("webhook-signature", VECTOR["webhook-signature"].removeprefix("v1,")),
        ("webhook-signature", VECTOR["webhook-signature"].replace("v1,", "v2,")),
        ("webhook-signature", VECTOR["webhook-signature"][:-4] + "AAA="),
        ("webhook-signature", "v1,ü"),
        ("webhook-signature", f"{'v1,AAAA ' * 16}{VECTOR['webhook-signature']}"),
    ],
)
def test_wrong_headers_are_refused(header: str, value: str | None) -> None:
    """The error names the header."""
    headers = {**VECTOR, header: value} if value is not None else dict(VECTOR)
    if value is None:
        del headers[header]
    with pytest.raises(InputError, match="webhook-") as caught:
        check(headers)  # type: ignore[arg-type]  # None was taken out
    assert caught.value.field.startswith("webhook-")


@pytest.mark.parametrize("off", [-300, 300])
def test_five_minutes_are_tolerated(off: float) -> None:
    """Clocks differ, and deliveries take their time."""
    assert check(VECTOR, now=VECTOR_TIME + off)


@pytest.mark.parametrize("off", [-301, 301])
def test_older_or_younger_is_refused(off: float) -> None:
    """So that what was recorded once can't be played back later."""
    with pytest.raises(InputError, match="more than 300 s off"):
        check(VECTOR, now=VECTOR_TIME + off)


@given(place=st.integers(0, len(VECTOR_BODY) - 1), flip=st.integers(1, 255))
def test_any_other_body_is_refused(place: int, flip: int) -> None:
    """Each byte counts."""
    body = bytearray(VECTOR_BODY)
    body[place] ^= flip
    with pytest.raises(InputError, match="does not match"):
        check(VECTOR, bytes(body))


@given(
    body=st.binary(max_size=300), now=st.floats(0, 2e9), message_id=st.text("abc019-", min_size=1)
)
def test_what_we_sign_we_verify(body: bytes, now: float, message_id: str) -> None:
    """For every body, time and id."""
    headers = signed_headers(SECRET, body, message_id=message_id, now=now)
    assert verify(headers, body, [OTHER, SECRET], now=now) == message_id
    with pytest.raises(InputError):
        verify(headers, body, [OTHER], now=now)


@pytest.mark.parametrize("value", ["", "whsec_", "whsec_no base64", "whsec_%%%"])
def test_what_is_no_secret_is_refused(value: str) -> None:
    """A secret that was copied badly is found out at the start, without being shown."""
    with pytest.raises(ConfigError) as caught:
        WebhookSecret(value)
    assert "%%%" not in str(caught.value)


def test_a_secret_does_not_show_itself() -> None:
    """Neither printed nor pickled; with or without its prefix it is the same."""
    bare = WebhookSecret(Secret(VECTOR_SECRET.removeprefix("whsec_")))
    assert bare.sign("1", 2, b"") == SECRET.sign("1", 2, b"")
    assert "dGVz" not in f"{SECRET!r}{SECRET}"
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(SECRET)
