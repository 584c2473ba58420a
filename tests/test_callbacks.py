"""Callbacks are hints: whatever they say, the server is asked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from comet_async import CallbackReceiver, CometSession, ConfigError, Margins, TaskWaiter
from comet_async.callbacks import MAX_BODY
from comet_async.sandbox import DEFAULT_KEY, CallbackOptions, Options, Sandbox
from comet_async.testing import VirtualClock
from comet_async.wire import Notice

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="  # noqa: S105 - a published vector
BODY = json.dumps({"task_id": "17", "task_status": "succeed", "task_result": {}}).encode()
WIDE = Margins(left=0.5)


def signed(body: bytes, moment: float, delivery: str = "d1") -> dict[str, str]:
    """Return the headers of a good delivery."""
    text = f"{delivery}.{int(moment)}.".encode() + body
    digest = hmac.digest(base64.b64decode(SECRET[6:]), text, hashlib.sha256)
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(int(moment)),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def heard(receiver: CallbackReceiver) -> list[Notice]:
    """Return the list that the receiver's notices go to."""
    notices: list[Notice] = []
    receiver.subscribe(notices.append)
    return notices


async def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> int:
    """Send a callback as a server would."""
    async with aiohttp.ClientSession() as client:
        async with client.post(url, data=body, headers=headers) as answer:
            return answer.status


async def test_a_callback_is_told_to_listeners() -> None:
    """A good callback reaches everyone who listens, until they stop."""
    async with CallbackReceiver() as receiver:
        notices = heard(receiver)
        end = receiver.subscribe(lambda _: 1 / 0)
        assert await post(receiver.url, BODY) == 200
        end()
        end()
        assert await post(receiver.url, BODY) == 200
    assert [notice.task_id for notice in notices] == ["17", "17"]


@pytest.mark.parametrize("path", ["/", "/cb", "/cb/guess", "/cb/ü"])
async def test_a_wrong_token_is_no_route(path: str) -> None:
    """Nobody learns whether there is a receiver without its token."""
    async with CallbackReceiver() as receiver:
        notices = heard(receiver)
        root = receiver.url.removesuffix(receiver.path)
        assert await post(root + path, BODY) == 404
    assert notices == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"<html>", 400), (b"[" * 100_000, 400), (b"[]", 400), (b"x" * 300_000, 413)],
)
async def test_what_is_no_callback_is_refused(body: bytes, status: int) -> None:
    """Empty, broken, deep and huge bodies are refused and told to nobody."""
    async with CallbackReceiver() as receiver:
        notices = heard(receiver)
        assert await post(receiver.url, body) == status
        assert receiver.handle({}, body) == status
    assert notices == []
    assert len(b"x" * 300_000) > MAX_BODY


async def test_signatures_are_required_once_a_secret_is_set(clock: VirtualClock) -> None:
    """Unsigned, forged and stale callbacks are refused; a repeated one is taken once."""
    receiver = CallbackReceiver(secret=SECRET, clock=clock)
    notices = heard(receiver)
    good = signed(BODY, clock.time())
    assert receiver.handle({}, BODY) == 401
    assert receiver.handle(good, BODY + b" ") == 401
    assert receiver.handle(signed(BODY, clock.time() - 400), BODY) == 401
    assert [receiver.handle(good, BODY) for _ in range(2)] == [200, 200]
    assert len(notices) == 1
    await asyncio.sleep(700)
    assert receiver.handle(signed(BODY, clock.time()), BODY) == 200
    assert len(notices) == 2


async def test_a_flood_is_slowed_down(clock: VirtualClock) -> None:
    """One sender can't keep us busy."""
    async with CallbackReceiver(clock=clock) as receiver:
        async with aiohttp.ClientSession() as client:
            statuses = []
            for _ in range(260):
                async with client.post(receiver.url, data=BODY) as answer:
                    statuses.append(answer.status)
    assert 429 in statuses
    assert statuses[0] == 200


async def test_notices_for_nobody_are_kept_a_while() -> None:
    """A callback may come before the answer to the request: it is kept, and not for ever."""
    receiver = CallbackReceiver()
    receiver.handle({}, BODY)
    assert receiver.early("17") is not None
    assert receiver.early("18", "17") is not None
    for number in range(1000):
        receiver.handle({}, json.dumps({"task_id": f"n{number}"}).encode())
    assert receiver.early("17") is None


async def test_url_needs_an_address() -> None:
    """Without listening and without a public address there is none to give."""
    with pytest.raises(ConfigError, match="not listening"):
        _ = CallbackReceiver().url
    receiver = CallbackReceiver(public_url="https://example.com/hooks/")
    assert receiver.url == f"https://example.com/hooks{receiver.path}"


@pytest.mark.parametrize("url", ["http://example.com", "ftp://x", "https://x/?a=1", "nowhere"])
def test_public_address_must_be_https(url: str) -> None:
    """The token must not travel in the clear."""
    with pytest.raises(ConfigError):
        CallbackReceiver(public_url=url)


def test_plain_http_is_taken_when_asked_for() -> None:
    """Inside a trusted network one may say so."""
    receiver = CallbackReceiver(public_url="http://gateway.internal/cb", allow_http=True)
    assert receiver.url.startswith("http://gateway.internal/cb/")
    assert receiver.path not in repr(receiver)


async def test_it_mounts_in_an_application() -> None:
    """A service that has a port already mounts the one route."""
    receiver = CallbackReceiver(public_url="https://example.com/kling")
    app = web.Application()
    app.add_subapp("/kling", receiver.app())
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    notices = heard(receiver)
    port = runner.addresses[0][1]
    assert await post(f"http://127.0.0.1:{port}/kling{receiver.path}", BODY) == 200
    await runner.cleanup()
    assert len(notices) == 1


async def _wait_with(
    clock: VirtualClock, photo: bytes, callbacks: CallbackOptions
) -> tuple[float, TaskWaiter]:
    """Expand one picture with callbacks; return how long after its end that was known."""
    options = Options(task_seconds=(30, 30), callbacks=callbacks)
    async with (
        Sandbox(clock=clock, engine="pillow", seed=1, options=options) as sandbox,
        CallbackReceiver(clock=clock) as receiver,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, callbacks=receiver) as comet,
    ):
        task = await comet.expand(photo, WIDE)
        assert task.updated_at is not None
        return clock.time() - task.updated_at.timestamp(), comet._waiter


async def test_a_callback_makes_the_waiter_ask_now(clock: VirtualClock, photo: bytes) -> None:
    """The end is known moments after it, with few questions."""
    delay, waiter = await _wait_with(clock, photo, CallbackOptions())
    assert delay < 0.3
    assert waiter.polls <= 4
    assert waiter.hints >= 1


async def test_lost_callbacks_cost_time_only(clock: VirtualClock, photo: bytes) -> None:
    """When none comes, the slow polling beneath finds the end."""
    delay, _ = await _wait_with(clock, photo, CallbackOptions(drop=("submitted", "processing", "succeed")))
    assert delay < 60


async def test_a_forged_end_is_not_believed(clock: VirtualClock, photo: bytes) -> None:
    """A callback that says "succeed" makes us ask; the server's answer counts."""
    options = Options(task_seconds=(30, 30))
    async with (
        Sandbox(clock=clock, engine="pillow", seed=1, options=options) as sandbox,
        CallbackReceiver(clock=clock) as receiver,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet,
    ):
        from comet_async import ExpandRequest  # noqa: PLC0415 - only here

        task = await comet.submit(ExpandRequest(image=photo, margins=WIDE))
        waiter = TaskWaiter(comet, callbacks=receiver)
        waiting = asyncio.create_task(waiter.wait(task))
        await asyncio.sleep(3)
        forged = {
            "task_id": task.id,
            "task_status": "succeed",
            "task_result": {"images": [{"index": 0, "url": "http://evil.example/x.png"}]},
        }
        assert await post(receiver.url, json.dumps(forged).encode()) == 200
        await asyncio.sleep(1)
        assert not waiting.done()
        done = await waiting
    assert all("evil" not in image.url for image in done.images)
    assert Path(done.images[0].url).name
