"""Is everything ready? Free checks of this machine, the key and the server.

Only `examine_paid` sends a paid request.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import attrs

from comet_async._http.api import Api
from comet_async._http.balance import balance
from comet_async._jobs.reconcile import Known, TaskLookup
from comet_async._journal.keys import random_key
from comet_async.auth import Credentials
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.config import Network, Proxies, Timeouts
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConfigError,
    NotFoundError,
    NotSentError,
    RouteUnavailableError,
    install_command,
)
from comet_async.gateways import Gateway, LookupForm
from comet_async.geometry import Margins
from comet_async.models import Task, TaskKind
from comet_async.requests import EXPAND, ExpandRequest
from comet_async.session import CometSession
from comet_async.waiter import TaskWaiter

Verdict = Literal["ok", "note", "warning", "problem"]

SKEW = 60.0
"""Seconds by which this machine's clock may differ from the server's: Kling's tokens are dated
by it (https://klingai.com/document-api/api/get-started/authentication)."""

_PAGE = 30

_EXTRAS = {
    "images": ("PIL", "Pillow", "conversion of images and previews"),
    "heif": ("pillow_heif", "pillow-heif", "HEIC, the format of iPhones"),
    "sandbox": ("numpy", "numpy", "the sandbox's better painter"),
    "report": ("jinja2", "Jinja2", "report page"),
    "kling": ("jwt", "PyJWT", "tokens from Kling's access key and secret key"),
    "speed": ("pybase64", "pybase64", "faster uploads and checks of PNG files"),
    "s3": ("obstore", "obstore", "images and results in S3"),
    "postgres": ("psycopg", "psycopg", "journal for several machines"),
    "fleet": ("pgqueuer", "pgqueuer", "queue for a fleet of workers"),
    "otel": ("opentelemetry", "opentelemetry-api", "traces and metrics"),
}

_CORE = ("aiohttp", "attrs", "tenacity", "yarl")

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")

_LEAST_SPACE = 500 * 1024 * 1024  # bytes; about a hundred results


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
    """Yield what is found out about *gateway*, in the order of checking; nothing is paid.

    Args:
        gateway: The API.
        credentials: What signs the requests.
        network: How to reach it.
        clock: Compared with the server's.
    """
    network = network or Network()
    api = Api.connect(gateway, credentials, network=network, timeouts=Timeouts(), clock=clock)
    doctor = _Doctor(api)
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
    finally:
        await api.transport.aclose()


@attrs.define(eq=False)
class _Doctor:
    """Polls the server, and remembers what later checks need."""

    api: Api
    kind: TaskKind = EXPAND
    _date: str = attrs.field(default="", init=False)
    _known: Task | None = attrs.field(default=None, init=False)

    async def reach(self) -> Check:
        """Send any free request: does the server reply, and does it accept the key?"""
        transport, page = self.api.transport, self.api.gateway.page(self.kind, 1, 1)
        seconds = transport.timeouts.request
        try:
            reply = await self.api.fetch(page, timeout=seconds)
            self._date = reply.headers.get("date", "")
            # A gateway without a list still says here whether it accepts the key.
            await self.api.get(random_key(), kind=self.kind)
        except (NotSentError, ConfigError) as error:
            return _problem("connection", error, "can't reach the server")
        except (AuthenticationError, AccountError) as error:
            return _problem("key", error, "rejected by the server")
        except CometError:
            pass  # a reply all the same; what it means is the next checks' business
        return Check(name="key", verdict="ok", text="the server accepts it")

    async def clock(self) -> Check:
        """Compare the clocks."""
        try:
            theirs = parsedate_to_datetime(self._date).timestamp()
        except ValueError:
            return Check(name="clock", verdict="note", text="the server does not send its time")
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
        """Poll a task that does not exist: a route that is there says just that."""
        try:
            await self.api.get(random_key(), kind=self.kind)
        except NotFoundError:
            return Check(name="route", verdict="ok", text=f"{self.kind.path} replies")
        except RouteUnavailableError as error:
            return _problem("route", error, f"{self.kind.path} is not offered here")
        except CometError as error:
            text = f"{self.kind.path} sends an unexpected reply: {error.message}"
            return Check(name="route", verdict="warning", text=text, hint=error.hint)
        text = f"{self.kind.path} shows a task for an id that was never used"
        hint = "tasks can't be looked up by our own id here; runs take that into account"
        return Check(name="route", verdict="warning", text=text, hint=hint)

    async def tasks(self) -> Check:
        """Read the first page of the list; a task on it can prove the lookups."""
        try:
            page = await self.api.page(1, _PAGE, kind=self.kind)
        except CometError as error:
            text = f"it can't be read: {error.message}"
            hint = "not needed, but it helps to find a task whose answer was lost"
            return Check(name="list", verdict="note", text=text, hint=hint)
        self._known = next((task for task in page.tasks if task.external_task_id), None)
        many = len(page.tasks)
        text = f"{many}{' or more' if not page.last else ''} tasks"
        return Check(name="list", verdict="ok", text=text)

    async def money(self) -> Check:
        """Read what is left in the account, where the gateway shows it."""
        left = await balance(self.api)
        if left is None:
            return Check(name="balance", verdict="note", text="this gateway does not show it")
        if left.remaining is not None and left.remaining <= 0:
            hint = "top up the account, or buy a pack"
            return Check(name="balance", verdict="warning", text=str(left), hint=hint)
        return Check(name="balance", verdict="ok", text=str(left))

    async def lookups(self) -> Check:
        """Try each way to look a task up by our own id on one that is known to exist."""
        known = self._known
        if known is None:
            text = "not tried: there is no task with an id of ours yet"
            hint = "each run tries them on its first task"
            return Check(name="lookups", verdict="note", text=text, hint=hint)
        forms = self.api.gateway.lookup_forms
        working = [form for form in forms if await self._tells_apart(known, form)]
        if working:
            text = f"tasks are found by our own id ({', '.join(working)})"
            return Check(name="lookups", verdict="ok", text=text)
        text = "tasks are not found by our own id, only in the list"
        hint = "a request whose answer was lost is searched for in the list"
        return Check(name="lookups", verdict="warning", text=text, hint=hint)

    async def _tells_apart(self, known: Task, form: LookupForm) -> bool:
        """Return True if a run would believe what this lookup shows."""
        one = Known(key=known.external_task_id or "", task_id=known.id)
        try:
            return await TaskLookup(self.api).tells_apart(self.kind, form, one)
        except CometError:
            return False


def _problem(name: str, error: CometError, text: str) -> Check:
    return Check(
        name=name,
        verdict="problem",
        text=f"{text}: {error.message}",
        hint=error.hint,
        account_wide=error.account_wide,
    )


# ---------------------------------------------------------------------------- this machine


def examine_machine(folder: Path, config: Path, *, proxy_from: str | None = None) -> list[Check]:
    """Return what can be checked without a key and without a server.

    Args:
        folder: Where results would be written.
        config: The program's configuration file.
        proxy_from: What names the proxy; None if only the environment may.
    """
    return [
        _versions(),
        *_extras(),
        _config(config),
        _proxy(proxy_from),
        _disk(folder),
        _terminal(),
    ]


def _versions() -> Check:
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _CORE)
    text = (
        f"comet-async {importlib.metadata.version('comet-async')}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.release()} {platform.machine()}, {libraries}"
    )
    return Check(name="versions", verdict="ok", text=text)


def _extras() -> list[Check]:
    """Check which optional libraries are installed, and what the missing ones are for."""
    checks = []
    for extra, (module, library, use) in _EXTRAS.items():
        name = f"[{extra}]"
        if importlib.util.find_spec(module) is None:
            hint = f"{install_command(extra)} if you want it"
            text = f"{library} is not installed: no {use}"
            checks.append(Check(name=name, verdict="note", text=text, hint=hint))
        else:
            text = f"{library} {importlib.metadata.version(library)}"
            checks.append(Check(name=name, verdict="ok", text=text))
    return checks


def _config(path: Path) -> Check:
    shown = _home(str(path))
    if not path.exists():
        return Check(name="configuration", verdict="ok", text=f"{shown} does not exist")
    return Check(name="configuration", verdict="ok", text=f"{shown} is used")


def _proxy(named_by: str | None) -> Check:
    if named_by is not None:
        return Check(name="proxy", verdict="ok", text=f"from {named_by}")
    try:
        Proxies.from_environment(os.environ)
    except ConfigError as error:
        return Check(name="proxy", verdict="problem", text=error.message, hint=error.hint)
    used = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    # The values may hold a password.
    text = f"from {', '.join(used)}" if used else "none"
    return Check(name="proxy", verdict="ok", text=text)


def _disk(folder: Path) -> Check:
    shown = _home(str(folder))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".comet-async-"):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            name="disk",
            verdict="warning",
            text=f"{shown} can't be written to: {error.strerror}",
            hint="choose an output folder elsewhere, or change this one's permissions",
        )
    text = f"{shown} can be written to; {free / 1e9:,.1f} GB free"
    if free < _LEAST_SPACE:
        return Check(name="disk", verdict="warning", text=text, hint="free some space")
    return Check(name="disk", verdict="ok", text=text)


def _terminal() -> Check:
    encoding = getattr(sys.stderr, "encoding", None) or "none"
    kind = os.environ.get("TERM", "unknown")
    columns = shutil.get_terminal_size().columns
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    size = f"{columns} columns" if is_terminal else "not a terminal"
    return Check(name="terminal", verdict="ok", text=f"{kind}, {encoding}, {size}")


def _home(path: str) -> str:
    """Return *path* without the user's name."""
    home = os.path.expanduser("~")  # noqa: PTH111 - text is all that is wanted
    return f"~{path[len(home) :]}" if home != "/" and path.startswith(f"{home}/") else path


# ---------------------------------------------------------------------------- the paid check


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
        """Look the task up by our own id, and an id that was never used."""
        name, key = f"lookup ({form})", self.task.external_task_id or ""
        try:
            found = await self._find(key, form)
            other = await self._find(random_key(), form)
        except CometError as error:
            text = f"does not reply: {error.message}"
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
    # The lookups one by one, as no program needs them: not a part of the public session.
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
