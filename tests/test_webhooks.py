"""Signatures of callbacks, with the vector that Kling publishes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comet_async.errors import ConfigError
from comet_async.secret import Secret
from comet_async.webhooks import WebhookVerifier

# https://klingai.com/document-api/api/get-started/callbacks
SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="  # noqa: S105 - a published vector
MOMENT = 1781080794
BODY = (
    b'{"id":"1234567890","status":"succeeded","message":"",'
    b'"create_time":1781080778802,"update_time":1781080794151}'
)
HEADERS = {
    "Webhook-Id": "9876543210",
    "webhook-timestamp": str(MOMENT),
    "WEBHOOK-SIGNATURE": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
OTHER = "whsec_b3RoZXJzZWNyZXRvdGhlcnNlY3JldG90aGVyc2VjcmU="


@pytest.mark.parametrize("secrets", [(SECRET,), (Secret(SECRET),), (OTHER, SECRET)])
def test_the_published_vector_passes(secrets: tuple[str | Secret, ...]) -> None:
    """The official delivery is good, also while two secrets are valid."""
    verifier = WebhookVerifier(secrets)
    assert verifier.verify(HEADERS, BODY, now=MOMENT + 100) == "9876543210"
    assert "dGVzd" not in repr(verifier)


@pytest.mark.parametrize(
    "changes",
    [
        {"Webhook-Id": "1"},
        {"Webhook-Id": ""},
        {"webhook-timestamp": str(MOMENT + 1)},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "١٢"},
        {"WEBHOOK-SIGNATURE": ""},
        {"WEBHOOK-SIGNATURE": "v2,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="},
        {"WEBHOOK-SIGNATURE": "v1,ü"},
    ],
)
def test_anything_else_is_refused(changes: dict[str, str]) -> None:
    """Another id, moment, version or signature is not ours."""
    assert WebhookVerifier((SECRET,)).verify(HEADERS | changes, BODY, now=MOMENT) is None


def test_several_signatures_may_come() -> None:
    """One good signature among several is enough."""
    offered = {"WEBHOOK-SIGNATURE": f"v1,AAAA {HEADERS['WEBHOOK-SIGNATURE']} v1a,x"}
    assert WebhookVerifier((SECRET,)).verify(HEADERS | offered, BODY, now=MOMENT)


@pytest.mark.parametrize("seconds", [-301, 301])
def test_stale_deliveries_are_refused(seconds: int) -> None:
    """More than five minutes off, either way, is too far."""
    assert WebhookVerifier((SECRET,)).verify(HEADERS, BODY, now=MOMENT + seconds) is None


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64"])
def test_a_secret_must_be_base64(secret: str) -> None:
    """A secret that was copied badly is refused at once."""
    with pytest.raises(ConfigError):
        WebhookVerifier((secret,))


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=20), st.text(max_size=40)))
def test_no_delivery_breaks_the_verifier(body: bytes, headers: dict[str, str]) -> None:
    """Whatever comes, the answer is yes or no."""
    assert WebhookVerifier((SECRET,)).verify(headers, body, now=MOMENT) is None
