"""Queries, lookups and lists of the sandbox, and paths that it does not have."""

from __future__ import annotations

from typing import Any

import pytest

from comet_async.sandbox import Options

Start = Any  # the fixture `start`
Client = Any  # what it returns
Reply = Any  # what a client returns


# ---------------------------------------------------------------------- lists


async def test_lists_newest_first(start: Start) -> None:
    """Pages hold whole task objects; the last one is short."""
    client = await start()
    ids = [(await client.create()).data["task_id"] for _ in range(5)]
    pages = [(await client.list(pageNum=str(i), pageSize="2")).data for i in (1, 2, 3, 4)]
    assert [task["task_id"] for page in pages for task in page] == ids[::-1]
    assert [len(page) for page in pages] == [2, 2, 1, 0]


async def test_lists_oldest_first(start: Start) -> None:
    """The order is a switch."""
    client = await start(options=Options(list_order="oldest"))
    ids = [(await client.create()).data["task_id"] for _ in range(3)]
    assert [task["task_id"] for task in (await client.list()).data] == ids


@pytest.mark.parametrize("params", [
    {"pageNum": "0"}, {"pageNum": "1001"}, {"pageSize": "501"}, {"pageSize": "-1"},
    {"pageSize": "x"}, {"pageNum": "9" * 40}, {"pageNum": ""},
])  # fmt: skip
async def test_refuses_pages_out_of_range(start: Start, params: dict[str, str]) -> None:
    """A page number or size that is not allowed is a wrong value."""
    client = await start()
    reply = await client.list(**params)
    assert (reply.status, reply.json["code"]) == (400, 1201)


# ---------------------------------------------------------------------- questions


async def test_an_unknown_task(start: Start) -> None:
    """Kling says 404 with a number, CometAPI 400 with a word."""
    client = await start()
    kling = await client.query("123456789012345678")
    assert (kling.status, kling.json["code"]) == (404, 1203)
    client.profile = "comet"
    comet = await client.query("123456789012345678")
    assert comet.status == 400
    assert comet.json == {"code": "task_not_exist", "message": "task_not_exist", "data": None}


FORMS = {
    "A": ("order-17", {}),
    "B": ("", {"external_task_id": "order-17"}),
    "C": ("order-17", {"external_task_id": "true"}),
    "D": ("order-17", {"external_task_id": "order-17"}),
}


async def query_by(client: Client, form: str) -> Reply:
    """Look the task order-17 up."""
    name, params = FORMS[form]
    return await (client.query(name, **params) if name else client.list(**params))


@pytest.mark.parametrize("form", "ABCD")
async def test_finds_by_external_id(start: Start, form: str) -> None:
    """All four forms of the lookup give the same task."""
    client = await start()
    created = await client.create(external_task_id="order-17")
    await client.create(external_task_id="order-18")
    assert (await query_by(client, form)).data["task_id"] == created.data["task_id"]


@pytest.mark.parametrize(("lookups", "working"), [
    ("", ""), ("A", "ACD"), ("B", "B"), ("C", "C"), ("D", "D"), ("BD", "BD"),
])  # fmt: skip
async def test_lookups_can_be_missing(start: Start, lookups: str, working: str) -> None:
    """A form that is not offered says "not found", or lists everything (form B)."""
    client = await start(options=Options(lookups=lookups))
    await client.create(external_task_id="order-17")
    replies = {form: await query_by(client, form) for form in FORMS}
    found = [form for form, reply in replies.items() if isinstance(reply.json.get("data"), dict)]
    assert "".join(found) == working
    if "B" not in working:
        assert len(replies["B"].data) == 1


async def test_kinds_do_not_mix(start: Start) -> None:
    """A task is found below its own path only."""
    client = await start()
    created = await client.request("POST", "/v1/images/generations", json={"prompt": "a sun"})
    assert (await client.query(created.data["task_id"])).status == 404
    assert (await client.list()).data == []


async def test_wrong_method(start: Start) -> None:
    """A known path with another method is 404, not 405."""
    client = await start()
    kling = await client.request("DELETE", "/v1/images/editing/expand/1")
    assert (kling.status, kling.json["code"]) == (404, 1202)
    comet = await client.request("PUT", "/kling/v1/images/editing/expand")
    assert (comet.status, comet.json["error"]["type"]) == (404, "invalid_request_error")


async def test_unknown_path(start: Start) -> None:
    """Both services answer a path that they do not have with a page."""
    client = await start()
    for path in ("/v1/images/nonsense", "/kling/v1/nonsense", "/tasks"):
        reply = await client.request("GET", path)
        assert reply.status == 404
        assert reply.headers["Content-Type"].startswith("text/html")
