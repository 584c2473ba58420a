"""Put a fault on the wire: answers that are wrong, and connections that break."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import attrs
from aiohttp import web

from comet_async.clock import Clock
from comet_async.sandbox._api.answers import Answer, Dialect, html_answer
from comet_async.sandbox._api.refusals import CODES
from comet_async.sandbox._faults.rules import REDIRECTS, STATUSES, Fault
from comet_async.sandbox._faults.sockets import reset

GARBAGE = b"\x16\x03\x01 this is not HTTP\r\n\r\n"

_PIECES = 10  # of an answer that comes drop by drop
_HUGE = 10 * 1024**3
_BOMB = 128 * 1024**2
_BLOCK = b"\x89PNG\r\n\x1a\n" + bytes(64 * 1024 - 8)  # looks right at first sight
_EDGE = (
    "<!DOCTYPE html><html><head><title>{0} {1}</title></head><body><center><h1>{0} {1}</h1>"
    "</center><hr><center>cloudflare</center></body></html>"
)


def response(answer: Answer) -> web.Response:
    """Return aiohttp's form of *answer*."""
    headers = {"Content-Type": answer.content_type, **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


# ---------------------------------------------------------------------- answers that are wrong


def wrong_answer(fault: Fault, dialect: Dialect, good: Answer) -> Answer:
    """Return what is sent instead of the good answer."""
    answer = _wrong_answer(fault, dialect, good)
    if fault.retry_after is not None:
        answer = answer.with_headers({"Retry-After": fault.retry_after})
    return answer


def _wrong_answer(fault: Fault, dialect: Dialect, good: Answer) -> Answer:
    if fault.word in REDIRECTS:
        return Answer(status=int(fault.word), headers={"Location": fault.location})
    if fault.word in _MAKERS:
        return _MAKERS[fault.word](dialect, good)
    number = int(fault.word)
    if number in CODES:
        return dialect.coded(number)
    if good.content_type.startswith("image/"):  # a file server, which knows no API
        return _page(number)
    return _plain_status(dialect, number)


def _page(status: int) -> Answer:
    return html_answer(_EDGE.format(status, STATUSES[status]), status)


def _plain_status(dialect: Dialect, status: int) -> Answer:
    """Answer with an HTTP status in the form that this service is known to use for it."""
    if dialect.profile == "comet":
        codes = {400: "invalid_request", 403: "insufficient_user_quota"}
        if status in {400, 401, 402, 403, 500}:
            return dialect.openai(status, STATUSES[status], code=codes.get(status, ""))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return dialect.saturated()
    code = {400: 1200, 401: 1000, 403: 1103}.get(status)
    return dialect.coded(code) if code else _page(status)


def _edited(good: Answer, edit: Callable[[dict[str, Any]], None]) -> Answer:
    """Return *good* with *edit* applied to each object of its JSON; a page as it is."""
    if not good.content_type.startswith("application/json"):
        return good
    value = json.loads(good.body)
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            edit(item)
        todo.extend(item.values() if isinstance(item, dict) else item)
        todo = [item for item in todo if isinstance(item, dict | list)]
    return attrs.evolve(good, body=json.dumps(value).encode())


def _drop_task_id(item: dict[str, Any]) -> None:
    item.pop("task_id", None)


def _drop_status(item: dict[str, Any]) -> None:
    for name in ("task_status", "status"):
        item.pop(name, None)


def _twist_status(item: dict[str, Any]) -> None:
    for name in ("task_status", "status"):
        if name in item:
            item[name] = "pondering"


def _empty_data(item: dict[str, Any]) -> None:
    if "data" in item:
        item["data"] = []


def _gzip_bomb() -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(1024**2)
    packed = [packer.compress(zeros) for _ in range(_BOMB // len(zeros))]
    return b"".join([*packed, packer.flush()])


def _packed(good: Answer, body: bytes) -> Answer:
    return attrs.evolve(good, body=body).with_headers({"Content-Encoding": "gzip"})


_MAKERS: dict[str, Callable[[Dialect, Answer], Answer]] = {
    "html": lambda _dialect, _good: html_answer(_EDGE.format(200, "Just a moment..."), 200),
    "empty": lambda _dialect, _good: Answer(status=200),
    "truncated": lambda _dialect, good: attrs.evolve(good, body=good.body[: len(good.body) // 2]),
    "invalid_request": lambda dialect, _good: dialect.openai(
        500, "malformed request", code="invalid_request"
    ),
    "model_not_found": lambda dialect, _good: dialect.openai(
        503,
        "no available channel for group default and model kling_image (distributor)",
        code="model_not_found",
    ),
    "no_task_id": lambda _dialect, good: _edited(good, _drop_task_id),
    "no_status": lambda _dialect, good: _edited(good, _drop_status),
    "unknown_status": lambda _dialect, good: _edited(good, _twist_status),
    "empty_data": lambda _dialect, good: _edited(good, _empty_data),
    "not_found": lambda dialect, _good: dialect.not_found(),
    "wrong_magic": lambda _dialect, good: attrs.evolve(good, body=b"sorry! " + good.body[7:]),
    "gzip": lambda _dialect, good: _packed(good, gzip.compress(good.body, 1)),
    "gzip_bomb": lambda _dialect, good: _packed(good, _gzip_bomb()),
}


# ---------------------------------------------------------------------- connections that break


@attrs.define(eq=False, kw_only=True)
class Wire:
    """Sends answers, well or badly.

    Args:
        clock: Paces what is sent slowly.
    """

    clock: Clock
    _stalled: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    async def send(
        self, request: web.Request, fault: Fault | None, dialect: Dialect, good: Answer
    ) -> web.StreamResponse:
        """Send *good*, or what *fault* makes of it."""
        if fault is None:
            return response(good)
        behaviour = self._behaviours().get(fault.word)
        if behaviour is None:
            return response(await asyncio.to_thread(wrong_answer, fault, dialect, good))
        self._stalled.add(request.task)
        try:
            return await behaviour(request, fault, good)
        except ConnectionError:  # the client has had enough, which is what was wanted
            return web.Response()
        finally:
            self._stalled.discard(request.task)

    def close(self) -> None:
        """End all connections that were left hanging."""
        for task in self._stalled:
            task.cancel()

    def _behaviours(
        self,
    ) -> dict[str, Callable[[web.Request, Fault, Answer], Awaitable[web.StreamResponse]]]:
        return {
            "drop": self._drop,
            "late": self._drop,
            "reset": self._reset,
            "hang": self._hang,
            "garbage": self._garbage,
            "slow": self._slow,
            "cut_reply": self._cut,
            "huge": self._flood,
            "endless": self._flood,
        }

    async def _hang(
        self, _request: web.Request, _fault: Fault, _good: Answer
    ) -> web.StreamResponse:
        """Wait until the other side gives up: the server then cancels the request's handler."""
        never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
        return await never

    async def _drop(self, request: web.Request, fault: Fault, good: Answer) -> web.StreamResponse:
        _close(request)
        return await self._hang(request, fault, good)

    async def _reset(self, request: web.Request, fault: Fault, good: Answer) -> web.StreamResponse:
        if request.transport is not None:  # the client may have gone already
            reset(request.transport)
        return await self._hang(request, fault, good)

    async def _garbage(
        self, request: web.Request, fault: Fault, good: Answer
    ) -> web.StreamResponse:
        _close(request, GARBAGE)
        return await self._hang(request, fault, good)

    async def _slow(self, request: web.Request, fault: Fault, good: Answer) -> web.StreamResponse:
        stream = await _start(request, good, length=len(good.body))
        step = max(1, -(-len(good.body) // _PIECES))
        for start in range(0, len(good.body), step):
            await self.clock.sleep(fault.seconds / _PIECES)
            await stream.write(good.body[start : start + step])
        await stream.write_eof()
        return stream

    async def _cut(self, request: web.Request, fault: Fault, good: Answer) -> web.StreamResponse:
        stream = await _start(request, good, length=len(good.body))
        await stream.write(good.body[: len(good.body) // 2])
        return await self._drop(request, fault, good)

    async def _flood(self, request: web.Request, fault: Fault, good: Answer) -> web.StreamResponse:
        length = _HUGE if fault.word == "huge" else None
        stream = await _start(request, good, length=length)
        while True:
            await stream.write(_BLOCK)


def _close(request: web.Request, last_words: bytes = b"") -> None:
    if request.transport is not None:  # the client may have gone already
        request.transport.write(last_words)
        request.transport.close()


async def _start(request: web.Request, good: Answer, *, length: int | None) -> web.StreamResponse:
    headers = {"Content-Type": good.content_type, **good.headers}
    stream = web.StreamResponse(status=good.status, headers=headers)
    stream.content_length = length
    if length is None:
        stream.enable_chunked_encoding()
    await stream.prepare(request)
    return stream


@attrs.define(eq=False)
class Refuser(asyncio.Protocol):
    """A connection that goes wrong as soon as it is accepted.

    Args:
        fault: How.
        hanging: Connections to close in the end; this one is among them while it is open.
    """

    fault: Fault
    hanging: set[asyncio.BaseTransport]
    _transport: asyncio.BaseTransport | None = attrs.field(default=None, init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Do what the fault says."""
        self._transport = transport
        self.hanging.add(transport)
        if self.fault.word == "reset":
            reset(transport)
        if self.fault.word == "garbage" and isinstance(transport, asyncio.WriteTransport):
            transport.write(GARBAGE)
        if self.fault.word in {"drop", "garbage"}:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Forget the connection."""
        if self._transport is not None:
            self.hanging.discard(self._transport)
