"""Every switch of the sandbox shows on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from comet_async.errors import InputError
from comet_async.sandbox import CallbackOptions, Options

if TYPE_CHECKING:
    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`
JSON = Any


async def finished(start: Start, profile: str = "kling", **options: Any) -> JSON:
    """Return the whole answer about a task that ended, in a sandbox with these switches."""
    client = await start(profile, options=Options(**options))
    created = await client.create(external_task_id="order-17", watermark_info={"enabled": True})
    task = client.sandbox.tasks.find("order-17")
    assert created.status == 200
    while not task.done:
        await client.sandbox.tasks.clock.sleep(1)
    return (await client.query(task.id)).json


async def test_shape_list(start: Start) -> None:
    """The task can come in a list of one."""
    (task,) = (await finished(start, shape="list"))["data"]
    assert task["task_status"] == "succeed"


async def test_shape_wrapper(start: Start) -> None:
    """The task can come below a gateway's own object, with other words and times in seconds."""
    shown = await finished(start, "comet", shape="wrapper")
    outer, inner = shown["data"], shown["data"]["data"]
    assert (shown["code"], outer["status"], outer["progress"]) == ("success", "SUCCESS", "100%")
    assert outer["platform"] == "kling"
    assert outer["action"] == "/kling/v1/images/editing/expand_POST"
    assert outer["submit_time"] == inner["created_at"] // 1000
    assert outer["submit_time"] <= outer["start_time"] < outer["finish_time"]
    assert inner["task_status"] == "succeed"


async def test_shape_wrapper2(start: Start) -> None:
    """The task can come one level deeper, with Kling's envelope in between."""
    shown = await finished(start, "comet", shape="wrapper2")
    assert shown["data"]["data"]["code"] == 0
    assert shown["data"]["data"]["data"]["task_status"] == "succeed"


async def test_shapes_take_turns(start: Start, clock: VirtualClock) -> None:
    """Several forms follow each other from query to query, also while the task runs."""
    client = await start("comet", options=Options(shape=("object", "list", "wrapper", "wrapper2")))
    task_id = (await client.create()).data["task_id"]
    await clock.sleep(3)
    shown = [(await client.query(task_id)).data for _ in range(5)]
    assert shown[0]["task_status"] == shown[1][0]["task_status"] == "processing"
    assert (shown[2]["status"], shown[2]["progress"]) == ("IN_PROGRESS", "30%")
    assert shown[3]["finish_time"] == 0
    assert shown[3]["data"]["data"]["task_id"] == shown[4]["task_id"] == task_id


async def test_shape_of_a_failure(start: Start) -> None:
    """A gateway's object tells the reason in a field of its own."""
    client = await start("comet", options=Options(shape="wrapper"))
    created = await client.create(prompt="sandbox-risky")
    shown = await client.finish(created.data["task_id"])
    assert (shown["status"], shown["fail_reason"]) == ("FAILURE", shown["data"]["task_status_msg"])


@pytest.mark.parametrize("shape", ["list", "wrapper", "wrapper2"])
async def test_shape_of_create(start: Start, shape: str) -> None:
    """The answer to a create call has the same forms."""
    client = await start("comet", options=Options(created_shape=shape))
    shown = (await client.create()).data
    inner = shown[0] if shape == "list" else shown["data"]
    inner = inner["data"] if shape == "wrapper2" else inner
    assert inner["task_status"] == "submitted"


@pytest.mark.parametrize("shape", ["native", "wrapped", "openai", "task_error"])
async def test_error_shape(start: Start, shape: str) -> None:
    """An error can be shown in four forms, in both profiles."""
    client = await start(options=Options(error_shape=shape))
    reply = await client.create(n=0)
    shown = reply.json
    known = {
        "native": lambda: shown["code"],
        "wrapped": lambda: shown["data"]["data"]["code"],
        "openai": lambda: 1201 if shown["error"]["type"] == "comet_api_error" else None,
        "task_error": lambda: json.loads(shown["message"])["code"],
    }
    assert (reply.status, known[shape]()) == (400, 1201)


async def test_errors_as_200(start: Start) -> None:
    """Some gateways send errors with status 200."""
    client = await start(options=Options(errors_as_200=True))
    reply = await client.create(n=0)
    assert (reply.status, reply.json["code"]) == (200, 1201)


async def test_request_ids(start: Start) -> None:
    """Request ids can be missing from queries, and present in CometAPI's create."""
    assert "request_id" not in await finished(start, request_id=False)
    client = await start("comet", options=Options(created_request_id=True))
    assert "request_id" in (await client.create()).json


async def test_message(start: Start) -> None:
    """The message of good answers is just a word."""
    assert (await finished(start, message="success"))["message"] == "success"


async def test_words(start: Start, clock: VirtualClock) -> None:
    """Words for a state can differ, and rotate."""
    words = {"succeed": ("succeeded", "SUCCESS"), "submitted": "queued"}
    client = await start(options=Options(words=words))
    created = await client.create()
    assert created.data["task_status"] == "queued"
    await clock.sleep(60)
    shown = [(await client.query(created.data["task_id"])).data["task_status"] for _ in range(3)]
    assert shown == ["succeeded", "SUCCESS", "succeeded"]


@pytest.mark.parametrize(("word", "shown"), [("empty", ""), ("null", None), ("absent", "absent")])
async def test_status_msg(start: Start, word: str, shown: str | None) -> None:
    """Without a reason to tell, the message is empty, null or absent."""
    data = (await finished(start, status_msg=word))["data"]
    assert data.get("task_status_msg", "absent") == shown


async def test_no_echo(start: Start) -> None:
    """The external id need not come back."""
    assert (await finished(start, echo_external_id=False))["data"]["task_info"] == {}


async def test_no_unit_deduction(start: Start) -> None:
    """The charge need not be shown."""
    data = (await finished(start, unit_deduction=False))["data"]
    assert not any("deduction" in name for name in data)


async def test_no_index(start: Start) -> None:
    """Images need not carry their index."""
    data = (await finished(start, image_index=False))["data"]
    assert set(data["task_result"]["images"][0]) == {"url", "watermark_url"}


async def test_watermark_in_lists_only(start: Start) -> None:
    """Kling's page shows the watermarked address in the list's sample only."""
    client = await start(options=Options(watermark_in_query=False))
    created = await client.create(watermark_info={"enabled": True})
    done = await client.finish(created.data["task_id"])
    assert "watermark_url" not in done["task_result"]["images"][0]
    (listed,) = (await client.list()).data
    assert "watermark_url" in listed["task_result"]["images"][0]


async def test_not_found_at_first(start: Start, clock: VirtualClock) -> None:
    """For some seconds a new task can be unknown to all questions."""
    client = await start("comet", options=Options(not_found_for=5))
    task_id = (await client.create(external_task_id="a")).data["task_id"]
    for name in (task_id, "a"):
        assert (await client.query(name)).json["code"] == "task_not_exist"
    assert (await client.list()).data == []
    await clock.sleep(5)
    assert (await client.query("a")).data["task_id"] == task_id
    assert len((await client.list()).data) == 1


async def test_no_list(start: Start) -> None:
    """The list call can be missing."""
    client = await start(options=Options(list_tasks=False))
    assert (await client.list()).json["code"] == 1202
    client.profile = "comet"
    assert (await client.list()).json["error"]["message"].startswith("Invalid URL (GET /kling")


@pytest.mark.parametrize(("form", "status", "body"), [
    ("null", 404, b'{"code":null,"message":"404"}'),
    ("null_200", 200, b'{"code":null,"message":"404"}'),
    ("html", 404, b"<!DOCTYPE html>"),
    ("redirect", 301, b""),
    ("invalid_url", 404, b'{"error":{"message":"Invalid URL ('),
])  # fmt: skip
async def test_route_missing(start: Start, form: str, status: int, body: bytes) -> None:
    """CometAPI can lack the route, in five forms; Kling on the same port has it."""
    client = await start("comet", options=Options(route_missing=form))
    for reply in (await client.create(), await client.query("1"), await client.list()):
        assert reply.status == status
        assert reply.raw.startswith(body)
    client.profile = "kling"
    assert (await client.create()).status == 200


async def test_unknown_path_redirects(start: Start) -> None:
    """CometAPI documents redirects for mistaken paths."""
    client = await start(options=Options(unknown_path="redirect"))
    assert (await client.request("GET", "/kling/v1/x")).status == 301
    assert (await client.request("GET", "/v1/x")).status == 404


@pytest.mark.parametrize(("trouble", "status", "code"), [
    ("arrears", 429, 1101), ("empty", 429, 1102), ("no_right", 403, 1103), ("ip", 429, 1304),
    ("abnormal", 429, 1100),
])  # fmt: skip
async def test_account_trouble(start: Start, trouble: str, status: int, code: int) -> None:
    """An account that may not create tasks is told so; questions still work."""
    client = await start(options=Options(account=trouble))
    reply = await client.create()
    assert (reply.status, reply.json["code"]) == (status, code)
    assert (await client.list()).status == 200
    client.profile = "comet"
    comet = await client.create()
    assert (comet.status, comet.json["error"]["code"]) == (403, "insufficient_user_quota")


@pytest.mark.parametrize("profile", ["comet", "kling"])
async def test_retry_after(start: Start, profile: str) -> None:
    """A refusal for lack of slots can say when to come back."""
    client = await start(profile, limit=1, options=Options(retry_after="7"))
    await client.create()
    reply = await client.create()
    assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert "Retry-After" not in (await client.create(n=0)).headers


async def test_durations(start: Start, clock: VirtualClock) -> None:
    """How long states last is a span to draw from."""
    options = Options(submitted_seconds=(5, 5), task_seconds=(100, 100))
    client = await start(options=options)
    task_id = (await client.create()).data["task_id"]
    shown = []
    for seconds in (4.9, 0.2, 94.8, 0.2):
        await clock.sleep(seconds)
        shown.append((await client.query(task_id)).data["task_status"])
    assert shown == ["submitted", "processing", "processing", "succeed"]


def test_unknown_lookups() -> None:
    """A lookup form that does not exist is refused."""
    with pytest.raises(InputError, match="lookups"):
        Options(lookups="AE")


def test_options_as_text() -> None:
    """For the command line: JSON values, or text as it is."""
    options = Options.parse(
        [
            "task_seconds=[0, 1]",
            "lookups=AB",
            "list_tasks=false",
            "not_found_for=2",
            "account=arrears",
            "shape=list",
            "request_id = true",
            'words={"succeed": "done"}',
            "callbacks.repeat=2",
            'callbacks.drop=["processing"]',
        ]
    )
    assert options == Options(
        task_seconds=(0, 1),
        lookups="AB",
        list_tasks=False,
        not_found_for=2,
        account="arrears",
        shape="list",
        words={"succeed": "done"},
        callbacks=CallbackOptions(repeat=2, drop=["processing"]),
    )


@pytest.mark.parametrize(
    "pair",
    ["nonsense=1", "callbacks=1", "callbacks.x=1", "list_tasks=maybe", "task_seconds=3", "=", ""],
)
def test_options_that_do_not_exist(pair: str) -> None:
    """A misspelt name and a value of another type are refused."""
    with pytest.raises(InputError):
        Options.parse([pair])


async def test_other_machines_get_urls_that_they_can_reach(start: Start) -> None:
    """Listening on all addresses, the results' URLs begin with what the client called it."""
    client = await start(host="0.0.0.0", engine="stub", allowed_hosts=["sandbox"])  # noqa: S104 - what is tested
    assert client.sandbox.url.startswith("http://127.0.0.1:")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    await client.finish(task.id)
    path = f"/v1/images/editing/expand/{task.id}"
    reply = await client.request("GET", path, headers={"Host": "sandbox:8765"})
    url = reply.data["task_result"]["images"][0]["url"]
    assert url.startswith("http://sandbox:8765/results/")
