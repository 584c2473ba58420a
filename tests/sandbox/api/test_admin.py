"""The administration: everything that a test in another language needs, behind a token."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from comet_async.errors import ConfigError
from comet_async.sandbox import Sandbox

Start = Any  # the fixture `start`
Client = Any  # what it returns

TOKEN = "let-me-in"  # noqa: S105 - a test's


@pytest.fixture
async def client(start: Start) -> Client:
    """Return a client of a sandbox that can be administered."""
    return await start(engine="stub", admin_token=TOKEN)


async def admin(client: Client, method: str, path: str, **more: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of the administration."""
    reply = await client.request(
        method, f"/admin{path}", headers={"Authorization": f"Bearer {TOKEN}"}, **more
    )
    assert reply.status == 200, reply.raw
    return reply.json


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer sandbox-key"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/ledger"), ("POST", "/reset")])
async def test_the_token_is_needed(client: Client, given: str, method: str, path: str) -> None:
    """The API's own key does not open it."""
    await client.create()
    client.key = None
    reply = await client.request(method, f"/admin{path}", headers={"Authorization": given})
    assert reply.status == 401
    assert len(client.sandbox.ledger.charges) == 1


async def test_a_foreign_host_is_refused_first(client: Client) -> None:
    """Not even with the token."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}
    assert (await client.request("GET", "/admin/ledger", headers=headers)).status == 421


async def test_without_a_token_there_is_none(start: Start) -> None:
    """It is off unless it was asked for."""
    client = await start()
    assert (await client.request("POST", "/admin/reset")).status == 404
    with pytest.raises(ConfigError, match="admin_token must not be empty"):
        Sandbox(admin_token="")


async def test_ledger(client: Client) -> None:
    """The ledger can be read, and emptied between two tests."""
    await client.create(external_task_id="order-17")
    await client.request("GET", "/nothing")
    ledger = await admin(client, "GET", "/ledger")
    assert [charge["external_task_id"] for charge in ledger["charges"]] == ["order-17"]
    assert ledger["unexpected"] == ["GET /nothing: unknown path"]
    empty = {"charges": [], "posts": [], "refunds": [], "charged_twice": [], "unexpected": []}
    assert await admin(client, "DELETE", "/ledger") == empty


async def test_faults(client: Client) -> None:
    """Faults are added by fields or as text, listed with what happened, and taken away."""
    await admin(client, "POST", "/faults", json={"kind": "502", "on": "query", "times": None})
    added = await admin(client, "POST", "/faults", json={"text": "429=0.5,result.404"})
    assert [(fault["kind"], fault["on"]) for fault in added["faults"]] == [
        ("502", "query"),
        ("429", "any"),
        ("404", "result"),
    ]
    assert (await client.query("1")).status == 502
    shown = (await admin(client, "GET", "/faults"))["injected"]
    assert shown == [{"kind": "502", "call": "query", "name": "1"}]
    assert await admin(client, "DELETE", "/faults") == {"faults": [], "injected": []}
    assert (await client.query("1")).status == 404


async def test_tasks_end_as_they_are_reported(client: Client) -> None:
    """By id or external id; with images as Base64, or a reason."""
    await admin(client, "POST", "/tasks/hold")
    for name in ("one", "two", "three"):
        await client.create(external_task_id=name)
    image = base64.b64encode(b"canned").decode()
    await admin(client, "POST", "/tasks/one/succeed", json={"images": [image]})
    await admin(client, "POST", "/tasks/two/fail", json={"message": "no"})
    tasks = (await admin(client, "GET", "/tasks"))["tasks"]
    assert [task["external_id"] for task in tasks] == ["one", "two", "three"]
    assert (tasks[1]["status"], tasks[1]["message"]) == ("failed", "no")
    assert (tasks[2]["status"], tasks[2]["held"]) == ("submitted", True)
    url = (await client.finish(tasks[0]["id"]))["task_result"]["images"][0]["url"]
    assert (await client.request("GET", url)).raw == b"canned"
    assert not (await admin(client, "POST", f"/tasks/{tasks[2]['id']}/release"))["held"]
    assert (await admin(client, "POST", "/tasks/three/hold"))["held"]
    assert (await admin(client, "POST", "/tasks/three/fail"))["status"] == "failed"
    await admin(client, "POST", "/tasks/release")
    assert (await admin(client, "GET", "/tasks/one"))["status"] == "succeed"


async def test_reset(client: Client) -> None:
    """Tasks, ledger and faults are as after the start."""
    await admin(client, "POST", "/tasks/hold")
    await client.create(external_task_id="one")
    await admin(client, "POST", "/faults", json={"kind": "drop"})
    await admin(client, "POST", "/reset")
    assert await admin(client, "GET", "/tasks") == {"tasks": []}
    again = (await client.create(external_task_id="one")).data["task_id"]
    assert (await client.finish(again))["task_status"] == "succeed"
    client.sandbox.assert_charged(1)
    assert await admin(client, "DELETE", "/tasks") == {"tasks": []}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/tasks/nothing/fail", b"", 404, "no such task"),
        ("/tasks/one/fail", b"[1]", 400, "not a JSON object"),
        ("/tasks/one/fail", b"[" * 9999, 400, "not a JSON object"),
        ("/tasks/one/fail", b'{"message": ""}', 400, "needs a message"),
        ("/tasks/one/succeed", b'{"images": "x"}', 400, "must be a list"),
        ("/tasks/one/succeed", b'{"images": ["%"]}', 400, "not Base64"),
        ("/faults", b'{"kind": "bogus"}', 400, "'bogus' is unknown"),
        ("/faults", b'{"kind": 5}', 400, "is unknown"),
        ("/faults", b'{"kind": "502", "times": "many"}', 400, "times can't be 'many'"),
        ("/faults", b'{"kind": "502", "nth": 0}', 400, "nth can't be 0"),
        ("/faults", b'{"kind": "502", "chance": 2}', 400, "chance can't be 2"),
        ("/faults", b'{"kind": "late", "seconds": NaN}', 400, "seconds can't be nan"),
        ("/faults", b'{"sort": "502"}', 400, "sort"),
        ("/faults", b'{"text": "502=2"}', 400, "chance"),
    ],
)
async def test_mistakes_are_explained(
    client: Client, path: str, body: bytes, status: int, said: str
) -> None:
    """The answer is a sentence, and nothing has changed."""
    await client.create(external_task_id="one")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    reply = await client.request("POST", f"/admin{path}", data=body, headers=headers)
    assert reply.status == status
    assert said in reply.json["error"]
    assert client.sandbox.faults.rules == []
