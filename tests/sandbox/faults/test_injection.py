"""Faults as they look on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from comet_async.sandbox import Fault, Faults
from comet_async.sandbox._api.refusals import CODES
from comet_async.sandbox._faults.injection import GARBAGE
from comet_async.sandbox._faults.rules import REDIRECTS, STATUSES
from comet_async.sandbox.options import Options

if TYPE_CHECKING:
    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`
Client = Any  # what it returns


# ---------------------------------------------------------------------- answers that are wrong


CODED = [*map(str, CODES)]


@pytest.mark.parametrize("kind", CODED)
async def test_kling_codes(start: Start, kind: str) -> None:
    """Each of Kling's codes comes in its envelope, with its status, and nothing is charged."""
    client = await start(faults=Faults(Fault(kind, retry_after="3")))
    reply = await client.create()
    assert (reply.status, reply.json["code"]) == (CODES[int(kind)][0], int(kind))
    assert reply.headers["Retry-After"] == "3"
    assert client.sandbox.ledger.charges == []


@pytest.mark.parametrize("profile", ["comet", "kling"])
@pytest.mark.parametrize("status", STATUSES)
async def test_statuses_before_and_after_charging(start: Start, profile: str, status: int) -> None:
    """Any status can come before anything is charged, or after."""
    client = await start(profile)
    faults = client.sandbox.faults
    faults.add(Fault(str(status)))
    faults.add(Fault(f"{status}_after_charge"))
    replies = [await client.create(external_task_id="a") for _ in range(2)]
    assert [reply.status for reply in replies] == [status] * 2
    assert (client.sandbox.ledger.posted("a"), client.sandbox.ledger.count("a")) == (2, 1)


async def test_gateway_errors_are_pages(start: Start) -> None:
    """What a proxy in front of the service says is HTML."""
    client = await start("comet", faults=Faults(Fault("502"), Fault("504"), Fault("524")))
    for _ in range(3):
        assert (await client.list()).headers["Content-Type"].startswith("text/html")


async def test_comet_statuses(start: Start) -> None:
    """CometAPI's own errors have the form of OpenAI's; its 429 is new-api's."""
    client = await start("comet", faults=Faults(*(Fault(str(s)) for s in (400, 403, 500, 429))))
    errors = [(await client.list()).json["error"]["code"] for _ in range(3)]
    assert errors == ["invalid_request", "insufficient_user_quota", ""]
    assert (await client.list()).json["code"] == "fail_to_fetch_task"


@pytest.mark.parametrize(("kind", "status", "code"), [
    ("invalid_request", 500, "invalid_request"), ("model_not_found", 503, "model_not_found"),
])  # fmt: skip
async def test_comet_words(start: Start, kind: str, status: int, code: str) -> None:
    """Two answers of CometAPI's that must not be tried again."""
    client = await start("comet", faults=Faults(Fault(kind, on="create")))
    reply = await client.create()
    assert (reply.status, reply.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("value", ["7", "Thu, 01 Jan 2026 00:01:00 GMT", "-5", "99999999999", "x"])
async def test_retry_after_as_given(start: Start, value: str) -> None:
    """The header is sent as it stands, sensible or not."""
    client = await start(faults=Faults(Fault("1302", retry_after=value)))
    assert (await client.create()).headers["Retry-After"] == value


@pytest.mark.parametrize("status", REDIRECTS)
async def test_redirects(start: Start, status: str) -> None:
    """An answer can lead elsewhere."""
    faults = Faults(Fault(status, on="create", location="http://127.0.0.1:1/x"))
    client = await start(faults=faults)
    reply = await client.create()
    assert (reply.status, reply.headers["Location"]) == (int(status), "http://127.0.0.1:1/x")


async def test_html_and_empty(start: Start) -> None:
    """A page or nothing with status 200, before charging or after."""
    kinds = ("html", "empty", "html_after_charge", "empty_after_charge")
    client = await start(faults=Faults(*(Fault(kind, on="create") for kind in kinds)))
    replies = [await client.create() for _ in range(4)]
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply.raw[:5] for reply in replies] == [b"<!DOC", b""] * 2
    assert len(client.sandbox.ledger.charges) == 2


async def test_truncated_json(start: Start) -> None:
    """Half of the body comes as if it were all; on create, after charging."""
    client = await start(faults=Faults(Fault("truncated")))
    reply = await client.create()
    with pytest.raises(json.JSONDecodeError):
        reply.json  # noqa: B018 - the property raises
    assert len(client.sandbox.ledger.charges) == 1


async def test_no_task_id(start: Start) -> None:
    """A good answer without the one thing that matters; it is charged."""
    client = await start(faults=Faults(Fault("no_task_id", on="create")))
    reply = await client.create()
    assert "task_id" not in reply.data
    assert reply.data["task_status"] == "submitted"
    assert len(client.sandbox.ledger.charges) == 1


@pytest.mark.parametrize(("kind", "shown"), [
    ("no_status", None), ("unknown_status", "pondering"),
])  # fmt: skip
async def test_strange_states(start: Start, kind: str, shown: str | None) -> None:
    """A status can be missing, or a new word."""
    client = await start()
    task_id = (await client.create()).data["task_id"]
    client.sandbox.faults.add(Fault(kind, on="query"))
    assert (await client.query(task_id)).data.get("task_status") == shown
    assert (await client.query(task_id)).data["task_status"] == "submitted"


async def test_not_found_for_a_while(start: Start) -> None:
    """Questions can miss a task that exists."""
    client = await start(faults=Faults(Fault("not_found", times=2), Fault("empty_data")))
    task_id = (await client.create()).data["task_id"]
    assert [(await client.query(task_id)).status for _ in range(2)] == [404] * 2
    assert (await client.query(task_id)).data == []
    assert (await client.query(task_id)).data["task_id"] == task_id


async def test_other_task(start: Start) -> None:
    """A lookup can ignore the id that it was given."""
    client = await start(faults=Faults(Fault("other_task", on="find", times=None)))
    await client.create(external_task_id="a")
    await client.create(external_task_id="b")
    shown = [(await client.query(name)).data["task_info"] for name in ("a", "unknown")]
    assert shown == [{"external_task_id": "b"}] * 2


@pytest.mark.parametrize("kind", ["other_task", "no_task_id", "no_status", "empty_data"])
async def test_refusals_and_pages_stay_what_they_are(start: Start, kind: str) -> None:
    """A fault that changes a task leaves answers without one alone."""
    faults, options = Faults(Fault(kind, on="query", times=None)), Options(route_missing="html")
    client = await start(faults=faults, options=options)
    client.key = "wrong"
    assert (await client.query("1")).status == 401
    client.profile = "comet"
    assert (await client.query("1")).status == 404


async def test_empty_list(start: Start) -> None:
    """A list can be empty though there are tasks."""
    client = await start(faults=Faults(Fault("empty_data", on="list")))
    await client.create()
    assert [len((await client.list()).data) for _ in range(2)] == [0, 1]


# ---------------------------------------------------------------------- connections that break


@pytest.mark.parametrize(("kind", "error"), [
    ("drop", aiohttp.ServerDisconnectedError),
    ("reset", aiohttp.ClientOSError),
    ("garbage", aiohttp.ClientResponseError),
    ("hang", aiohttp.SocketTimeoutError),
])  # fmt: skip
@pytest.mark.parametrize("after", [False, True])
async def test_breaks(start: Start, kind: str, error: type[Exception], after: bool) -> None:
    """The connection breaks after the request is read: before charging, or after."""
    fault = Fault(kind + "_after_charge" * after, on="create")
    client = await start(faults=Faults(fault))
    with pytest.raises(error):
        await client.create(external_task_id="a")
    ledger = client.sandbox.ledger
    assert (ledger.posted("a"), ledger.count("a")) == (1, int(after))


@pytest.mark.parametrize(("kind", "error"), [
    ("drop", aiohttp.ClientError),
    ("reset", aiohttp.ClientOSError),
    ("garbage", aiohttp.ClientResponseError),
    ("hang", aiohttp.SocketTimeoutError),
])  # fmt: skip
async def test_breaks_at_once(start: Start, kind: str, error: type[Exception]) -> None:
    """A connection can break as soon as it is accepted; nobody reads the request."""
    client = await start(faults=Faults(Fault(kind, on="accept")))
    with pytest.raises(error):
        await client.create()
    assert client.sandbox.ledger.posts == []
    assert (await client.create()).status == 200


async def test_garbage_is_garbage(start: Start) -> None:
    """The bytes are not HTTP."""
    client = await start(faults=Faults(Fault("garbage")))
    host, port = client.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    address = f"{host}:{port}"
    writer.write(f"GET /v1/images/editing/expand HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    assert await reader.read() == GARBAGE
    writer.close()


async def test_charges_late(start: Start, clock: VirtualClock) -> None:
    """A request whose connection was dropped can be charged seconds later."""
    client = await start(faults=Faults(Fault("late", seconds=30)))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.create(external_task_id="a")
    await clock.sleep(29)
    assert client.sandbox.ledger.count("a") == 0
    assert (await client.query("a")).status == 404
    await clock.sleep(2)
    assert client.sandbox.ledger.count("a") == 1
    assert (await client.query("a")).status == 200


async def test_late_is_checked_late(start: Start, clock: VirtualClock) -> None:
    """If the same id came through meanwhile, the late one is refused: no second charge."""
    client = await start(faults=Faults(Fault("late", seconds=5)))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.create(external_task_id="a")
    await client.create(external_task_id="a")
    await clock.sleep(10)
    assert client.sandbox.ledger.count("a") == 1


async def test_a_client_that_hangs_up_is_charged(start: Start) -> None:
    """A request that was read goes on without its client."""
    client = await start()
    client.photo += bytes(3_000_000)  # long enough to be read in a thread
    creating = asyncio.create_task(client.create(external_task_id="a"))
    while not client.sandbox.ledger.posts:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait([creating])
    await client.sandbox.tasks.clock.sleep(1)
    assert client.sandbox.ledger.count("a") == 1


async def test_slow_answer(start: Start, clock: VirtualClock) -> None:
    """The body comes drop by drop."""
    client = await start(faults=Faults(Fault("slow", on="create", seconds=30)))
    before = clock.monotonic()
    assert (await client.create()).data["task_status"] == "submitted"
    assert clock.monotonic() - before == pytest.approx(30, abs=2)


async def test_cut_reply(start: Start) -> None:
    """The connection ends in the middle of the answer; on create, after charging."""
    client = await start(faults=Faults(Fault("cut_reply", on="create")))
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.create()
    assert len(client.sandbox.ledger.charges) == 1


async def test_a_refused_request_keeps_the_fault(start: Start) -> None:
    """What comes after charging waits for a request that is charged."""
    client = await start(faults=Faults(Fault("502_after_charge")))
    assert (await client.create(n=0)).status == 400
    assert (await client.create()).status == 502


async def test_account_calls_fail(start: Start) -> None:
    """The calls about money can fail as well."""
    client = await start(faults=Faults(Fault("502", on="account")))
    assert (await client.request("GET", "/user/quota?key=sandbox-key")).status == 502
    assert (await client.request("GET", "/user/quota?key=sandbox-key")).status == 200


async def test_a_hanging_answer_ends_with_its_client(start: Start, clock: VirtualClock) -> None:
    """Once the client gives up, nothing is left of its request."""
    client = await start(faults=Faults(Fault("hang", on="create")))
    before = len(asyncio.all_tasks())
    with pytest.raises(aiohttp.SocketTimeoutError):
        await client.create()
    await clock.sleep(1)
    assert len(asyncio.all_tasks()) == before


async def test_hanging_connections_end_with_the_sandbox(start: Start) -> None:
    """Closing cuts what was left hanging, at whatever stage."""
    client = await start(faults=Faults(Fault("hang", on="accept"), Fault("hang", on="list")))
    hanging = [asyncio.create_task(client.list()) for _ in range(2)]
    await client.sandbox.tasks.clock.sleep(1)
    await client.sandbox.aclose()
    await asyncio.wait(hanging)
    assert all(isinstance(task.exception(), aiohttp.ClientError) for task in hanging)


# ---------------------------------------------------------------------- results


async def result_url(client: Client) -> str:
    """Make a task and return its image's address."""
    created = await client.create(external_task_id="order-17")
    done = await client.finish(created.data["task_id"])
    return done["task_result"]["images"][0]["url"]


@pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
async def test_result_statuses(start: Start, status: int) -> None:
    """A result can be refused; that is a file server's page, not the API's JSON."""
    client = await start(faults=Faults(Fault(str(status), on="result", match="order-17")))
    url = await result_url(client)
    reply = await client.request("GET", url)
    assert (reply.status, reply.raw[:5]) == (status, b"<!DOC")
    assert (await client.request("GET", url)).status == 200


async def test_result_bodies(start: Start) -> None:
    """A result can be half, no image, or a page."""
    kinds = ("truncated", "wrong_magic", "html", "empty")
    client = await start(faults=Faults(*(Fault(kind, on="result") for kind in kinds)))
    url = await result_url(client)
    half, wrong, page, empty, good = [await client.request("GET", url) for _ in range(5)]
    assert half.raw == good.raw[: len(good.raw) // 2]
    assert half.headers["Content-Type"] == wrong.headers["Content-Type"] == "image/png"
    assert (wrong.raw[:7], wrong.raw[7:]) == (b"sorry! ", good.raw[7:])
    assert page.raw.startswith(b"<!DOCTYPE html>")
    assert empty.raw == b""


async def test_result_compressed(start: Start) -> None:
    """A result can be compressed though nobody asked, or grow when it is unpacked."""
    faults = Faults(Fault("gzip", on="result"), Fault("gzip_bomb", on="result"))
    client = await start(faults=faults)
    url = await result_url(client)
    packed, bomb, good = [await client.request("GET", url) for _ in range(3)]
    assert packed.headers["Content-Encoding"] == bomb.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.raw) == good.raw
    assert len(bomb.raw) < 1_000_000
    assert len(zlib.decompressobj(wbits=31).decompress(bomb.raw, 100_000_000)) == 100_000_000


@pytest.mark.parametrize(("kind", "length"), [("huge", str(10 * 1024**3)), ("endless", None)])
async def test_result_without_end(start: Start, kind: str, length: str | None) -> None:
    """A result can be larger than any disk, announced or not; it begins like an image."""
    client = await start(faults=Faults(Fault(kind, on="result")))
    url = await result_url(client)
    async with client.http.get(url) as reply:
        assert reply.headers.get("Content-Length") == length
        data = await reply.content.readexactly(5_000_000)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")


async def test_result_connections(start: Start, clock: VirtualClock) -> None:
    """A result's connection can break or crawl as any other."""
    drop = Fault("drop", on="result", times=2)  # aiohttp asks a second time by itself
    others = (Fault(kind, on="result") for kind in ("cut_reply", "slow", "302"))
    client = await start(faults=Faults(drop, *others))
    url = await result_url(client)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.request("GET", url)
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.request("GET", url)
    before = clock.monotonic()
    assert (await client.request("GET", url)).status == 200
    assert clock.monotonic() - before == pytest.approx(5, abs=1)
    assert (await client.request("GET", url)).status == 302
