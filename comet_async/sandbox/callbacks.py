"""Report a task's changes to the address that its request named.

Kling API: Callbacks, https://klingai.com/document-api/api/get-started/callbacks. Retries, timeouts
and order are not documented there; here each is sent once, in order, unless a switch says more.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from comet_async.clock import Clock
from comet_async.sandbox._api.ids import Ids
from comet_async.sandbox.options import CallbackOptions
from comet_async.sandbox.tasks import SandboxTask


class Post(Protocol):
    """Sends a body to an address."""

    async def __call__(self, url: str, body: bytes, headers: dict[str, str]) -> int | None:
        """Return the answer's status, or None if none came."""
        ...


@attrs.frozen(kw_only=True)
class Delivery:
    """A callback that was sent.

    Attributes:
        task_id: The task that changed.
        status: The status that was reported.
        url: Where it was sent.
        answer: HTTP status of the answer; None if the address was out of reach.
    """

    task_id: str
    status: str
    url: str = attrs.field(repr=False)
    answer: int | None


def sign(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a callback, as Standard Webhooks define it."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()


@attrs.define(eq=False, kw_only=True)
class Callbacks:
    """Sends callbacks, those of one task one after the other.

    Args:
        options: Whether and how.
        clock: Stamps them.
        ids: Names them.
        post: Sends them.
    """

    options: CallbackOptions
    clock: Clock
    ids: Ids
    post: Post
    deliveries: list[Delivery] = attrs.field(factory=list, init=False)
    """What was sent, in order."""
    _last: dict[str, asyncio.Task[None]] = attrs.field(factory=dict, init=False)
    _sending: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _held: dict[str, list[tuple[str, bytes]]] = attrs.field(factory=dict, init=False)

    def report(self, task: SandboxTask, shown: Mapping[str, Any]) -> None:
        """Send, in the background, that *task* changed; *shown* is the body's legacy form."""
        if not task.order.callback_url or task.status in self.options.drop:
            return
        value = shown if self.options.form == "legacy" else _new_form(shown)
        body = json.dumps(value, ensure_ascii=False).encode()
        notes = self._held.pop(task.id, [])
        notes.append((task.status, body))
        if self.options.backwards and not task.done:
            self._held[task.id] = notes
            return
        previous = self._last.get(task.id)
        sending = asyncio.create_task(self._send(task, notes[::-1], previous))
        self._last[task.id] = sending
        self._sending.add(sending)
        sending.add_done_callback(lambda done: self._forget(task.id, done))

    async def sent(self, task: SandboxTask) -> None:
        """Wait until what was reported about *task* so far is sent."""
        if task.id in self._last:
            await asyncio.wait([self._last[task.id]])

    async def close(self) -> None:
        """Stop sending."""
        sending = list(self._sending)
        for item in sending:
            item.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    def _forget(self, task_id: str, done: asyncio.Task[None]) -> None:
        self._sending.discard(done)
        if self._last.get(task_id) is done:
            del self._last[task_id]

    async def _send(
        self, task: SandboxTask, notes: list[tuple[str, bytes]], previous: asyncio.Task[None] | None
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        url = task.order.callback_url
        for status, body in notes:
            headers = self._headers(body)  # the same for repeats: a delivery has one id
            for _ in range(self.options.repeat):
                answer = await self.post(url, body, headers)
                self.deliveries.append(
                    Delivery(task_id=task.id, status=status, url=url, answer=answer)
                )

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self.options.secret is None:
            return headers
        name, stamp = self.ids.delivery_id(), int(self.clock.time())
        return headers | {
            "webhook-id": name,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(self.options.secret, name, stamp, body),
        }


def _new_form(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that Kling's newer API sends."""
    images = shown["task_result"].get("images", [])
    status = shown["task_status"]
    return {
        "id": shown["task_id"],
        "status": "succeeded" if status == "succeed" else status,
        "message": shown.get("task_status_msg") or "",
        "create_time": shown["created_at"],
        "update_time": shown["updated_at"],
        "external_id": shown["task_info"].get("external_task_id", ""),
        "outputs": [{"type": "image", "url": image["url"]} for image in images],
        "billing": [{"charge_type": "unit", "amount": shown.get("final_unit_deduction", "0")}],
    }
