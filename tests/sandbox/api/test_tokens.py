"""Who may call: API keys, and tokens that Kling's customers sign."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest

from comet_async.sandbox import Options

if TYPE_CHECKING:
    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`

SECRET = "sandbox-secret-key-of-32-characters"  # noqa: S105 - what the sandbox takes by default


def packed(value: object) -> str:
    """Return *value* as a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def token(claims: dict[str, Any], *, secret: str = SECRET, alg: str = "HS256") -> str:
    """Return a signed token."""
    text = f"{packed({'alg': alg, 'typ': 'JWT'})}.{packed(claims)}"
    signature = hmac.digest(secret.encode(), text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def claims(clock: VirtualClock, **other: Any) -> dict[str, Any]:
    """Return the claims that Kling's page asks for."""
    now = int(clock.time())
    return {"iss": "sandbox-access-key", "exp": now + 1800, "nbf": now - 5} | other


HEADERS = [
    (None, 1001), ("", 1001), ("Bearer", 1002), ("Bearer wrong", 1002), ("Basic sandbox-key", 1002),
    ("sandbox-key", 1002), ("Bearer a.b.c", 1002), ("Bearer W10.W10.c", 1002), ("Bearer é", 1002),
]  # fmt: skip


@pytest.mark.parametrize(("header", "code"), HEADERS)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_refuses_keys(start: Start, method: str, header: str | None, code: int) -> None:
    """No key and a wrong key have different numbers at Kling, and one form at CometAPI."""
    client = await start()
    client.key = None
    headers = {} if header is None else {"Authorization": header}
    path = "/v1/images/editing/expand"
    kling = await client.request(method, path, headers=headers)
    assert (kling.status, kling.json["code"]) == (401, code)
    comet = await client.request(method, "/kling" + path, headers=headers)
    assert (comet.status, comet.json["error"]["code"]) == (401, "")
    assert "(request id: 2026" in comet.json["error"]["message"]


async def test_takes_any_key(start: Start) -> None:
    """A sandbox can leave the gateway open, but a key there must be."""
    client = await start(key=None)
    client.key = "anything"
    assert (await client.create()).status == 200
    client.key = None
    assert (await client.create()).status == 401


async def test_takes_a_signed_token(start: Start, clock: VirtualClock) -> None:
    """Kling takes it, CometAPI does not."""
    client = await start()
    client.key = token(claims(clock))
    assert (await client.create()).status == 200
    client.profile = "comet"
    assert (await client.create()).status == 401


@pytest.mark.parametrize(("other", "signed", "code"), [
    ({"iss": "stranger"}, {}, 1002),
    ({"iss": None}, {}, 1002),
    ({"exp": "soon"}, {}, 1002),
    ({"nbf": True}, {}, 1002),
    ({}, {"alg": "none"}, 1002),
    ({}, {"secret": "wrong"}, 1000),
    ({"nbf": 1_900_000_000}, {}, 1003),
    ({"exp": 1_700_000_000}, {}, 1004),
    ({"exp": 0}, {}, 1004),
])  # fmt: skip
async def test_refuses_tokens(
    start: Start, clock: VirtualClock, other: dict[str, Any], signed: dict[str, str], code: int
) -> None:
    """Issuer, signature and times are checked, in this order."""
    client = await start()
    client.key = token(claims(clock, **other), **signed)
    reply = await client.create()
    assert (reply.status, reply.json["code"]) == (401, code)


async def test_a_token_expires(start: Start, clock: VirtualClock) -> None:
    """One that was good is refused half an hour later."""
    client = await start()
    client.key = token(claims(clock))
    await clock.sleep(1799)
    assert (await client.list()).status == 200
    await clock.sleep(1)
    assert (await client.list()).json["code"] == 1004


async def test_other_access_keys(start: Start, clock: VirtualClock) -> None:
    """What tokens are signed with is an option."""
    options = Options(access_key="me", secret_key="mine")  # noqa: S106 - not a secret
    client = await start(options=options)
    client.key = token(claims(clock, iss="me"), secret="mine")  # noqa: S106 - the same
    assert (await client.list()).status == 200
    assert "mine" not in repr(options)
