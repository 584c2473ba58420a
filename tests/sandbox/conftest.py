"""What the sandbox's tests have: a way to start one, and to talk to it without the library."""

from __future__ import annotations

import base64
import io
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest

from comet_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from comet_async.testing import VirtualClock

EXPAND = {"comet": "/kling/v1/images/editing/expand", "kling": "/v1/images/editing/expand"}
JSON = Any

RATIOS = {f"{side}_expansion_ratio": 0.1 for side in ("up", "down", "left", "right")}


@attrs.frozen
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> JSON:
        """The body's JSON."""
        return json.loads(self.raw)

    @property
    def data(self) -> JSON:
        """The envelope's data."""
        return self.json["data"]


@attrs.define
class Client:
    """A bare HTTP client with a key."""

    http: aiohttp.ClientSession
    sandbox: Sandbox
    photo: bytes
    profile: str = "kling"
    key: str | None = "sandbox-key"

    async def request(self, method: str, path: str, **more: Any) -> Reply:
        """Send one request and read the whole answer."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        headers |= more.pop("headers", {})
        if "json" in more:
            more["data"] = json.dumps(more.pop("json")).encode()
        if "data" in more:
            more["data"] = io.BytesIO(more["data"])  # aiohttp warns of large bytes
        url = path if path.startswith("http") else self.sandbox.url + path
        options = {"allow_redirects": False, "headers": headers} | more
        async with self.http.request(method, url, **options) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def create(self, **fields: Any) -> Reply:
        """Send an expand request; a field that is None is left out."""
        body = {"image": base64.b64encode(self.photo).decode()} | RATIOS | fields
        body = {key: value for key, value in body.items() if value is not None}
        return await self.request("POST", EXPAND[self.profile], json=body)

    async def query(self, name: str, **params: str) -> Reply:
        """Ask about one task."""
        return await self.request("GET", f"{EXPAND[self.profile]}/{name}", params=params)

    async def list(self, **params: str) -> Reply:
        """Ask for a page of the list."""
        return await self.request("GET", EXPAND[self.profile], params=params)

    async def finish(self, task_id: str) -> JSON:
        """Wait until a task ended; return what was shown last."""
        task = self.sandbox.tasks.get(task_id)
        while not task.done:
            await self.sandbox.tasks.clock.sleep(0.5)
        path = EXPAND[self.profile].replace("images/editing/expand", task.kind.path)
        return (await self.request("GET", f"{path}/{task_id}")).data


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Return an HTTP client."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield session


@pytest.fixture
async def start(
    clock: VirtualClock, http: aiohttp.ClientSession, photo: bytes
) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that starts a sandbox and returns a client of it."""
    async with AsyncExitStack() as stack:

        async def start(profile: str = "kling", **options: Any) -> Client:
            settings = {"clock": clock, "seed": 1, "engine": "pillow"} | options
            sandbox = await stack.enter_async_context(Sandbox(**settings))
            return Client(http, sandbox, photo, profile)

        yield start
