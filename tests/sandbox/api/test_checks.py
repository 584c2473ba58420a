"""What a create call must look like, in both profiles, and in which order it is checked."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from hypothesis import given, strategies as st

from comet_async.sandbox import Options
from comet_async.sandbox._api.checks import KINDS, MAX_BODY, MAX_IMAGE
from comet_async.sandbox._api.handlers import _off_loop
from comet_async.sandbox._api.refusals import RefusalError

Start = Any  # the fixture `start`

PATH = "/v1/images/editing/expand"
BASE64 = "File is not in a valid base64 format"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image can not be null"),
    ({"image": ""}, "image can not be null"),
    ({"image": 7}, BASE64),
    ({"image": "data:image/png;base64,AAAA"}, BASE64),
    ({"image": "dog.png"}, BASE64),
    ({"up_expansion_ratio": None}, "up_expansion_ratio can not be null"),
    ({"down_expansion_ratio": None}, "down_expansion_ratio can not be null"),
    ({"left_expansion_ratio": "0.1"}, "left_expansion_ratio value '0.1' is invalid"),
    ({"left_expansion_ratio": True}, "left_expansion_ratio value 'True' is invalid"),
    ({"left_expansion_ratio": ""}, "left_expansion_ratio value '' is invalid"),
    ({"left_expansion_ratio": False}, "left_expansion_ratio value 'False' is invalid"),
    ({"right_expansion_ratio": 2.1}, "right_expansion_ratio value '2.1' is invalid"),
    ({"right_expansion_ratio": -0.1}, "right_expansion_ratio value '-0.1' is invalid"),
    ({"right_expansion_ratio": float("nan")}, "value 'NaN' is invalid"),
    ({"up_expansion_ratio": 2, "left_expansion_ratio": 0.1}, "the expanded area can not exceed"),
    ({"n": 0}, "n value '0' is invalid"),
    ({"n": 10}, "n value '10' is invalid"),
    ({"n": "2"}, "n value '2' is invalid"),
    ({"n": 1.5}, "n value '1.5' is invalid"),
    ({"n": True}, "n value 'True' is invalid"),
    ({"prompt": "x" * 2501}, "prompt must be less than or equal to 2500"),
    ({"prompt": 7}, "prompt value '7' is invalid"),
    ({"external_task_id": 7}, "external_task_id value '7' is invalid"),
    ({"callback_url": []}, "callback_url value '[]' is invalid"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(f)[:40] for f, _ in WRONG])
async def test_kling_refuses(start: Start, fields: dict[str, Any], message: str) -> None:
    """Each wrong value is named, with Kling's number."""
    client = await start()
    reply = await client.create(**fields)
    assert (reply.status, reply.json["code"]) == (400, 1201)
    assert reply.json["message"].startswith(message)
    assert client.sandbox.ledger.charges == []


async def test_comet_wraps_what_kling_refuses(start: Start) -> None:
    """CometAPI passes Kling's error on two levels down, without a code of its own."""
    client = await start("comet")
    reply = await client.create(n=0)
    assert reply.status == 400
    assert set(reply.json) == {"message", "data"}
    inner = reply.data["data"]
    assert (inner["code"], inner["message"]) == (1201, "n value '0' is invalid")
    assert reply.json["message"] == reply.data["message"] == inner["message"]


RIGHT: list[dict[str, Any]] = [
    {"up_expansion_ratio": 2, "down_expansion_ratio": 0,
     "left_expansion_ratio": 0, "right_expansion_ratio": 0},
    # (1 + .1 + .1) × (1 + .75 + .75) is 3, but a hair more in floats.
    {"left_expansion_ratio": 0.75, "right_expansion_ratio": 0.75},
    {"up_expansion_ratio": 0, "down_expansion_ratio": 0,
     "left_expansion_ratio": 0, "right_expansion_ratio": 0},
    {"n": 9}, {"prompt": "x" * 2500}, {"prompt": ""}, {"external_task_id": ""},
    {"unknown": {"a": 1}}, {"watermark_info": {"enabled": False}}, {"watermark_info": 3},
]  # fmt: skip


@pytest.mark.parametrize("fields", RIGHT)
async def test_accepts(start: Start, fields: dict[str, Any]) -> None:
    """Values on the border are fine, and unknown fields are ignored."""
    client = await start()
    assert (await client.create(**fields)).status == 200


async def test_an_empty_external_id_is_none(start: Start) -> None:
    """Kling's own sample sends an empty one, so it need not be unique."""
    client = await start()
    for _ in range(2):
        assert (await client.create(external_task_id="")).data["task_info"] == {}


async def test_external_ids_are_unique(start: Start) -> None:
    """One that was used is refused in words, and nothing is charged."""
    client = await start()
    await client.create(external_task_id="order-17")
    reply = await client.create(external_task_id="order-17")
    assert (reply.status, reply.json["code"]) == (400, 1201)
    assert reply.json["message"] == "external_task_id 'order-17' already exists"
    assert client.sandbox.ledger.count("order-17") == 1


async def test_blocked_words_are_refused(start: Start) -> None:
    """A prompt can hold a word that the content policy stops at once."""
    client = await start()
    reply = await client.create(prompt="a sandbox-blocked thing")
    assert (reply.status, reply.json["code"]) == (400, 1301)


async def test_risky_words_fail_later(start: Start) -> None:
    """Or one that fails the task."""
    client = await start()
    created = await client.create(prompt="a sandbox-risky thing")
    done = await client.finish(created.data["task_id"])
    assert done["task_status_msg"] == "Failure to pass the risk control system"


# What comes first wins: each body is wrong in all that follows, too.
ORDER: list[tuple[dict[str, Any], str]] = [
    ({}, "image can not be null"),
    ({"image": "?"}, BASE64),
    ({"image": "AAAA"}, "up_expansion_ratio can not be null"),
    ({"image": "AAAA", "up_expansion_ratio": 3}, "down_expansion_ratio can not be null"),
]


@pytest.mark.parametrize(("body", "message"), ORDER)
async def test_order_of_checks(start: Start, body: dict[str, Any], message: str) -> None:
    """The first thing wrong is the one that is reported."""
    client = await start()
    reply = await client.request("POST", PATH, json=body | {"n": 0, "prompt": 7})
    assert reply.json["message"] == message


async def test_the_account_comes_before_the_body(start: Start) -> None:
    """An account without money learns that before its mistakes."""
    client = await start(options=Options(account="empty"))
    reply = await client.request("POST", PATH, data=b"{")
    assert (reply.status, reply.json["code"]) == (429, 1102)
    client.key = None
    assert (await client.request("POST", PATH, data=b"{")).json["code"] == 1001


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
async def test_a_body_that_is_no_object(start: Start, body: bytes) -> None:
    """Kling has a number for it, CometAPI an error of its own."""
    client = await start()
    kling = await client.request("POST", PATH, data=body)
    assert (kling.status, kling.json["code"]) == (400, 1200)
    comet = await client.request("POST", "/kling" + PATH, data=body)
    assert (comet.status, comet.json["error"]["code"]) == (500, "invalid_request")


async def test_a_body_that_is_nested_too_deeply(start: Start) -> None:
    """It is refused like any other, by both."""
    client = await start()
    for path in (PATH, "/kling" + PATH):
        reply = await client.request("POST", path, data=b"[" * 100_000)
        assert reply.status == 400
        assert "nested too deeply" in str(reply.json)


async def test_malformed_status_is_a_switch(start: Start) -> None:
    """CometAPI was seen to use 500, and documents 400."""
    client = await start(options=Options(malformed_status=400))
    assert (await client.request("POST", "/kling" + PATH, data=b"{")).status == 400


async def test_a_body_that_is_too_large(start: Start) -> None:
    """More than 15 MB are not read."""
    client = await start()
    body = b" " * (MAX_BODY + 1)
    assert (await client.request("POST", PATH, data=body)).status == 413
    comet = await client.request("POST", "/kling" + PATH, data=body)
    assert (comet.status, comet.json["code"]) == (413, "read_request_body_failed")


async def test_an_image_of_ten_megabytes(start: Start) -> None:
    """Ten are accepted, though its Base64 is larger; one byte more is not."""
    client = await start()
    image = base64.b64encode(client.photo + bytes(MAX_IMAGE - len(client.photo))).decode()
    assert (await client.create(image=image)).status == 200
    reply = await client.create(image=base64.b64encode(bytes(MAX_IMAGE + 1)).decode())
    assert (reply.status, reply.json["message"]) == (400, "image size exceeds 10MB")


async def test_large_bodies_are_read_in_a_thread() -> None:
    """Parsing and decoding megabytes would stop the event loop; a few bytes are not worth it."""
    here = threading.get_ident()
    assert await _off_loop(bytes(65_536), threading.get_ident) != here
    assert await _off_loop(bytes(65_535), threading.get_ident) == here


@given(st.lists(st.floats(-0.1, 2.1) | st.sampled_from([0, 1, 2, 0.5]), min_size=4, max_size=4))
def test_ratios_are_refused_or_usable(values: list[float]) -> None:
    """Whatever the numbers: they are refused as wrong values, or they are margins."""
    sides = ("up", "down", "left", "right")
    ratios = {f"{side}_expansion_ratio": value for side, value in zip(sides, values, strict=True)}
    try:
        order = KINDS["expand"].check({"image": "AAAA"} | ratios, Options(), "kling")
    except RefusalError as exc:
        assert exc.code == 1201  # noqa: PT017 - either end is fine
    else:
        assert [getattr(order.margins, side) for side in sides] == values


# ---------------------------------------------------------------------- bottom, n, ratios


@pytest.mark.parametrize(("profile", "bottom", "status"), [
    ("kling", None, 400), ("comet", None, 200), ("kling", "alias", 200), ("comet", "ignore", 400),
])  # fmt: skip
async def test_bottom_instead_of_down(
    start: Start, profile: str, bottom: str | None, status: int
) -> None:
    """The name in CometAPI's page works there, and not at Kling; both can be switched."""
    client = await start(profile, options=Options(bottom=bottom))
    reply = await client.create(down_expansion_ratio=None, bottom_expansion_ratio=0.5)
    assert reply.status == status
    if status == 200:
        task = client.sandbox.tasks.get(reply.data["task_id"])
        assert task.order.margins.down == 0.5


async def test_down_wins_over_bottom(start: Start) -> None:
    """Where both are given, the documented name counts."""
    client = await start("comet")
    reply = await client.create(down_expansion_ratio=0.2, bottom_expansion_ratio=0.5)
    assert client.sandbox.tasks.get(reply.data["task_id"]).order.margins.down == 0.2


async def test_the_scheme_of_an_address_has_no_case(start: Start) -> None:
    """RFC 3986, section 3.1."""
    client = await start()
    reply = await client.create(image="HTTPS://example.com/dog.png")
    assert reply.status == 200


async def test_lenient_switches(start: Start) -> None:
    """A numeric text as n and missing ratios can be allowed."""
    client = await start(options=Options(lenient_n=True, lenient_ratios=True))
    reply = await client.create(n="2", up_expansion_ratio=None)
    order = client.sandbox.tasks.get(reply.data["task_id"]).order
    assert (order.n, order.margins.up) == (2, 0)
    for wrong in ("x", "0", "10", "1" * 5000):
        assert (await client.create(n=wrong)).status == 400


# ---------------------------------------------------------------------- neighbours


@pytest.mark.parametrize(("path", "body", "message"), [
    ("images/generations", {}, "prompt can not be null"),
    ("images/generations", {"prompt": "x", "aspect_ratio": "5:1"},
     "aspect_ratio value '5:1' is invalid"),
    ("images/generations", {"prompt": "x", "image": "?"}, BASE64),
    ("images/kolors-virtual-try-on", {}, "human_image can not be null"),
    ("images/kolors-virtual-try-on", {"human_image": "AAAA"}, "cloth_image can not be null"),
])  # fmt: skip
async def test_neighbours_refuse(
    start: Start, path: str, body: dict[str, Any], message: str
) -> None:
    """The other kinds check their own fields."""
    client = await start()
    reply = await client.request("POST", f"/v1/{path}", json=body)
    assert (reply.status, reply.json["message"]) == (400, message)
