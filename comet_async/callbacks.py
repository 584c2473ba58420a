"""Callbacks: hints that make a waiter ask now, and nothing else.

A callback may be forged, repeated, late, out of order, or never come. So nothing in it is
believed: it moves the task's next question forward, and the answer to that question counts. The
polling goes on slowly beneath, and a lost callback costs time, not a result.

The address holds a random token. Whoever guesses it could only make us ask a free question.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets as random_secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
from yarl import URL

from comet_async.addresses import is_loopback
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import ConfigError, DecodeError
from comet_async.secret import Secret
from comet_async.webhooks import TOLERANCE, WebhookVerifier
from comet_async.wire import Notice, decode_notice

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger("comet_async.callbacks")

MAX_BODY = 256 * 1024
"""The largest callback that is read, bytes; real ones have a few hundred."""

READ_TIMEOUT = 5.0
"""Seconds for a callback's body."""

_EARLY = 1000  # notices kept for tasks that nobody waits for yet
_PEERS = 1000  # senders whose pace is remembered
_BURST, _PACE = 200.0, 50.0  # callbacks at once, and a second, that one sender may send
_OK, _BAD, _UNSIGNED, _UNKNOWN, _TOO_LARGE, _TOO_MANY = 200, 400, 401, 404, 413, 429


def _check_public(url: str | None, *, allow_http: bool) -> str | None:
    if url is None:
        return None
    parsed = URL(url)
    plain = parsed.scheme == "http" and (allow_http or is_loopback(parsed.host))
    if not parsed.host or not (parsed.scheme == "https" or plain) or parsed.query_string:
        msg = f"public_url {url[:60]!r} must be an https address without a query"
        raise ConfigError(msg, hint="or pass allow_http=True for a network that you trust")
    return url.rstrip("/")


@attrs.define
class _Pace:
    """How many callbacks a sender may send now."""

    left: float
    at: float

    def takes(self, now: float) -> bool:
        self.left = min(_BURST, self.left + (now - self.at) * _PACE)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class CallbackReceiver:
    """Takes the server's callbacks and hints them to waiters.

    Three ways to use it: let it listen by itself (``async with CallbackReceiver(port=8080)``),
    mount `app` in an aiohttp application, or call `handle` from any other framework.

    Args:
        host: Address to listen on; this machine only by default.
        port: Port to listen on; 0 takes a free one.
        secret: The webhook secret (``whsec_…``) or, during a rotation, several. With one,
            callbacks without a good signature are refused.
        public_url: Where the server reaches us, up to and without the token; by default the
            address that is listened on.
        allow_http: Take a ``public_url`` that is not https.
        clock: For tests.

    Raises:
        ConfigError: The secret is no webhook secret, or ``public_url`` can't be used.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        secret: str | Secret | tuple[str | Secret, ...] | None = None,
        public_url: str | None = None,
        allow_http: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._address = host, port
        self._public = _check_public(public_url, allow_http=allow_http)
        given = secret if isinstance(secret, tuple) else () if secret is None else (secret,)
        self._verifier = WebhookVerifier(given) if given else None
        self._clock = clock
        self._token = random_secrets.token_urlsafe(32)
        self._listeners: dict[object, Callable[[Notice], object]] = {}
        self._early: OrderedDict[str, Notice] = OrderedDict()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._paces: OrderedDict[str, _Pace] = OrderedDict()
        self._runner: web.AppRunner | None = None
        self._port: int | None = None

    def __repr__(self) -> str:
        return f"<CallbackReceiver on {self._address[0]}:{self._port or self._address[1]}>"

    async def __aenter__(self) -> Self:
        """Listen."""
        from aiohttp import web  # noqa: PLC0415 - the server half, for this way of use only

        self._runner = web.AppRunner(self.app(), access_log=None)  # a log would hold the token
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._address)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening. It may be called again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def path(self) -> str:
        """The end of the address, ``/cb/`` and the token. Keep it out of logs."""
        return f"/cb/{self._token}"

    @property
    def url(self) -> str:
        """What to give to the server as ``callback_url``. Keep it out of logs.

        Raises:
            ConfigError: The receiver does not listen, and no ``public_url`` was given.
        """
        if self._public is not None:
            return self._public + self.path
        if self._port is None:
            raise ConfigError("the callback receiver is not listening", hint="use async with")
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}{self.path}"

    def subscribe(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """Call *listener* with each notice from now on; return what ends that."""
        ticket = object()
        self._listeners[ticket] = listener

        def end() -> None:
            self._listeners.pop(ticket, None)

        return end

    def early(self, task_id: str, external_task_id: str | None = None) -> Notice | None:
        """Return the last notice about a task, if one came before anybody waited for it."""
        return self._early.get(task_id) or (
            self._early.get(external_task_id) if external_task_id else None
        )

    def handle(self, headers: Mapping[str, str], body: bytes) -> int:
        """Take one callback, from whatever framework; return the HTTP status to answer with.

        Args:
            headers: The request's headers.
            body: The request's raw body; not parsed and written again.

        Returns:
            200; 400 for what is no callback, 401 for a missing or wrong signature, 413 for a
            body that is too large.
        """
        if len(body) > MAX_BODY:
            return _TOO_LARGE
        if self._verifier is not None:
            now = self._clock.time()
            delivery = self._verifier.verify(headers, body, now=now)
            if delivery is None:
                return _UNSIGNED
            if not self._is_new(delivery, now):
                return _OK  # delivered before: the sender has done its part
        try:
            notice = decode_notice(body)
        except DecodeError:
            return _BAD
        self._tell(notice)
        return _OK

    def app(self) -> web.Application:
        """Return an aiohttp application with the one route, to be mounted or run."""
        from aiohttp import web  # noqa: PLC0415 - the server half, for this way of use only

        app = web.Application(client_max_size=MAX_BODY + 1)
        app.router.add_post("/cb/{token}", self._receive)
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        from aiohttp import web  # noqa: PLC0415 - as above

        token = request.match_info["token"].encode()
        if not hmac.compare_digest(token, self._token.encode()):
            return web.Response(status=_UNKNOWN)
        if not self._in_pace(request.remote or ""):
            return web.Response(status=_TOO_MANY)
        body = None
        with contextlib.suppress(TimeoutError, web.HTTPRequestEntityTooLarge):
            async with asyncio.timeout(READ_TIMEOUT):
                body = await request.read()
        if body is None:
            return web.Response(status=_TOO_LARGE)
        return web.Response(status=self.handle(request.headers, body))

    def _tell(self, notice: Notice) -> None:
        for name in (notice.task_id, notice.external_task_id):
            if name:
                self._early[name] = notice
                self._early.move_to_end(name)
        while len(self._early) > _EARLY:
            self._early.popitem(last=False)
        for listener in list(self._listeners.values()):
            try:
                listener(notice)
            except Exception:  # one listener must not keep the hint from the others
                logger.exception("a listener of callbacks failed")

    def _is_new(self, delivery: str, now: float) -> bool:
        while self._seen and next(iter(self._seen.values())) < now - 2 * TOLERANCE:
            self._seen.popitem(last=False)
        if delivery in self._seen:
            return False
        self._seen[delivery] = now
        return True

    def _in_pace(self, peer: str) -> bool:
        now = self._clock.monotonic()
        pace = self._paces.setdefault(peer, _Pace(_BURST, now))
        self._paces.move_to_end(peer)
        if len(self._paces) > _PEERS:
            self._paces.popitem(last=False)
        return pace.takes(now)
