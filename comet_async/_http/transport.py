"""Bytes to the server and back: the only room that imports aiohttp's client.

Rules of this file:

* A paid POST is sent exactly once. Redirects are never followed: aiohttp would send the
  body again on 307 and 308.
* ``ClientConnectorError`` and ``ConnectionTimeoutError`` mean that nothing left this machine.
  Every other failure of a POST leaves its outcome unknown. ``tests/http/test_transport.py`` holds
  this mapping against real sockets, so that a new aiohttp can't change it unseen.
* No exception of aiohttp's leaves: they carry the request's headers, and so the key. Ours are
  raised after the ``except`` block has ended; ``raise … from None`` would still keep the
  other one in ``__context__``.
* The key is put into the headers of the one request, never into the session's defaults, which
  would also reach the hosts that serve the results.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from comet_async._addresses import is_public
from comet_async._http.body import Body, Upload
from comet_async._wire.decode import Reply
from comet_async.auth import Credentials
from comet_async.clock import Clock
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    CometError,
    ConfigError,
    ConnectionLostError,
    ForkedSessionError,
    NotSentError,
    OutcomeUnknownError,
)


@attrs.frozen
class TransportFailure:
    """A failed exchange.

    Attributes:
        text: What happened, in words.
        sent: False when the request provably never left; None when that can't be known.
        final: True when another try would fail in the same way.
    """

    text: str
    sent: bool | None = None
    final: bool = False

    def refusal(self, external_task_id: str | None = None) -> CometError:
        """Return the error for a request that never left."""
        if self.final:
            hint = (
                "check the address; if its authority is your own, name its certificate by "
                "SSL_CERT_FILE or in an SSL context"
            )
            return ConfigError(self.text, hint=hint)
        return NotSentError(
            self.text,
            external_task_id=external_task_id,
            hint="nothing was sent; check the address and the network",
        )


# A class stands for its subclasses, unless one of them has a row of its own: both "not sent"
# classes are subclasses of classes that also cover failures after sending.
FAILURES: Mapping[str, TransportFailure] = {
    "ClientConnectorCertificateError": TransportFailure(
        "the certificate is not trusted", sent=False, final=True
    ),
    "ClientConnectorError": TransportFailure("can't connect", sent=False),
    "ConnectionTimeoutError": TransportFailure("connecting took too long", sent=False),
    "InvalidURL": TransportFailure("the address is not valid", sent=False, final=True),
    "ServerDisconnectedError": TransportFailure("the server closed the connection"),
    "SocketTimeoutError": TransportFailure("the server did not answer in time"),
    "ClientPayloadError": TransportFailure("the answer was cut short"),
    "ClientResponseError": TransportFailure("the answer was not HTTP"),
    "TimeoutError": TransportFailure("the time for it ran out"),
    "Exception": TransportFailure("the connection broke"),
}


def describe(exc: Exception, url: URL) -> TransportFailure:
    """Return what is worth keeping of *exc*, met on the way to *url*."""
    names = [cls.__name__ for cls in type(exc).__mro__]
    row = next(FAILURES[name] for name in names if name in FAILURES)
    reason = getattr(getattr(exc, "os_error", None), "strerror", None) or names[0]
    return attrs.evolve(row, text=f"{row.text} ({url.host}:{url.port}, {reason})")


MAX_REPLY = 2 * 1024 * 1024
"""The longest answer read: a full page of 500 tasks is below 1 MiB."""


# Seconds after which an idle connection is not used again. A paid request that meets the server's
# own closing of it is lost without having been read, and looks as if it had been: its outcome is
# unknown. Node.js and uvicorn close after 5 s
# (https://nodejs.org/docs/latest-v22.x/api/http.html#serverkeepalivetimeout); aiohttp would use
# it for 15 s.
_IDLE = 4.0


class _GuardedResolver(AbstractResolver):
    """A resolver that gives public addresses only, at the moment of connecting.

    The address of a result comes from the server; it must not lead into the caller's own
    network. Names that the caller configured are let through.
    """

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host* that may be connected to."""
        found = await self._resolver.resolve(host, port, family)
        if host in self._trusted:
            return found
        public = [result for result in found if is_public(result["host"])]
        if found and not public:
            msg = "the name leads to a private address"
            raise OSError(None, msg)
        return public

    async def close(self) -> None:
        """Release the resolver."""
        await self._resolver.close()


@attrs.define(eq=False)
class _Pool:
    """What belongs to one event loop."""

    api: aiohttp.ClientSession
    files: aiohttp.ClientSession
    uploads: asyncio.Semaphore
    downloads: asyncio.Semaphore
    keeper: AsyncGenerator[None, None]

    @property
    def closed(self) -> bool:
        return self.files.closed  # ours are closed together


async def _keep(*sessions: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close *sessions* when the loop shuts down: a loop closes its async generators last.

    So a session that is used in two ``asyncio.run`` calls leaves nothing open in the first.
    """
    try:
        yield
    finally:
        for session in sessions:
            await session.close()


@contextmanager
def _while_open(pool: _Pool) -> Generator[None, None, None]:
    """Raise an error of aiohttp's own where it fails an assertion because it was closed."""
    try:
        yield
    except (AssertionError, RuntimeError):
        if not pool.api.closed and not pool.files.closed:
            raise
    else:
        return
    raise aiohttp.ClientConnectionError("the session was closed")


@attrs.define(eq=False)
class Transport:
    """Sends requests; one pool of connections for each event loop that uses it."""

    network: Network
    timeouts: Timeouts
    clock: Clock
    trusted: frozenset[str] = frozenset()
    _pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = attrs.field(
        factory=weakref.WeakKeyDictionary, init=False
    )
    _pid: int = attrs.field(factory=os.getpid, init=False)

    async def ask(self, url: URL, credentials: Credentials | None, *, timeout: float) -> Reply:
        """Send one GET and return its answer, whatever its status.

        Raises:
            NotSentError: The server can't be reached.
            ConnectionLostError: No complete answer came within *timeout* seconds.
            ConfigError: The server's certificate is not trusted.
        """
        pool = await self._pool()
        mishap: TransportFailure | None = None
        try:
            with _while_open(pool):
                async with pool.api.get(
                    url,
                    headers=self._headers(credentials),
                    allow_redirects=False,
                    raise_for_status=False,
                    proxy=self.network.proxy,
                    timeout=_in_all(timeout, self.timeouts.connect),
                ) as response:
                    return await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            mishap = describe(exc, url)
        if mishap.sent is False:
            raise mishap.refusal()
        msg = f"no complete answer from {url.host}: {mishap.text}"
        raise ConnectionLostError(msg, hint="asking again is safe")

    async def post(
        self, url: URL, credentials: Credentials, body: Body, *, external_task_id: str
    ) -> Reply:
        """Send one paid POST, exactly once, and return its answer, whatever its status.

        Raises:
            NotSentError: Nothing left this machine.
            OutcomeUnknownError: It was sent, and no complete answer came.
            InputError: The file changed while it was sent; the server got no complete request.
            ConfigError: The server's certificate is not trusted.
        """
        pool = await self._pool()
        upload = Upload(body, pool.uploads)
        mishap: TransportFailure | None = None
        data = await upload.begin()
        try:
            with _while_open(pool):
                async with (
                    asyncio.timeout(self.timeouts.post(body.length)),
                    pool.api.post(
                        url,
                        data=data,
                        headers=self._headers(credentials, body=body, own_id=external_task_id),
                        allow_redirects=False,
                        raise_for_status=False,
                        proxy=self.network.proxy,
                        timeout=_each(self.timeouts.answer, self.timeouts.connect),
                    ) as response,
                ):
                    return await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            mishap = describe(exc, url)
        finally:
            upload.end()
        if upload.problem is not None:
            raise upload.problem.with_traceback(None)
        if mishap.sent is False:
            raise mishap.refusal(external_task_id)
        msg = f"the request was sent to {url.host} and its answer was lost: {mishap.text}"
        raise OutcomeUnknownError(
            msg,
            external_task_id=external_task_id,
            hint="it may have been accepted and paid: look for it, do not submit it again",
        )

    @asynccontextmanager
    async def fetch(self, url: URL) -> AsyncGenerator[Incoming, None]:
        """Open one file for reading: no key, no cookies, no redirects, nothing unpacked.

        Raises:
            NotSentError: The host can't be reached, or leads to a private address.
            ConnectionLostError: The transfer broke off.
            ConfigError: The host's certificate is not trusted.
        """
        pool = await self._pool()
        mishap: TransportFailure | None = None
        response: aiohttp.ClientResponse | None = None
        try:
            with _while_open(pool):
                response = await pool.files.get(
                    url,
                    headers={"Accept-Encoding": "identity"},
                    allow_redirects=False,
                    proxy=self.network.proxy,
                    timeout=_each(self.timeouts.ask, self.timeouts.connect),
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            mishap = describe(exc, url)
        if response is None:
            raise _broken(mishap, url)
        try:
            yield Incoming(response, url)
        finally:
            # A response that was not read to its end takes its connection along.
            response.close()

    async def download_gate(self) -> asyncio.Semaphore:
        """Return the places for files on their way here, in the running loop."""
        return (await self._pool()).downloads

    async def aclose(self) -> None:
        """Close the connections of every loop; the caller's own session stays open."""
        here = asyncio.get_running_loop()
        pools, self._pools = dict(self._pools), weakref.WeakKeyDictionary()
        for loop, pool in pools.items():
            if loop is here:
                await pool.keeper.aclose()
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(pool.keeper.aclose(), loop)
                await asyncio.wrap_future(closing)

    @property
    def unclosed(self) -> bool:
        """True while connections of ours are open."""
        return any(not pool.closed and not loop.is_closed() for loop, pool in self._pools.items())

    def _headers(
        self, credentials: Credentials | None, *, body: Body | None = None, own_id: str = ""
    ) -> dict[str, str]:
        # Kling lists the type as required, also where there is no body.
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if credentials is not None:
            headers["Authorization"] = credentials.header(self.clock.time())
        if body is not None:
            headers["Content-Length"] = str(body.length)  # without it: in chunks
            # No gateway documents it; those that know it will not take a request twice.
            headers["Idempotency-Key"] = own_id
        return headers

    async def _pool(self) -> _Pool:
        if os.getpid() != self._pid:
            msg = "this session was made in another process"
            raise ForkedSessionError(msg, hint="make a new CometSession after the fork")
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.closed:
            pool = self._pools[loop] = self._open()
            await anext(pool.keeper)
        return pool

    def _open(self) -> _Pool:
        connector = aiohttp.TCPConnector(
            limit=self.network.connections,
            keepalive_timeout=_IDLE,
            resolver=_GuardedResolver(self.trusted),
            ssl=self.network.ssl or True,
        )
        files = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=self.network.trust_env,
        )
        gates = asyncio.Semaphore(self.network.uploads), asyncio.Semaphore(self.network.downloads)
        if self.network.session is not None:
            return _Pool(self.network.session, files, *gates, _keep(files))
        api = aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self.network.trust_env,
        )
        return _Pool(api, files, *gates, _keep(api, files))


@attrs.define(eq=False)
class Incoming:
    """A file on its way here."""

    _response: aiohttp.ClientResponse = attrs.field(repr=False)
    url: URL = attrs.field(repr=False)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def length(self) -> int | None:
        """The announced size in bytes, if announced."""
        return self._response.content_length

    @property
    def location(self) -> str | None:
        """Where a redirect leads."""
        return self._response.headers.get("Location")

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """Yield the bytes as they come, at most *size* at a time.

        Raises:
            ConnectionLostError: The transfer broke off.
        """
        content = self._response.content
        while True:
            mishap: TransportFailure | None = None
            piece = b""
            try:
                piece = await content.read(size)
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                mishap = describe(exc, self.url)
            if mishap is not None:
                raise _broken(mishap, self.url)
            if not piece:
                return
            yield piece


def _broken(mishap: TransportFailure | None, url: URL) -> CometError:
    if mishap is not None and mishap.sent is False:
        return mishap.refusal()
    msg = f"the transfer from {url.host} broke off: {mishap.text if mishap else ''}"
    return ConnectionLostError(msg, hint="fetching again is safe and free")


# Few limits serve all requests of a program.
@functools.lru_cache(maxsize=64)
def _in_all(seconds: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=connect)


@functools.lru_cache(maxsize=64)
def _each(answer: float, connect: float) -> aiohttp.ClientTimeout:
    # No total: when it fires, it hides whether the request had left.
    return aiohttp.ClientTimeout(
        total=None, connect=3 * connect, sock_connect=connect, sock_read=answer
    )


async def _read(response: aiohttp.ClientResponse) -> Reply:
    content = response.content
    body = await content.readany()
    if not content.at_eof():
        body = await _rest(response, body)
    return Reply(status=response.status, headers=response.headers, body=body)


async def _rest(response: aiohttp.ClientResponse, start: bytes) -> bytes:
    body = bytearray(start)
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_REPLY:
            response.close()
            break
    return bytes(body)
