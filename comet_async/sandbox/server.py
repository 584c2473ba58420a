"""The sandbox: a server on this machine that speaks both services' API and keeps the accounts."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Literal, Self

from aiohttp import web

from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import ConfigError, MissingExtraError
from comet_async.sandbox._api.account import Account
from comet_async.sandbox._api.admin import Admin
from comet_async.sandbox._api.checks import KINDS, MAX_BODY
from comet_async.sandbox._api.handlers import Api
from comet_async.sandbox._api.hosts import HostGuard
from comet_async.sandbox._api.ids import Ids
from comet_async.sandbox._faults.injection import Refuser, Wire
from comet_async.sandbox._faults.rules import Faults
from comet_async.sandbox._pages.site import Site
from comet_async.sandbox._painting.images import EngineChoice, Studio
from comet_async.sandbox.callbacks import Callbacks, Delivery
from comet_async.sandbox.ledger import Ledger
from comet_async.sandbox.options import Options, Profile
from comet_async.sandbox.outgoing import Loopback
from comet_async.sandbox.results import REACHED_AT, Leak, Results
from comet_async.sandbox.state import State
from comet_async.sandbox.tasks import SandboxTask, Tasks

DEFAULT_KEY = "sandbox-key"
"""The API key that a sandbox takes by default."""

_PROFILES: dict[str, Profile] = {"/kling/v1": "comet", "/v1": "kling"}

# What a client on this machine calls a server that listens on all addresses.
_LOCAL = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - a name, no socket

_SHUTDOWN_SECONDS = 1.0  # for answers that are being sent

_logger = logging.getLogger(__name__)


class Sandbox:
    """A local stand-in for CometAPI and Kling, both at once.

    CometAPI's paths begin with ``/kling/v1/``, Kling's with ``/v1/``; they share one account.
    Images are really expanded, on this machine. Prompts are checked but not followed.

    Example:
        >>> async with Sandbox(speed=20) as sandbox:
        ...     print(sandbox.url, len(sandbox.ledger.charges))

    Args:
        port: Where to listen; 0 takes a free port.
        host: Address to listen on; only this machine by default.
        key: The API key that is accepted; None accepts any.
        speed: How many times faster than the service tasks are: with 60 a task of 20 s takes
            a third of a second, or as long as its images take to paint.
        clock: Where time comes from.
        seed: Makes durations, ids and chances of faults repeatable; None differs in each run.
        engine: What paints: ``patchmatch``, ``pillow``, or ``auto`` for the best that is
            installed. ``stub`` makes grey images of the right size; it needs neither Pillow nor
            numpy, and hardly any time.
        output: ``exact`` pixels, or ``cloudlike`` sizes as the paid service answers with.
        limit: How many images may be in flight, as in the account's pack; None for any.
        faults: What is to go wrong; more can be added at any time through ``faults``.
        options: Switches for everything in which services differ.
        save_dir: Keep result files in this folder instead of in memory.
        allowed_hosts: Host names under which it may be reached, besides ``localhost`` and IP
            addresses: in a container the name of its service, for example.
        admin_token: Opens the administration below ``/admin`` to requests that carry this token
            as ``Authorization: Bearer``. Without one there is no administration.

    Raises:
        ConfigError: *speed* or *limit* is not positive, or *admin_token* is empty.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of its own; switches are in Options
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        key: str | None = DEFAULT_KEY,
        speed: float = 1.0,
        clock: Clock = SYSTEM_CLOCK,
        seed: int | None = None,
        engine: EngineChoice = "auto",
        output: Literal["exact", "cloudlike"] = "exact",
        limit: int | None = 20,
        faults: Faults | None = None,
        options: Options | None = None,
        save_dir: str | os.PathLike[str] | None = None,
        allowed_hosts: Iterable[str] = (),
        admin_token: str | None = None,
    ) -> None:
        if speed <= 0 or (limit is not None and limit <= 0):
            raise ConfigError("the sandbox's speed and limit must be greater than zero")
        if admin_token is not None and not admin_token.strip():
            raise ConfigError("the sandbox's admin_token must not be empty")
        self._address = (host, port)
        self._root = ""
        self._loopback = Loopback()
        self._hanging: set[asyncio.BaseTransport] = set()
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._started = False

        self._engine = engine
        self._allowed_hosts = tuple(allowed_hosts)
        self._admin_token = admin_token

        options = options or Options()
        ids = Ids(seed)
        results = Results(
            clock=clock, options=options, folder=Path(save_dir) if save_dir is not None else None
        )
        self._studio = Studio(
            results=results, fetch=self._loopback.fetch, engine=engine, output=output
        )
        self._state = State(
            clock=clock,
            key=key,
            options=options,
            ids=ids,
            ledger=Ledger(),
            faults=faults or Faults(seed=seed),
            results=results,
            tasks=Tasks(
                clock=clock,
                ids=Ids(seed),
                options=options,
                speed=speed,
                limit=limit,
                make=self._studio.make,
                changed=self._changed,
            ),
            callbacks=Callbacks(
                options=options.callbacks, clock=clock, ids=ids, post=self._loopback.post
            ),
            wire=Wire(clock=clock),
        )
        self._apis = [
            (prefix, Api(self._state, kind, profile))
            for prefix, profile in _PROFILES.items()
            for kind in KINDS.values()
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._root or 'not running'}>"

    # ------------------------------------------------------------------ what it knows

    @property
    def url(self) -> str:
        """Its root, for example ``http://127.0.0.1:8765``; empty while it is not running.

        A sandbox that listens on all addresses (``0.0.0.0``) shows the one for this machine.
        """
        return self._root

    @property
    def key(self) -> str | None:
        """The API key that is accepted; None if any is."""
        return self._state.key

    @property
    def ledger(self) -> Ledger:
        """What was charged, and all create calls."""
        return self._state.ledger

    @property
    def tasks(self) -> Tasks:
        """All tasks."""
        return self._state.tasks

    @property
    def faults(self) -> Faults:
        """What is to go wrong, and what has; rules can be added at any time."""
        return self._state.faults

    @property
    def options(self) -> Options:
        """The switches it was started with."""
        return self._state.options

    @property
    def deliveries(self) -> list[Delivery]:
        """The callbacks that were sent."""
        return self._state.callbacks.deliveries

    @property
    def leaks(self) -> list[Leak]:
        """Requests for results that carried a key; there must be none."""
        return self._state.leaks

    # ------------------------------------------------------------------ what a test expects

    def assert_charged(self, times: int) -> None:
        """Check how many create calls were charged.

        Raises:
            AssertionError: It was another number; the message lists the charges.
        """
        charges = self.ledger.charges
        if len(charges) != times:
            names = ", ".join(item.external_task_id or item.task_id for item in charges) or "none"
            raise AssertionError(f"expected {times} charges, found {len(charges)}: {names}")

    def assert_nothing_charged_twice(self) -> None:
        """Check that no external id was charged more than once.

        Raises:
            AssertionError: One was; the message names it.
        """
        twice = self.ledger.charged_twice()
        if twice:
            raise AssertionError(f"charged more than once: {', '.join(twice)}")

    def assert_no_unexpected_requests(self) -> None:
        """Check that all requests were of a kind that a correct client sends.

        Unexpected are unknown paths, methods that a path does not have, requests for results that
        carry the key, and requests that name a foreign host.

        Raises:
            AssertionError: There were others; the message lists them.
        """
        if self._state.unexpected:
            raise AssertionError("unexpected requests:\n" + "\n".join(self._state.unexpected))

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            MissingExtraError: Pillow is not installed, and the engine is not ``stub``.
            ConfigError: It was started before, or *host* can't be one.
            OSError: The address is taken or not ours.
        """
        if self._started:
            raise ConfigError("a sandbox can be started only once: make a new one")
        if self._engine != "stub" and importlib.util.find_spec("PIL") is None:
            raise MissingExtraError(
                'the sandbox paints with Pillow, except with engine="stub"', extra="sandbox"
            )
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            handler_cancellation=True,  # a handler that never answers ends with its client
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        self._runner, self._started = runner, True
        host, port = self._address
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connect, host, port, reuse_address=True
            )
        except OSError:
            await self.aclose()
            raise
        except UnicodeError:  # from the encoding of names, before anything is looked up
            await self.aclose()
            raise ConfigError(f"the sandbox can't listen on {host!r}: it is not a host") from None
        port = self._server.sockets[0].getsockname()[1]
        shown = _LOCAL.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        self._root = self._state.results.root = f"http://{shown}:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop: connections, tasks and callbacks end, a painting that has begun is awaited."""
        if self._server is not None:
            self._server.close()
        self._state.changes.close()
        self._state.wire.close()
        for transport in list(self._hanging):
            transport.close()
        for _, api in self._apis:
            await api.close()
        await self._state.tasks.close()
        await self._state.callbacks.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._studio.close()
        await self._state.results.close()
        await self._loopback.close()
        self._server = self._runner = None

    def _app(self) -> web.Application:
        guard = HostGuard(
            (*self._allowed_hosts, self._address[0]),
            lambda request: self._state.note_unexpected(request, "foreign Host"),
        )
        app = web.Application(client_max_size=MAX_BODY, middlewares=[guard.middleware])
        if self._address[0] in _LOCAL:
            app.middlewares.append(_remember_root)
        for prefix, api in self._apis:
            app.add_routes(api.routes(prefix))
        app.add_routes(Account(self._state).routes())
        if self._admin_token is not None:
            app.add_routes(Admin(self._state, self._admin_token).routes())
        app.add_routes(Site(self._state).routes())
        app.on_response_prepare.append(self._set_date)
        return app

    async def _set_date(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Date answers by the sandbox's clock: clients may compare the two."""
        response.headers["Date"] = email.utils.formatdate(self._state.clock.time(), usegmt=True)

    def _connect(self) -> asyncio.BaseProtocol:
        fault = self._state.take("accept")
        if fault is not None:
            return Refuser(fault, self._hanging)
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("a connection came before the start or after the end")
        return self._runner.server()

    def _changed(self, task: SandboxTask) -> None:
        if task.status == "failed":
            self._state.ledger.refunds.append(task.id)
        _logger.debug("task %s is %s", task.id, task.status)
        self._state.changes.notify()
        if task.order.callback_url:
            self._state.callbacks.report(task, self._state.dialect(task.profile).notification(task))


@web.middleware
async def _remember_root(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let result URLs begin with the address under which the client knows the sandbox."""
    REACHED_AT.set(f"http://{request.host}")
    return await handler(request)


async def serve(sandbox: Sandbox, *, ready: Callable[[Sandbox], None] | None = None) -> None:
    """Run *sandbox* until this call is cancelled.

    Args:
        sandbox: Not started yet.
        ready: Called once it listens; the place to say where.

    Raises:
        MissingExtraError: Pillow is not installed, and the engine is not ``stub``.
        OSError: The address is taken or not ours.
    """
    async with sandbox:
        if ready is not None:
            ready(sandbox)
        await asyncio.get_running_loop().create_future()
