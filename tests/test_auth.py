"""What signs a request: a key that stays, and a token that is signed again in time."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import jwt
import pytest

from comet_async.auth import TOKEN_LIFE, TOKEN_MARGIN, ApiKey, Credentials, KlingToken
from comet_async.errors import ConfigError, MissingExtraError
from comet_async.secret import Secret

ACCESS = "canary-access-0123456789abcdef012"
SECRET = "canary-secret-0123456789abcdef0123456789"  # noqa: S105 - a canary
NOW = 1_767_225_600.0


def token() -> KlingToken:
    """Return fresh credentials."""
    return KlingToken(Secret(ACCESS), Secret(SECRET))


def claims(header: str) -> dict[str, Any]:
    """Return what a header's token says, once its signature is checked."""
    scheme, _, text = header.partition(" ")
    assert scheme == "Bearer"
    options: Any = {"verify_exp": False, "verify_nbf": False}
    return dict(jwt.decode(text, SECRET, algorithms=["HS256"], options=options))


def test_key_is_sent_as_it_is() -> None:
    """A key is a bearer token, today and in a year."""
    key = ApiKey(Secret("sk-canary"))
    assert key.header(NOW) == key.header(NOW + 31_536_000) == "Bearer sk-canary"


def test_refused_key_stays_refused() -> None:
    """There is nothing to renew about a key."""
    assert not ApiKey(Secret("sk-canary")).renew()


def test_token_is_what_kling_asks_for() -> None:
    """HS256, with the access key as issuer, valid from 5 s ago for half an hour."""
    header = token().header(NOW)
    assert jwt.get_unverified_header(header.partition(" ")[2]) == {"alg": "HS256", "typ": "JWT"}
    assert claims(header) == {"iss": ACCESS, "exp": NOW + 1800, "nbf": NOW - 5}


@pytest.mark.parametrize(
    ("later", "signed_anew"),
    [
        (0, False),
        (60, False),
        (TOKEN_LIFE - TOKEN_MARGIN, False),
        (TOKEN_LIFE - TOKEN_MARGIN + 1, True),
        (TOKEN_LIFE + 1, True),
        (-1, True),  # the clock was set back: the old token would not be valid yet
        (-86_400, True),
    ],
)
def test_signed_anew_before_it_ends(later: float, signed_anew: bool) -> None:
    """A token is used again while it is good for five more minutes, and then signed anew."""
    credentials = token()
    first = credentials.header(NOW)
    second = credentials.header(NOW + later)
    assert (second != first) is signed_anew
    signed_at = NOW + later if signed_anew else NOW
    assert claims(second)["exp"] == signed_at + TOKEN_LIFE


def test_renewed_token_is_signed_anew() -> None:
    """A token that the server refused is not sent again."""
    credentials = token()
    first = credentials.header(NOW)
    assert credentials.renew()
    assert credentials.header(NOW + 1) != first


def test_nothing_to_renew_before_the_first_token() -> None:
    """Without a token, signing anew would change nothing."""
    assert not token().renew()


def test_fingerprint_tells_accounts_apart() -> None:
    """Equal keys have equal fingerprints, others have others, in both forms."""
    assert ApiKey(Secret("one")).account == ApiKey(Secret("one")).account
    assert ApiKey(Secret("one")).account != ApiKey(Secret("two")).account
    assert token().account == KlingToken(Secret(ACCESS), Secret("rotated")).account
    assert token().account != KlingToken(Secret("another"), Secret(SECRET)).account


@pytest.mark.parametrize("credentials", [ApiKey(Secret(ACCESS)), token()], ids=["key", "token"])
def test_nothing_shows_the_key(credentials: Credentials) -> None:
    """Neither the fingerprint nor any text of the object holds a key or a token."""
    header = credentials.header(NOW).partition(" ")[2]
    shown = f"{credentials.account} {credentials!r} {credentials}"
    assert not any(key in shown for key in (ACCESS, SECRET, header))


def test_all_secrets_are_named() -> None:
    """What must be taken out of texts is known: the key, or both keys."""
    assert ApiKey(Secret("one")).secrets == (Secret("one"),)
    credentials = token()
    assert credentials.secrets == (Secret(ACCESS), Secret(SECRET))
    signed = credentials.header(NOW).removeprefix("Bearer ")
    assert credentials.secrets == (Secret(ACCESS), Secret(SECRET), Secret(signed))


def test_plain_text_is_taken() -> None:
    """Keys may be passed as they are."""
    assert ApiKey("one") == ApiKey(Secret("one"))
    assert KlingToken(ACCESS, SECRET).header(NOW) == token().header(NOW)


def test_short_secret_key(caplog: pytest.LogCaptureFixture) -> None:
    """PyJWT's warning becomes a line of ours, which does not show the key; it signs anyway."""
    credentials = KlingToken("access", "canary")
    assert caplog.messages == [
        "the secret key has 6 characters; Kling's have 32 or more: is it complete?"
    ]
    assert credentials.header(NOW).startswith("Bearer eyJ")


@pytest.mark.parametrize("key", ["ssh-rsa-canary", '{"kty":"oct","k":"canary"}'])
def test_secret_key_that_can_not_sign(key: str) -> None:
    """What PyJWT refuses is an error of ours, whose frames don't hold the key."""
    credentials = KlingToken("access", key)
    with pytest.raises(ConfigError, match="can't sign") as caught:
        credentials.header(NOW)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
    assert not any("canary" in repr(frame.f_locals) for frame in frames)
    assert caught.value.__context__ is None


def test_signing_without_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyJWT the error says what to install, and keeps the other error out."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(MissingExtraError, match=r"comet-async\[kling\]") as caught:
        token().header(NOW)
    assert caught.value.__context__ is None
