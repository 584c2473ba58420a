"""What must not break the sandbox: foreign hosts, and JSON that can't be shown again."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from comet_async.sandbox import Options
from comet_async.sandbox._api.hosts import HostGuard
from tests.sandbox.conftest import EXPAND, RATIOS

Start = Any  # the fixture `start`


@pytest.mark.parametrize(
    "path", ["/", "/ledger.json", "/events", EXPAND["kling"], "/results/1/0.png"]
)
async def test_a_foreign_host_is_misdirected(start: Start, path: str) -> None:
    """A domain that was pointed at this machine reads nothing."""
    client = await start()
    reply = await client.request("GET", path, headers={"Host": "evil.example"})
    assert reply.status == 421
    assert b"sandbox" in reply.raw
    with pytest.raises(AssertionError, match="foreign Host"):
        client.sandbox.assert_no_unexpected_requests()


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("localhost", True),
        ("LOCALHOST:8765", True),
        ("sandbox.localhost", True),
        ("127.0.0.1:8765", True),
        ("192.168.1.7", True),
        ("[::1]:8765", True),
        ("sandbox:8765", True),
        ("Sandbox", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("sandbox.evil.example", False),
        ("a b", False),
        ("[", False),
        ("", False),
        (None, True),
    ],
)
def test_hosts(host: str | None, accepted: bool) -> None:
    """Accepted hosts are addresses, localhost and those that were allowed."""
    assert HostGuard(["sandbox"], lambda _: None).accepts(host) is accepted


async def test_a_host_can_be_allowed(start: Start) -> None:
    """In a container the sandbox has the name of its service."""
    client = await start(allowed_hosts=["sandbox"])
    assert (await client.request("GET", "/", headers={"Host": "sandbox:8765"})).status == 200


def body(photo: bytes, **more: object) -> bytes:
    """Return a good request with more fields."""
    image = base64.b64encode(photo).decode()
    return json.dumps({"image": image} | RATIOS | more).encode()


DEEP = b'{"a":' * 100_000
BAD = {
    "lists, 100,000 deep": b"[" * 100_000,
    "objects, 100,000 deep": DEEP + b"1" + b"}" * 100_000,
    "100 deep": b'{"image": ' + b"[" * 100 + b"]" * 100 + b"}",
    "5,000 digits": b'{"n": ' + b"9" * 5000 + b"}",
    "20 digits": b'{"n": ' + b"9" * 20 + b"}",
    "NaN": b'{"n": NaN}',
    "Infinity": b'{"x": -Infinity}',
    "1e999": b'{"n": 1e999}',
    "a surrogate": b'{"prompt": "\\ud800"}',
    "a surrogate as a name": b'{"\\udfff": 1}',
    "a surrogate inside": b'{"x": [{"y": "\\ud800"}]}',
}


@pytest.mark.parametrize("profile", ["comet", "kling"])
@pytest.mark.parametrize("name", BAD)
async def test_json_that_cant_be_shown_is_refused(start: Start, profile: str, name: str) -> None:
    """It is the client's fault, and nothing of it stays: the pages work as before."""
    client = await start(profile)
    reply = await client.request("POST", EXPAND[profile], data=BAD[name])
    assert reply.status == 400
    assert client.sandbox.ledger.charges == []
    assert (await client.request("GET", "/")).status == 200
    ledger = (await client.request("GET", "/ledger.json")).raw
    assert json.loads(ledger, parse_constant=pytest.fail)["posts"]


async def test_pairs_of_surrogates_are_unicode(start: Start) -> None:
    """JSON may write an emoji as two escapes; and nothing else is refused along."""
    client = await start()
    sent = body(client.photo, prompt="\U0001f305 ä", extra={"a": [1.5, None, True, -3]})
    assert b"\\ud83c" in sent
    assert (await client.request("POST", EXPAND["kling"], data=sent)).status == 200
    assert "\U0001f305" in (await client.request("GET", "/")).raw.decode()


@pytest.mark.parametrize(
    "path",
    ["/kling/v1/nothing/%0d%0aX:%20y", "/nothing/%ff", "/results/%ff/0.png", "/thumbs/%ff/0.jpg"],
)
async def test_odd_paths_are_not_found(start: Start, path: str) -> None:
    """Line breaks and bytes that are not UTF-8 do not break an answer."""
    client = await start(options=Options(unknown_path="redirect"))
    reply = await client.request("GET", path)
    assert reply.status in {301, 403, 404}
    assert "X" not in reply.headers
    assert (await client.request("GET", "/ledger.json")).status == 200


def signed(claims: bytes) -> str:
    """Return a token with these claims; its signature is wrong."""
    parts = (b'{"alg":"HS256"}', claims, b"0" * 32)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    "claims", [b"[" * 4_000, b'{"exp": NaN}', b'{"exp": 1' + b"0" * 400 + b"}"]
)
async def test_odd_tokens_are_refused(start: Start, claims: bytes) -> None:
    """Whatever a token claims, it is not a failure of the server."""
    client = await start()
    client.key = signed(claims)
    assert (await client.create()).status == 401
