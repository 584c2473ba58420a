"""Tests of the service; they need no key, no network and hardly any time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from images_service import make_app

from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox

pytestmark = pytest.mark.virtual_time

PHOTO = Path("photos/chelsea.jpg").read_bytes()
TOKEN = "a-token-of-22-characters-or-more"


@pytest.fixture(autouse=True)
def settings(comet_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the service at the sandbox, as one would at a gateway."""
    monkeypatch.setenv("COMETAPI_API_ROOT", comet_sandbox.url)
    monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
    monkeypatch.setenv("JOURNALS", str(tmp_path))
    monkeypatch.setenv("HOOKS_URL", "https://example.org/hooks")
    monkeypatch.setenv("HOOKS_TOKEN", TOKEN)


@asynccontextmanager
async def worker() -> AsyncGenerator[AsyncClient, None]:
    """Run a worker of the service, and talk to it."""
    app = make_app()
    transport = ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://service", timeout=60) as client,
    ):
        yield client


async def test_a_lost_answer_and_a_repeated_request_cost_nothing(comet_sandbox: Sandbox) -> None:
    """The server charges, the connection drops, and the caller tries again."""
    comet_sandbox.faults.add(Fault("drop_after_charge"))
    async with worker() as client:
        first = await client.post("/images", content=PHOTO)
        second = await client.post("/images", content=PHOTO)
    assert first.status_code == 200
    assert first.json()["task"] == second.json()["task"]
    comet_sandbox.assert_charged(1)


async def test_two_workers_buy_an_image_once(comet_sandbox: Sandbox) -> None:
    """The second one has a journal of its own, and finds the task on the server."""
    async with worker() as one, worker() as other:
        first = await one.post("/images", content=PHOTO)
        second = await other.post("/images", content=PHOTO)
    assert first.json()["task"] == second.json()["task"]
    comet_sandbox.assert_charged(1)


async def test_a_restart_loses_nothing(comet_sandbox: Sandbox) -> None:
    """The caller learns that it takes longer; after a restart, the same request has the result."""
    comet_sandbox.tasks.hold()
    async with worker() as client:
        late = await client.post("/images", content=PHOTO)
    assert late.status_code == 504
    assert late.json()["detail"]["task_id"] is not None
    comet_sandbox.tasks.release()
    async with worker() as client:
        done = await client.post("/images", content=PHOTO)
    assert done.json()["task"] == late.json()["detail"]["task_id"]
    comet_sandbox.assert_charged(1)


async def test_a_callback_ends_the_wait(comet_sandbox: Sandbox) -> None:
    """It needs the token, and what it says is confirmed by a poll."""
    comet_sandbox.tasks.hold()
    async with worker() as client:
        waiting = asyncio.create_task(client.post("/images", content=PHOTO))
        task = await comet_sandbox.tasks.next()
        task.succeed()
        ended = {"task_id": task.id, "task_status": "succeed"}
        refused = await client.post("/hooks/cb/another-token-of-that-length", json=ended)
        heeded = await client.post(f"/hooks/cb/{TOKEN}", json=ended)
        assert (refused.status_code, heeded.status_code) == (404, 200)
        assert (await waiting).json()["task"] == task.id


async def test_what_is_no_image_is_refused_before_it_costs(comet_sandbox: Sandbox) -> None:
    """The answer says what is wrong."""
    async with worker() as client:
        refused = await client.post("/images", content=b"no image")
    assert refused.status_code == 422
    assert "not a PNG or JPEG" in refused.json()["detail"]["message"]
    comet_sandbox.assert_charged(0)
