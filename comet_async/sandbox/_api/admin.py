"""The administration: tasks, faults and ledger in the hands of tests in other languages.

Every request carries the token. It can't come from a web page: pages of other origins can't set
``Authorization`` without asking first (CORS), and this server never agrees.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from aiohttp import web

from comet_async.errors import CometError, InputError
from comet_async.sandbox._api.answers import json_answer
from comet_async.sandbox._faults.injection import response
from comet_async.sandbox._faults.rules import Fault, Faults
from comet_async.sandbox.state import State
from comet_async.sandbox.tasks import SandboxTask

_Handler = Callable[[web.Request], Awaitable[object]]


class _NotFoundError(Exception):
    """There is no such task."""


@attrs.define(eq=False)
class Admin:
    """Handlers below ``/admin``.

    Args:
        state: What all handlers share.
        token: What requests must carry.
    """

    state: State
    token: str = attrs.field(repr=False)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        table: list[tuple[str, str, _Handler]] = [
            ("GET", "/admin/ledger", self._ledger),
            ("DELETE", "/admin/ledger", self._clear_ledger),
            ("GET", "/admin/faults", self._faults),
            ("POST", "/admin/faults", self._add_faults),
            ("DELETE", "/admin/faults", self._clear_faults),
            ("GET", "/admin/tasks", self._tasks),
            ("DELETE", "/admin/tasks", self._clear_tasks),
            ("POST", "/admin/tasks/hold", self._hold_all),
            ("POST", "/admin/tasks/release", self._release_all),
            ("GET", "/admin/tasks/{id}", self._task),
            ("POST", "/admin/tasks/{id}/succeed", self._succeed),
            ("POST", "/admin/tasks/{id}/fail", self._fail),
            ("POST", "/admin/tasks/{id}/hold", self._hold),
            ("POST", "/admin/tasks/{id}/release", self._release),
            ("POST", "/admin/reset", self._reset),
        ]
        return [web.route(method, path, self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: _Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return *handler* behind the check of the token, with its result as JSON."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                return _refusal(401, "the header Authorization: Bearer <admin token> is needed")
            try:
                return response(json_answer(await handler(request)))
            except _NotFoundError:
                return _refusal(404, "there is no such task")
            except (CometError, TypeError) as exc:
                return _refusal(400, str(exc))

        return guarded

    # ------------------------------------------------------------------ ledger

    async def _ledger(self, _request: web.Request) -> object:
        return self.state.ledger.as_dict() | {"unexpected": self.state.unexpected}

    async def _clear_ledger(self, request: web.Request) -> object:
        self.state.ledger.clear()
        self.state.leaks.clear()
        self.state.unexpected.clear()
        return await self._ledger(request)

    # ------------------------------------------------------------------ faults

    async def _faults(self, _request: web.Request) -> object:
        injected = self.state.faults.injected
        return {
            "faults": [attrs.asdict(fault) for fault in self.state.faults.rules],
            "injected": [
                {"kind": item.fault.kind, "call": item.call, "name": item.name} for item in injected
            ],
        }

    async def _add_faults(self, request: web.Request) -> object:
        """Add one fault by its fields, or several as ``{"text": "[CALL.]KIND[=CHANCE],…"}``."""
        fields = await _body(request)
        text = fields.get("text")
        for fault in [Fault(**fields)] if text is None else Faults.parse(str(text)).rules:
            self.state.faults.add(fault)
        return await self._faults(request)

    async def _clear_faults(self, request: web.Request) -> object:
        self.state.faults.clear()
        self.state.faults.injected.clear()
        return await self._faults(request)

    # ------------------------------------------------------------------ tasks

    async def _tasks(self, _request: web.Request) -> object:
        return {"tasks": [_as_dict(task) for task in self.state.tasks.all()]}

    async def _clear_tasks(self, request: web.Request) -> object:
        self.state.tasks.clear()
        return await self._tasks(request)

    async def _hold_all(self, request: web.Request) -> object:
        self.state.tasks.hold()
        return await self._tasks(request)

    async def _release_all(self, request: web.Request) -> object:
        self.state.tasks.release()
        return await self._tasks(request)

    async def _task(self, request: web.Request) -> object:
        return _as_dict(self._named(request))

    async def _succeed(self, request: web.Request) -> object:
        """Let a task succeed; ``{"images": ["<Base64>", …]}`` replaces its images."""
        task = self._named(request)
        images = (await _body(request)).get("images", [])
        if not isinstance(images, list):
            raise InputError("images must be a list", field="images", value=images, limit="a list")
        task.succeed(*map(_decoded, images))
        return _as_dict(task)

    async def _fail(self, request: web.Request) -> object:
        """Let a task fail; ``{"message": "…"}`` says why."""
        task = self._named(request)
        message = (await _body(request)).get("message")
        if message is None:
            task.fail()
        else:
            task.fail(str(message))
        return _as_dict(task)

    async def _hold(self, request: web.Request) -> object:
        task = self._named(request)
        task.hold()
        return _as_dict(task)

    async def _release(self, request: web.Request) -> object:
        task = self._named(request)
        task.release()
        return _as_dict(task)

    async def _reset(self, request: web.Request) -> object:
        """Forget everything: tasks, ledger and faults."""
        self.state.tasks.release()
        self.state.tasks.clear()
        self.state.callbacks.deliveries.clear()
        await self._clear_faults(request)
        return await self._clear_ledger(request)

    def _named(self, request: web.Request) -> SandboxTask:
        """Return the task that the path names by its id or external id."""
        name = request.match_info["id"]
        task = self.state.tasks.get(name) or self.state.tasks.find(name)
        if task is None:
            raise _NotFoundError
        return task


def _as_dict(task: SandboxTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "external_id": task.external_id,
        "kind": task.kind.name,
        "status": task.status,
        "message": task.message,
        "held": task.held,
        "polls": task.polls,
        "n": task.order.n,
    }


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the fields of the body; none for an empty one."""
    text = await request.read()
    try:
        fields = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict):
        return fields
    raise InputError("the body is not a JSON object", field="body", value="…", limit="an object")


def _decoded(image: object) -> bytes:
    try:
        return base64.b64decode(str(image), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            "an image is not Base64", field="images", value=str(image)[:20], limit="Base64"
        ) from None


def _refusal(status: int, message: str) -> web.StreamResponse:
    return response(json_answer({"error": message}, status))
