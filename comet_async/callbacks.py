"""`CallbackReceiver`: takes callbacks, by which the server says that a task may have changed.

A callback is a reason to poll now, and nothing else, whatever it says: those that come through a
gateway are not signed, so it may be forged. What it claims is never used as an answer.
Kling's page on callbacks: https://klingai.com/document-api/api/get-started/callbacks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import hashlib
import hmac
import ipaddress
import logging
import re
import secrets as random_secrets
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypeVar, final

import attrs
from yarl import URL

from comet_async._validation import check_clock, check_flag, check_several
from comet_async._wire.decode import Notification, decode_notification
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.errors import ConfigError, DecodeError, InputError
from comet_async.models import TaskStatus
from comet_async.secret import Secret

if TYPE_CHECKING:
    from aiohttp import web

    from comet_async._http.callback_server import CallbackServer


_logger = logging.getLogger("comet_async.callbacks")

# Signatures -----------------------------------------------------------------------------

TOLERANCE = 300.0
"""Seconds that a signature's time may be off; the specification's five minutes."""

_PREFIX = "whsec_"
_ID, _TIME, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
# Svix, where the scheme comes from, has names of its own for the same three headers.
_OTHER_PREFIX = "svix-"


_COPY_SECRET = "copy it from the console as it is: whsec_…"  # noqa: S105  # advice


def _is_text(value: object) -> bool:
    return isinstance(value, str | Secret)


def _bad_secret(why: str) -> ConfigError:
    return ConfigError(
        f"the webhook secret {why}", field="secret", limit="whsec_ and Base64", hint=_COPY_SECRET
    )


@final
class WebhookSecret:
    """A secret that callbacks are signed with; it does not show itself.

    Args:
        value: As the console shows it: ``whsec_`` and Base64. The prefix may be missing.

    Raises:
        ConfigError: It is not a webhook secret.
    """

    __slots__ = ("__key",)

    def __init__(self, value: str | Secret) -> None:
        if not _is_text(value):
            raise _bad_secret(f"is {type(value).__name__}, not text")
        text = (value.reveal() if isinstance(value, Secret) else value).strip(" \t\ufeff")
        if not text:
            raise _bad_secret("is empty")
        if not all("!" <= character <= "~" for character in text):
            raise _bad_secret("holds a space, a line break or a character outside ASCII")
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not key:
            raise _bad_secret("is not Base64 text")
        self.__key = key

    def __repr__(self) -> str:
        return "WebhookSecret('…')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WebhookSecret can't be pickled; read it again where it is needed")

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """Return the signature of a callback, as its header holds it.

        Args:
            message_id: The header ``webhook-id``.
            timestamp: The header ``webhook-timestamp``: seconds since 1970.
            body: The body, as it travels.
        """
        # A header with bytes that are not UTF-8 comes with surrogates for them.
        signed = f"{message_id}.{timestamp}.".encode(errors="surrogatepass") + body
        digest = hmac.new(self.__key, signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"


def signed_headers(
    secret: WebhookSecret, body: bytes, *, message_id: str, now: float
) -> dict[str, str]:
    """Return the headers of a signed callback: for tests of your own receiver.

    Args:
        secret: What to sign with.
        body: The body, as it travels.
        message_id: A unique id of the delivery.
        now: The wall clock, in seconds since 1970.
    """
    timestamp = int(now)
    return {
        _ID: message_id,
        _TIME: str(timestamp),
        _SIGNATURE: secret.sign(message_id, timestamp, body),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[WebhookSecret],
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> str:
    """Check a callback's signature; return its ``webhook-id``.

    Any of the signatures in the header may match any of the secrets: there are two of each while
    a secret is rotated.

    Args:
        headers: The callback's headers, in any case.
        body: The body, as it came: parsing and writing it again would change it.
        secrets: The secrets that are valid now.
        now: The wall clock.
        tolerance: Seconds that the signature's time may be off, either way. 300 by default.

    Raises:
        InputError: The signature is missing, too old, or of another secret.
    """
    known = {_standard(name.lower()): value for name, value in headers.items()}
    message_id = known.get(_ID, "")
    if not message_id:
        raise _refused(_ID, "is missing")
    stamp = known.get(_TIME, "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004  # seconds
        raise _refused(_TIME, "is not a number of seconds")
    timestamp = int(stamp)
    if abs(now - timestamp) > tolerance:
        raise _refused(_TIME, f"is more than {tolerance:g} s off")
    words = known.get(_SIGNATURE, "").split()[:16]
    given = [word.encode(errors="surrogatepass") for word in words]
    right = [secret.sign(message_id, timestamp, body).encode() for secret in secrets]
    # All are compared: the time taken gives nothing away.
    matches = [hmac.compare_digest(one, other) for one in given for other in right]
    if not any(matches):
        raise _refused(_SIGNATURE, "does not match")
    return message_id


def _standard(name: str) -> str:
    """Return the standard name of one of Svix's headers, and any other name as it is."""
    own = name.startswith(_OTHER_PREFIX)
    return f"webhook-{name.removeprefix(_OTHER_PREFIX)}" if own else name


def _refused(field: str, why: str) -> InputError:
    return InputError(f"the callback's {field} {why}", field=field, limit="Standard Webhooks")


# Receiving ------------------------------------------------------------------------------

MAX_BODY: Final = 256 * 1024
"""Most bytes of a callback. Real ones have about one kilobyte."""

LONGEST_ID: Final = 256
"""Most characters of an id: what is remembered for strangers must be small."""

READ_TIMEOUT: Final = 5.0
"""Seconds in which a callback's body has to arrive."""

# Entries that are kept in each memory, the newest ones.
_REMEMBERED = 1024
# How many callbacks one peer may send at once, and how many a second go on.
_BURST, _RATE = 200.0, 50.0

# A token of this many characters, from 64 different ones, can't be guessed.
_SHORTEST_TOKEN = 22
_MOST_PORTS = 65_535

_OK, _BAD, _FORBIDDEN, _UNKNOWN = 200, 400, 401, 404
_SLOW, _LARGE, _FLOOD = 408, 413, 429

V = TypeVar("V")


@final
class CallbackReceiver:
    """Receives callbacks, and has waiters poll at once.

    Three ways to run it. As a server of its own, inside ``async with``: give it a port. As part
    of an aiohttp application: mount `app`. In any other framework: pass each request to
    `handle_request`, or its headers and body to `handle_body`. Give it to a `TaskWaiter`, and to a
    `CometSession` so that its address goes into what is submitted.

    The URL holds a token; requests with another one get an empty 404. By default it is random and
    new for each receiver. Services that restart, or have several workers behind one port, give
    all their receivers the same one.

    Args:
        host: Where its own server listens. ``127.0.0.1`` by default.
        port: On which port; 0, the default, for any free one.
        token: The secret part of the URL: 22 to 200 letters, digits, ``-`` or ``_``, such as
            ``secrets.token_urlsafe(32)`` returns. Keep it out of logs.
        secret: The webhook secret of the Kling console (``whsec_…``), or several while one is
            rotated. When given, unsigned callbacks are refused. CometAPI does not issue one.
        public_url: How the outside reaches the server, or the application that it is mounted in:
            ``https://example.org/hooks``. By default the server's own address.
        allow_http: Take a *public_url* that is not https. False by default.
        clock: For tests.

    Raises:
        ConfigError: *public_url*, *token* or *secret* can't be used.
        InputError: *host* or *port* can't be used.
    """

    # Defaults, so that a receiver whose arguments were refused can still be shown.
    _public: str | None = None
    _bound: str | None = None

    def __init__(  # noqa: PLR0913  # where and how it is reached; all but two by keyword
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str | Secret | None = None,
        secret: str | Secret | Iterable[str | Secret] | None = None,
        public_url: str | URL | None = None,
        allow_http: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_flag("allow_http", allow_http)
        check_clock(clock)
        self._host = _checked_host(host)
        self._port = _checked_port(port)
        self._secrets = _secrets(secret)
        if public_url is not None:
            self._public = _checked_url(public_url, allow_http=allow_http)
        self._clock = clock
        self._token = random_secrets.token_urlsafe(32) if token is None else _checked_token(token)
        self._server: CallbackServer | None = None
        self._listeners: list[Callable[[Notification], object]] = []
        self._last: OrderedDict[str, Notification] = OrderedDict()
        self._seen: OrderedDict[str, bool] = OrderedDict()
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<CallbackReceiver at {self._public or self._bound or 'no address yet'}>"

    @property
    def path(self) -> str:
        """Where callbacks are taken, below the application's root; holds the token."""
        return f"/cb/{self._token}"

    @property
    def url(self) -> str:
        """The URL for ``callback_url``; holds the token, so keep it out of logs.

        Raises:
            ConfigError: No *public_url* was given, and the server was not started, or listens on
                all addresses of the machine.
        """
        base = self._public or self._bound
        if base is None:
            raise ConfigError(
                "the callback receiver has no URL yet",
                hint="use 'async with receiver' and a host of its own, or pass public_url=",
            )
        return f"{base}{self.path}"

    async def __aenter__(self) -> Self:
        """Start a server of its own.

        Raises:
            ConfigError: The port can't be used, or the server runs already.
        """
        from comet_async._http.callback_server import CallbackServer  # noqa: PLC0415  # as below

        if self._server is not None:
            raise ConfigError(
                "this receiver has a running server already",
                hint="enter it once, and pass it to all sessions",
            )
        server = CallbackServer(self.handle_request)
        try:
            host, port = await server.start(self._host, self._port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"can't listen on {self._host}:{self._port}: "
                f"{'another program does' if taken else error.strerror}",
                hint="choose another port; 0 takes any that is free" if taken else None,
            ) from error
        self._server = server
        if not ipaddress.ip_address(host).is_unspecified:
            self._bound = str(URL.build(scheme="http", host=host, port=port))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the server."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the server. Waiters continue without callbacks."""
        server, self._server, self._bound = self._server, None, None
        if server is not None:
            await server.aclose()

    def app(self) -> web.Application:
        """Return a new aiohttp application for ``parent.add_subapp("/hooks", receiver.app())``.

        Then *public_url* has to be the parent's address with ``/hooks``.
        """
        from aiohttp import web  # noqa: PLC0415  # half of the import time of the library

        application = web.Application()
        application.router.add_post("/cb/{token}", self._serve)
        return application

    async def _serve(self, request: web.Request) -> web.Response:
        from aiohttp import web  # noqa: PLC0415  # loaded long ago, by the one that serves

        # By chunks: aiohttp's own limit is that of the application which this one is mounted in.
        status = await self.handle_request(
            request.match_info["token"],
            request.headers,
            request.content.iter_any(),
            peer=request.remote or "",
        )
        return web.Response(status=status)

    async def handle_request(
        self,
        token: str,
        headers: Mapping[str, str],
        chunks: AsyncIterable[bytes],
        *,
        peer: str = "",
    ) -> int:
        """Handle one callback; return the HTTP status to answer with.

        For frameworks that hand out a body piece by piece, as Starlette and FastAPI do. A body
        that is too large or too slow is not read to its end.

        Args:
            token: The last part of the path.
            headers: The request's headers; capitals do not matter.
            chunks: The raw body.
            peer: The address that sent it; each has a limit of its own, against floods.

        Returns:
            What `handle_body` returns; 404 for a wrong token, 408 when the body takes over 5 s.
        """
        if not self.verify_token(token):
            return _UNKNOWN
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                body = await _read(chunks)
        except TimeoutError:
            return _SLOW
        return self.handle_body(headers, body, peer=peer)

    def verify_token(self, token: str) -> bool:
        """Return True if *token* is the last part of `path`; takes constant time."""
        return hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def handle_body(self, headers: Mapping[str, str], body: bytes, *, peer: str = "") -> int:
        """Handle a callback whose token was checked; return the HTTP status to answer with.

        For frameworks without ``async``, and for callbacks that another process received. It never
        raises and never waits, and may be called in any thread. Check the token by `verify_token`
        first.

        Args:
            headers: The request's headers; capitals do not matter.
            body: The raw body. Don't read more than 256 KiB of it.
            peer: The address that sent it; each has a limit of its own, against floods.

        Returns:
            200 when it was taken (also when it came before, or nothing waits for its task),
            400 when it does not name a task, 401 for a bad signature, 413 when it is too large,
            429 for a flood.
        """
        if len(body) > MAX_BODY:
            return _LARGE
        if not self._admits(peer):
            return _FLOOD
        try:
            if self._secrets and self._is_repeated(headers, body):
                return _OK
            notification = _decode(body)
        except InputError as error:
            _logger.warning("callback refused: %s", error.message)
            return _FORBIDDEN
        except DecodeError:
            return _BAD
        self.notify(notification)
        return _OK

    def unwrap(self, headers: Mapping[str, str], body: bytes) -> Notification:
        """Return what a callback says, after checking its signature.

        For programs that store callbacks, or pass them on to receivers in other processes, which
        take them by `notify`. Nothing is notified here. Check the token by `verify_token` first.

        Args:
            headers: The request's headers; capitals do not matter.
            body: The raw body.

        Raises:
            InputError: It is too large, or ``secret=`` was given and its signature is missing, too
                old, or of another secret.
            DecodeError: It does not name a task.
        """
        if len(body) > MAX_BODY:
            raise InputError("the callback is too large", field="body", limit=f"{MAX_BODY} bytes")
        if self._secrets:
            verify(headers, body, self._secrets, now=self._clock.time())
        return _decode(body)

    def notify(self, notification: Notification) -> None:
        """Have all waiters poll the task of a *notification*, such as one that came elsewhere.

        It never raises, and may be called in any thread.
        """
        for name in (notification.task_id, notification.external_task_id):
            if name:
                _remember(self._last, name, notification)
        for listener in list(self._listeners):
            try:
                listener(notification)
            except Exception:
                _logger.exception("a listener for callbacks raised")

    def subscribe(self, listener: Callable[[Notification], object]) -> Callable[[], None]:
        """Call *listener* with each notification from now on.

        It is called in the event loop of the server, or wherever `handle_body` is called.

        Returns:
            A function that ends this.
        """
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def last_notification(
        self, task_id: str | None, external_task_id: str | None = None
    ) -> Notification | None:
        """Return and forget the last notification about a task; None if there is none.

        A callback may overtake the answer with the task's id: the last 1,024 are kept.
        """
        found = [self._last.pop(name, None) for name in (task_id, external_task_id) if name]
        return next((notification for notification in found if notification is not None), None)

    def _is_repeated(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Check the signature; return True if this delivery came before."""
        message_id = verify(headers, body, self._secrets, now=self._clock.time())
        if message_id in self._seen:
            return True
        _remember(self._seen, message_id, value=True)
        return False

    def _admits(self, peer: str) -> bool:
        """Take a token from the peer's bucket, if there is one."""
        now = self._clock.monotonic()
        tokens, since = self._peers.get(peer, (_BURST, now))
        tokens = min(_BURST, tokens + (now - since) * _RATE)
        _remember(self._peers, peer, (max(0.0, tokens - 1.0), now))
        return tokens >= 1.0


async def _read(chunks: AsyncIterable[bytes]) -> bytes:
    """Return the body, or a little more than is allowed of it."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)


def _decode(body: bytes) -> Notification:
    """Return what *body* says, without words of the sender's own, which may be long.

    Raises:
        DecodeError: It does not name a task.
    """
    try:
        notification = decode_notification(body)
    except RecursionError as error:
        raise DecodeError("the callback is nested too deeply") from error
    if (
        max(map(len, filter(None, (notification.task_id, notification.external_task_id))))
        > LONGEST_ID
    ):
        raise DecodeError("the callback's id is too long", path="$.task_id")
    known = isinstance(notification.status, TaskStatus)
    return notification if known else attrs.evolve(notification, status=None)


def _remember(memory: OrderedDict[str, V], name: str, value: V) -> None:
    """Keep *value* under *name*, and the newest of the others."""
    memory.pop(name, None)  # so that it comes last; move_to_end would mind another thread's pop
    memory[name] = value
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def _secrets(given: str | Secret | Iterable[str | Secret] | None) -> tuple[WebhookSecret, ...]:
    if given is None:
        return ()
    if isinstance(given, str | Secret):
        given = (given,)
    check_several("secret", given, "one webhook secret, or several")
    secrets = tuple(map(WebhookSecret, given))
    if not secrets:
        # An empty list is more likely a mistake than the wish to let everything in.
        raise ConfigError(
            "secret= holds no webhook secret",
            field="secret",
            limit="one webhook secret, or several",
            hint="leave it out for none",
        )
    return secrets


def _checked_host(host: object) -> str:
    if not isinstance(host, str) or not host.strip():
        raise InputError(f"host={host!r} is not a host", field="host", value=host, limit="a name")
    return host


def _checked_port(port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _MOST_PORTS:
        limit = f"0 to {_MOST_PORTS}"
        raise InputError(f"port={port!r} is not {limit}", field="port", value=port, limit=limit)
    return port


def _checked_token(token: object) -> str:
    value = token.reveal() if isinstance(token, Secret) else token
    if not isinstance(value, str) or not re.fullmatch(
        rf"[A-Za-z0-9_-]{{{_SHORTEST_TOKEN},200}}", value
    ):
        raise ConfigError(
            f"token= is not {_SHORTEST_TOKEN} to 200 letters, digits, '-' or '_'",
            field="token",
            limit=f"{_SHORTEST_TOKEN} to 200 letters, digits, '-' or '_'",
            hint="create one with secrets.token_urlsafe(32), and keep it in your settings",
        )
    return value


def _checked_url(given: object, *, allow_http: bool) -> str:
    """Return *given* without a final slash, if callbacks may be sent there."""
    try:
        url = URL(str(given))
        _ = url.host  # read only here, which can fail
    except ValueError:
        url = URL()
    plain = url.scheme == "http" and (allow_http or url.host in {"localhost", "127.0.0.1", "::1"})
    if not url.host or not (url.scheme == "https" or plain):
        raise ConfigError(
            "public_url is not an https URL",
            field="public_url",
            limit="an https URL",
            hint="pass allow_http=True to allow plain http",
        )
    if url.user or url.password or url.query_string or url.fragment:
        raise ConfigError(
            "public_url holds more than scheme, host, port and path",
            field="public_url",
            limit="scheme, host, port and path",
        )
    return str(url).rstrip("/")
