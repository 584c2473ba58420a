"""The three calls of the API, create, query and list, in both profiles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs
from aiohttp import web

from comet_async.sandbox._api import checks
from comet_async.sandbox._api.answers import Answer, Dialect
from comet_async.sandbox._api.checks import Fields, Kind
from comet_async.sandbox._api.refusals import (
    AccountRefusalError,
    BodyTooLargeError,
    RefusalError,
)
from comet_async.sandbox._faults.rules import Call, Fault
from comet_async.sandbox.ledger import Charge, Post, shorten
from comet_async.sandbox.options import Profile
from comet_async.sandbox.state import State
from comet_async.sandbox.tasks import SandboxTask

P = ParamSpec("P")
T = TypeVar("T")

_OFF_THE_LOOP = 64 * 1024  # bytes of a body from which on it is read in a thread

_PAGE_NUMBERS = range(1, 1001)
_PAGE_SIZES = range(1, 501)
_DEFAULT_PAGE_SIZE = 30

_ACCOUNT_CODES = {"arrears": 1101, "empty": 1102, "no_right": 1103, "ip": 1304, "abnormal": 1100}


@attrs.define(eq=False)
class Api:
    """Handlers of one kind of task in one profile.

    Args:
        state: What all handlers share.
        kind: The kind of task.
        profile: Which service is imitated.
    """

    state: State
    kind: Kind
    profile: Profile
    _accepting: set[asyncio.Task[SandboxTask | RefusalError]] = attrs.field(factory=set, init=False)

    def routes(self, prefix: str) -> list[web.RouteDef]:
        """Return the routes below *prefix*."""
        path = f"{prefix}/{self.kind.path}"
        return [
            web.post(path, self.create),
            web.get(path, self.collection, allow_head=False),
            web.get(path + "/{id}", self.item, allow_head=False),
            web.route("*", path, self.wrong_method),
            web.route("*", path + "/{id}", self.wrong_method),
        ]

    # ------------------------------------------------------------------ create

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Accept a request, charge for it, and start its task."""
        dialect = self.state.dialect(self.profile)
        body = await _read(request)
        fields = await _off_loop(body, _parse, body) if body is not None else BodyTooLargeError()
        known = {} if isinstance(fields, RefusalError) else fields
        name = checks.external_id(known)
        self._note(request, name, known)
        fault = self.state.take("create", name=name)
        if fault is not None:
            if fault.word == "late":
                self._accept_later(request, body or b"", fields, delay=fault.seconds)
            return await self._send(request, dialect, Answer(), fault)
        missing = dialect.missing_route(request.method, request.path)
        if missing is not None:
            return await self._send(request, dialect, missing)
        # Shielded: a service goes on though the client hangs up, and so charges.
        task = await asyncio.shield(self._accept_later(request, body or b"", fields))
        if isinstance(task, RefusalError):
            return await self._send(request, dialect, dialect.refusal(task))
        if self.state.options.callbacks.before_answer:
            await self.state.callbacks.sent(task)
        fault = self.state.take("create", task, charged=True)
        return await self._send(request, dialect, dialect.created(task), fault)

    def _accept_later(
        self, request: web.Request, body: bytes, fields: Fields | RefusalError, delay: float = 0.0
    ) -> asyncio.Task[SandboxTask | RefusalError]:
        async def accept() -> SandboxTask | RefusalError:
            await self.state.clock.sleep(delay)
            try:
                return await self._accept(request, body, fields)
            except RefusalError as exc:
                return exc

        accepting = asyncio.create_task(accept())
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        return accepting

    async def _accept(
        self, request: web.Request, body: bytes, fields: Fields | RefusalError
    ) -> SandboxTask:
        """Check in the documented order, charge, and start the task."""
        self.state.check_key(request, self.profile)
        trouble = self.state.options.account
        if trouble is not None:
            raise AccountRefusalError(_ACCOUNT_CODES[trouble])
        if isinstance(fields, RefusalError):
            raise fields
        options = self.state.options
        order = await _off_loop(body, self.kind.check, fields, options, self.profile)
        # From here on nothing may wait: what was free must still be free when it is charged.
        self.state.tasks.admit(order)
        task = self.state.tasks.create(self.kind, order, self.profile)
        self.state.ledger.charges.append(
            Charge(
                at=self.state.clock.time(),
                external_task_id=task.external_id,
                task_id=task.id,
                n=order.n,
                kind=self.kind.name,
            )
        )
        return task

    def _note(self, request: web.Request, name: str, fields: Fields) -> None:
        self.state.changes.notify()
        self.state.ledger.posts.append(
            Post(
                at=self.state.clock.time(),
                external_task_id=name,
                path=request.path,
                body=shorten(fields),
            )
        )

    async def close(self) -> None:
        """Stop what is being accepted, and what was to be charged late."""
        accepting = list(self._accepting)
        for item in accepting:
            item.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)

    # ------------------------------------------------------------------ query

    async def item(self, request: web.Request) -> web.StreamResponse:
        """Return one task, by its id or by the client's own."""
        name = request.match_info["id"]
        given = request.query.get("external_task_id")
        task = self.state.tasks.get(name) if given is None else None
        if task is not None:
            return await self._report(request, "query", task, name)
        form = {None: "A", "true": "C", name: "D"}.get(given, "A")
        forms = self.state.options.lookups
        if form in forms or "A" in forms:  # where A works, a query is simply ignored
            task = self.state.tasks.find(name)
        # Ids of Kling's are numbers: asking for one that is unknown is no lookup.
        return await self._report(request, "query" if name.isdigit() else "find", task, name)

    async def _report(
        self, request: web.Request, call: Call, task: SandboxTask | None, name: str
    ) -> web.StreamResponse:
        dialect = self.state.dialect(self.profile)
        fault = self.state.take(call, task, name)
        answer = self._refused(request, dialect)
        if fault is not None and fault.word == "other_task":
            task, fault = self._another(task), None
        if answer is not None:
            return await self._send(request, dialect, answer, fault)
        if task is None or task.kind is not self.kind or not self.state.tasks.visible(task):
            return await self._send(request, dialect, dialect.not_found(), fault)
        return await self._send(request, dialect, dialect.task(task), fault)

    def _another(self, task: SandboxTask | None) -> SandboxTask | None:
        others = (item for item in reversed(self.state.tasks.all()) if item is not task)
        return next((item for item in others if item.kind is self.kind), None)

    def _refused(self, request: web.Request, dialect: Dialect) -> Answer | None:
        missing = dialect.missing_route(request.method, request.path)
        if missing is not None:
            return missing
        try:
            self.state.check_key(request, self.profile)
        except RefusalError as exc:
            return dialect.refusal(exc)
        return None

    # ------------------------------------------------------------------ list

    async def collection(self, request: web.Request) -> web.StreamResponse:
        """List tasks; with ``external_task_id``, look one up (form B)."""
        name = request.query.get("external_task_id")
        if name and "B" in self.state.options.lookups:
            return await self._report(request, "find", self.state.tasks.find(name), name)
        dialect = self.state.dialect(self.profile)
        fault = self.state.take("list")
        answer = self._refused(request, dialect) or self._list(request, dialect)
        return await self._send(request, dialect, answer, fault)

    def _list(self, request: web.Request, dialect: Dialect) -> Answer:
        if not self.state.options.list_tasks:
            return dialect.wrong_method(request.method, request.path)
        try:
            number = _whole(request, "pageNum", 1, _PAGE_NUMBERS)
            size = _whole(request, "pageSize", _DEFAULT_PAGE_SIZE, _PAGE_SIZES)
        except RefusalError as exc:
            return dialect.refusal(exc)
        return dialect.page(self.state.tasks.page(self.kind, number, size))

    async def wrong_method(self, request: web.Request) -> web.StreamResponse:
        """Refuse a method that the path does not have."""
        self.state.note_unexpected(request, "the path does not have this method")
        dialect = self.state.dialect(self.profile)
        return await self._send(
            request, dialect, dialect.wrong_method(request.method, request.path)
        )

    async def _send(
        self, request: web.Request, dialect: Dialect, answer: Answer, fault: Fault | None = None
    ) -> web.StreamResponse:
        if request.method == "POST":
            # The body must look like the service's, so a header says the truth.
            answer = answer.with_headers({"X-Sandbox-Prompt": "ignored"})
        return await self.state.send(request, dialect, answer, fault)


async def _read(request: web.Request) -> bytes | None:
    """Return the request's body, or None if it is too large."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


async def _off_loop(body: bytes, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *call* returns; a large *body* is not worked on in the event loop."""
    if len(body) < _OFF_THE_LOOP:
        return call(*args, **kwargs)
    return await asyncio.to_thread(call, *args, **kwargs)


def _parse(body: bytes) -> Fields | RefusalError:
    try:
        return checks.parse(body)
    except RefusalError as exc:
        return exc


def _whole(request: web.Request, name: str, default: int, span: range) -> int:
    text = request.query.get(name, str(default))
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(span.stop))
    if not digits or int(text) not in span:
        raise RefusalError(1201, f"{name} value '{text[:100]}' is invalid")
    return int(text)
