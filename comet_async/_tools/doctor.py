"""Is everything ready? Free questions about key, address, route, lookups, list and clock.

Rule of this file: it never sends a paid request.
"""

from __future__ import annotations

import importlib.util
import struct
import zlib
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime
from typing import Literal

import attrs

from comet_async._http.api import Api
from comet_async._http.balance import balance
from comet_async._http.transport import Transport
from comet_async._idempotency import random_key
from comet_async.auth import Credentials
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConfigError,
    NotFoundError,
    NotSentError,
    RouteUnavailableError,
)
from comet_async.gateways import Gateway, LookupForm
from comet_async.geometry import Margins
from comet_async.models import Task
from comet_async.requests import EXPAND, ExpandRequest, TaskKind
from comet_async.session import CometSession
from comet_async.waiter import TaskWaiter

Verdict = Literal["ok", "note", "warning", "problem"]

SKEW = 60.0
"""Seconds by which this machine's clock may differ from the server's: Kling's tokens are dated
by it (https://klingai.com/document-api/api/get-started/authentication)."""

_PAGE = 30

_EXTRAS = {
    "images": ("PIL", "--prepare and preview"),
    "sandbox": ("numpy", "--sandbox with its better painter"),
    "report": ("jinja2", "report"),
    "kling": ("jwt", "tokens from Kling's access key and secret key"),
}


@attrs.frozen(kw_only=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was looked at.
        verdict: ``ok``; ``note`` (worth knowing), ``warning`` (it works, not well), or
            ``problem`` (it will not work).
        text: What was seen.
        hint: What to do about it, or None.
        account_wide: True when the account is the problem.
    """

    name: str
    verdict: Verdict
    text: str
    hint: str | None = None
    account_wide: bool = False


async def examine(
    gateway: Gateway,
    credentials: Credentials,
    *,
    network: Network | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncGenerator[Check, None]:
    """Yield what is found out about *gateway*, in the order of asking; nothing is paid.

    Args:
        gateway: The API.
        credentials: What signs the questions.
        network: How to reach it.
        clock: Compared with the server's.
    """
    trusted = {gateway.root.host or "", *(("localhost",) if gateway.loopback else ())}
    transport = Transport(
        network=network or Network(),
        timeouts=Timeouts(),
        clock=clock,
        trusted=frozenset(trusted),
    )
    doctor = _Doctor(
        Api(gateway=gateway, credentials=credentials, transport=transport, clock=clock)
    )
    try:
        yield Check(name="address", verdict="ok", text=f"{gateway.name} at {gateway.root}")
        reached = await doctor.reach()
        yield reached
        if reached.verdict != "problem":
            for check in (await doctor.clock(), await doctor.route()):
                yield check
            yield await doctor.tasks()
            yield await doctor.lookups()
            yield await doctor.money()
        for check in _extras():
            yield check
    finally:
        await transport.aclose()


@attrs.define(eq=False)
class _Doctor:
    """Asks, and remembers what later questions need."""

    api: Api
    kind: TaskKind = EXPAND
    _date: str = attrs.field(default="", init=False)
    _known: Task | None = attrs.field(default=None, init=False)

    async def reach(self) -> Check:
        """Ask for anything: does the server answer, and does it take the key?"""
        transport, page = self.api.transport, self.api.gateway.page(self.kind, 1, 1)
        seconds = transport.timeouts.ask
        try:
            reply = await transport.ask(page, self.api.credentials, timeout=seconds)
            self._date = reply.headers.get("date", "")
            # Without an id: a gateway without a list still says whether it takes the key.
            await self.api.get(random_key(), kind=self.kind)
        except (NotSentError, ConfigError) as error:
            return _problem("connection", error, "the server can't be reached")
        except (AuthenticationError, AccountError) as error:
            return _problem("key", error, "the server refuses the key or the account")
        except CometError:
            pass  # an answer all the same; what it means is the next checks' business
        return Check(name="key", verdict="ok", text="the server answers and does not refuse it")

    async def clock(self) -> Check:
        """Compare the clocks."""
        try:
            theirs = parsedate_to_datetime(self._date).timestamp()
        except ValueError:
            return Check(name="clock", verdict="note", text="the server does not tell its time")
        skew = self.api.clock.time() - theirs
        if abs(skew) <= SKEW:
            return Check(name="clock", verdict="ok", text=f"{abs(skew):.0f} s off the server's")
        way = "ahead of" if skew > 0 else "behind"
        return Check(
            name="clock",
            verdict="warning",
            text=f"this machine is {abs(skew):.0f} s {way} the server",
            hint="set it by NTP: signed tokens are dated, and a wrong date is refused",
        )

    async def route(self) -> Check:
        """Ask for a task that does not exist: a route that is there says just that."""
        try:
            await self.api.get(random_key(), kind=self.kind)
        except NotFoundError:
            return Check(name="route", verdict="ok", text=f"{self.kind.path} answers")
        except RouteUnavailableError as error:
            return _problem("route", error, f"{self.kind.path} is not offered here")
        except CometError as error:
            text = f"{self.kind.path} answers oddly: {error.message}"
            return Check(name="route", verdict="warning", text=text, hint=error.hint)
        text = f"{self.kind.path} shows a task for an id that was never used"
        hint = "tasks can't be looked up here by their own id; that is known and allowed for"
        return Check(name="route", verdict="warning", text=text, hint=hint)

    async def tasks(self) -> Check:
        """Read the first page of the list; a task on it can prove the lookups."""
        try:
            page = await self.api.page(1, _PAGE, kind=self.kind)
        except CometError as error:
            text = f"it can't be read: {error.message}"
            hint = "not needed, but it can settle what a lost answer leaves open"
            return Check(name="list", verdict="note", text=text, hint=hint)
        self._known = next((task for task in page.tasks if task.external_task_id), None)
        many = len(page.tasks)
        text = f"{many}{' or more' if not page.last else ''} tasks"
        return Check(name="list", verdict="ok", text=text)

    async def money(self) -> Check:
        """Tell what is left in the account, where the gateway tells."""
        left = await balance(self.api)
        if left is None:
            return Check(name="balance", verdict="note", text="this gateway does not tell")
        if left.left is not None and left.left <= 0:
            hint = "top up the account, or buy a pack"
            return Check(name="balance", verdict="warning", text=str(left), hint=hint)
        return Check(name="balance", verdict="ok", text=str(left))

    async def lookups(self) -> Check:
        """Try each way to ask for a task by our own id on one that is known to exist."""
        known = self._known
        if known is None:
            text = "no task with an id of ours is there yet to try them on"
            hint = "each run proves them by its first task"
            return Check(name="lookups", verdict="note", text=text, hint=hint)
        forms = self.api.gateway.lookup_forms
        working = [form for form in forms if await self._tells_apart(known, form)]
        if working:
            text = f"tasks are found by our own id ({', '.join(working)})"
            return Check(name="lookups", verdict="ok", text=text)
        text = "tasks are not found by our own id, only in the list"
        hint = "a request whose answer is lost is searched for in the list"
        return Check(name="lookups", verdict="warning", text=text, hint=hint)

    async def _tells_apart(self, known: Task, form: LookupForm) -> bool:
        """Tell whether a question finds the known task, and nothing for an id never used.

        A gateway that ignores the question shows whatever it has, perhaps that very task.
        """
        found = await self._find(known.external_task_id or "", form)
        return (
            found is not None and found.id == known.id and not await self._find(random_key(), form)
        )

    async def _find(self, key: str, form: LookupForm) -> Task | None:
        try:
            return await self.api.find(key, kind=self.kind, form=form)
        except CometError:
            return None


def _problem(name: str, error: CometError, text: str) -> Check:
    return Check(
        name=name,
        verdict="problem",
        text=f"{text}: {error.message}",
        hint=error.hint,
        account_wide=error.account_wide,
    )


def _extras() -> list[Check]:
    """Tell which optional libraries are missing, and for what."""
    checks = []
    for extra, (module, use) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            hint = f"pip install 'comet-async[{extra}]' if you want it"
            text = f"{module} is not installed: no {use}"
            checks.append(Check(name=f"[{extra}]", verdict="note", text=text, hint=hint))
    return checks


SIDE = 300
"""The smallest image that the API takes, in pixels."""

_FEW = 30


def sample() -> bytes:
    """Return a small image of a sky, as PNG."""
    rows = b"".join(
        b"\0" + bytes((90 + y * 100 // SIDE, 150 + y * 80 // SIDE, 230)) * SIDE for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@attrs.define(eq=False)
class _Trial:
    api: Api
    task: Task

    async def lookup(self, form: str) -> Check:
        """Ask for the task by our own id, and for an id that was never used."""
        name, key = f"lookup ({form})", self.task.external_task_id or ""
        try:
            found = await self._find(key, form)
            other = await self._find(random_key(), form)
        except CometError as error:
            text = f"does not answer: {error.message}"
            return Check(name=name, verdict="note", text=text)
        if found is None or found.id != self.task.id:
            return Check(name=name, verdict="note", text="does not find the task")
        if other is not None:
            text = "shows a task for any id: it proves nothing"
            return Check(name=name, verdict="warning", text=text)
        text = "finds the task, and nothing for an id that was never used"
        return Check(name=name, verdict="ok", text=text)

    async def _find(self, key: str, form: str) -> Task | None:
        try:
            return await self.api.find(key, kind=ExpandRequest.kind, form=form)  # type: ignore[arg-type]  # one of the gateway's own
        except NotFoundError:
            return None

    async def listed(self) -> Check:
        """Look for the task in the list, and at the list's order."""
        try:
            page = await self.api.page(1, _FEW, kind=ExpandRequest.kind)
        except CometError as error:
            return Check(name="list", verdict="note", text=f"can't be read: {error.message}")
        shown = next((task for task in page.tasks if task.id == self.task.id), None)
        if shown is None:
            return Check(name="list", verdict="warning", text="does not show the task")
        made = [task.created_at for task in page.tasks if task.created_at is not None]
        order = "newest first" if made == sorted(made, reverse=True) else "in no order by time"
        named = "by its own id" if shown.external_task_id else "without its own id"
        text = f"shows the task {named}, {order}"
        return Check(name="list", verdict="ok" if shown.external_task_id else "warning", text=text)


async def examine_paid(session: CometSession) -> AsyncGenerator[Check, None]:
    """Buy one small expansion, and yield what it proves.

    Args:
        session: An open session; the task is billed to its account.

    Raises:
        CometError: It was not accepted, or it failed.
    """
    margins = Margins(right=0.1)
    task = await session.submit(ExpandRequest(image=sample(), margins=margins))
    yield Check(name="submit", verdict="ok", text=f"task {task.id} was accepted")
    # The questions one by one, as no program needs them: not a part of the public session.
    api = session._api  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    trial = _Trial(api, task)
    for form in session.gateway.lookup_forms:
        yield await trial.lookup(form)
    yield await trial.listed()
    done = await TaskWaiter(session).wait(task)
    took = ""
    if done.created_at is not None and done.updated_at is not None:
        took = f" after {(done.updated_at - done.created_at).total_seconds():.0f} s"
    charged = "" if done.units is None else f"; the server says it charged {done.units} units"
    yield Check(name="result", verdict="ok", text=f"it succeeded{took}{charged}")
