"""Callbacks of the sandbox, received by a bare server."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from comet_async.sandbox import CallbackOptions, Options
from comet_async.sandbox.callbacks import sign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`
Client = Any  # what it returns


class Receiver:
    """A server that keeps what it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.delay = 0.0
        self.open = 0
        self.at_once = 0

    async def take(self, request: web.Request) -> web.Response:
        """Keep a callback."""
        self.open += 1
        self.at_once = max(self.at_once, self.open)
        await asyncio.sleep(self.delay)
        self.open -= 1
        self.got.append((dict(request.headers), await request.read()))
        return web.Response()

    @property
    def states(self) -> list[str]:
        """The states that were reported, in order of arrival."""
        return [json.loads(body)["task_status"] for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Return a server for callbacks."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/cb", receiver.take)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/cb"))
        yield receiver


async def run(start: Start, receiver: Receiver, **callbacks: Any) -> Client:
    """Run a task with a callback to its end; return the client."""
    client = await start(options=Options(callbacks=CallbackOptions(**callbacks)))
    fields = {"callback_url": receiver.url, "external_task_id": "order-17"}
    created = await client.create(**fields)
    await client.finish(created.data["task_id"])
    await client.sandbox.tasks.clock.sleep(1)
    return client


async def test_tells_each_change(start: Start, receiver: Receiver) -> None:
    """The bare task is sent on every change, unsigned without a secret."""
    client = await run(start, receiver)
    assert receiver.states == ["submitted", "processing", "succeed"]
    headers, body = receiver.got[-1]
    shown = json.loads(body)
    assert shown["task_info"] == {"external_task_id": "order-17"}
    assert shown["final_unit_deduction"] == "8"
    assert len(shown["task_result"]["images"]) == 1
    assert "webhook-signature" not in headers
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert [delivery.answer for delivery in client.sandbox.deliveries] == [200] * 3


async def test_nothing_is_sent_after_the_end(start: Start, receiver: Receiver) -> None:
    """Neither what waits for an answer nor what waits behind it."""
    receiver.delay = 9.0
    client = await start(speed=20)
    created = await client.create(callback_url=receiver.url)
    await client.finish(created.data["task_id"])
    sending = [task for task in asyncio.all_tasks() if "Callbacks._send" in repr(task)]
    assert len(sending) == 3
    await client.sandbox.aclose()
    assert all(task.done() for task in sending)


async def test_signs(start: Start, receiver: Receiver, clock: VirtualClock) -> None:
    """With a secret, each delivery has an id, a time and a signature over both and the body."""
    secret = "whsec_" + base64.b64encode(b"twelve bytes").decode()
    await run(start, receiver, secret=secret)
    ids = {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(ids) == 3
    headers, body = receiver.got[0]
    stamp = int(headers["webhook-timestamp"])
    assert stamp == pytest.approx(clock.time(), abs=100)
    assert headers["webhook-signature"] == sign(secret, headers["webhook-id"], stamp, body)


def test_signature_of_the_documents() -> None:
    """The example in Kling's documents comes out."""
    body = (
        b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,'
        b'"update_time":1781080794151}'
    )
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="  # noqa: S105 - published
    made = sign(secret, "9876543210", 1781080794, body)
    assert made == "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="


async def test_repeats(start: Start, receiver: Receiver) -> None:
    """A delivery can come several times, with the same id."""
    await run(start, receiver, repeat=2, secret="whsec_AAAA")  # noqa: S106 - not a secret
    assert receiver.states == ["submitted"] * 2 + ["processing"] * 2 + ["succeed"] * 2
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert ids[0] == ids[1] != ids[2]


async def test_backwards(start: Start, receiver: Receiver) -> None:
    """The last delivery can come first."""
    await run(start, receiver, backwards=True)
    assert receiver.states == ["succeed", "processing", "submitted"]


async def test_drops(start: Start, receiver: Receiver) -> None:
    """Deliveries can be lost."""
    await run(start, receiver, drop={"processing", "succeed"})
    assert receiver.states == ["submitted"]


async def test_before_the_answer(start: Start, receiver: Receiver) -> None:
    """The first one can overtake the answer to the create call."""
    options = Options(callbacks=CallbackOptions(before_answer=True))
    client = await start(options=options)
    created = await client.create(callback_url=receiver.url)
    assert json.loads(receiver.got[0][1])["task_id"] == created.data["task_id"]


async def test_new_form(start: Start, receiver: Receiver) -> None:
    """The body can have the form of Kling's newer API."""
    await run(start, receiver, form="new")
    shown = [json.loads(body) for _, body in receiver.got]
    assert [item["status"] for item in shown] == ["submitted", "processing", "succeeded"]
    assert (shown[-1]["external_id"], len(shown[-1]["outputs"])) == ("order-17", 1)
    assert shown[-1]["billing"] == [{"charge_type": "unit", "amount": "8"}]


@pytest.mark.parametrize("url", ["http://example.com/cb", "http://127.0.0.1:1/cb", "nonsense"])
async def test_nobody_there(start: Start, url: str) -> None:
    """An address elsewhere or a dead one is noted; the task goes on."""
    client = await start()
    done = await client.finish((await client.create(callback_url=url)).data["task_id"])
    await client.sandbox.tasks.clock.sleep(1)
    assert done["task_status"] == "succeed"
    assert [delivery.answer for delivery in client.sandbox.deliveries] == [None] * 3


async def test_slow_receivers_keep_the_order(start: Start, receiver: Receiver) -> None:
    """The next callback of a task waits for the one before."""
    receiver.delay = 8
    await run(start, receiver)
    await asyncio.sleep(30)
    assert receiver.states == ["submitted", "processing", "succeed"]
    assert receiver.at_once == 1


async def test_stops_while_sending(start: Start) -> None:
    """A receiver that never answers does not keep the sandbox open."""

    async def never(_request: web.Request) -> web.Response:
        await client.sandbox.tasks.clock.sleep(3600)
        return web.Response()

    app = web.Application()
    app.router.add_post("/cb", never)
    async with TestServer(app) as server:
        client = await start()
        await client.create(callback_url=str(server.make_url("/cb")))
        await client.sandbox.tasks.clock.sleep(1)
        await client.sandbox.aclose()
    assert client.sandbox.deliveries == []
