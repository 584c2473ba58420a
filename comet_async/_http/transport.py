"""The HTTP transport: the only module that uses aiohttp's client.

* A paid POST is sent exactly once. Redirects are never followed: aiohttp would send the
  body again on 307 and 308.
* ``ClientConnectorError`` and ``ConnectionTimeoutError`` mean that nothing left this machine.
  Every other failure of a POST leaves its outcome unknown. ``tests/http/test_transport.py`` holds
  this mapping against real sockets, so that a new aiohttp can't change it unseen.
* Nothing that aiohttp raises gets out: its exceptions carry the request's headers, and so the
  key. Ours are raised after the ``except`` block has ended; ``raise … from None`` would still
  keep the other one in ``__context__``.
* The key is put into the headers of the one request, never into the session's defaults, which
  would also reach the hosts that serve the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from concurrent.futures import Future

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from comet_async._addresses import is_public
from comet_async._http.body import Body, Upload
from comet_async._validation import check_event_loop
from comet_async._wire.decode import Reply
from comet_async.auth import Credentials
from comet_async.clock import Clock
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    CometError,
    ConfigError,
    ConnectionLostError,
    DownloadError,
    ForkedSessionError,
    NotSentError,
    OutcomeUnknownError,
    SessionClosedError,
)


@attrs.frozen
class TransportFailure:
    """Why an exchange failed.

    Attributes:
        text: What happened, in words.
        sent: False when the request provably never left; None when that can't be known.
        final: True when another attempt would fail in the same way.
        hint: What to do about a final failure.
    """

    text: str
    sent: bool | None = None
    final: bool = False
    hint: str = "check the address"

    def as_error(self, external_task_id: str | None = None) -> CometError:
        """Return the error for a request that never left."""
        if self.final:
            return ConfigError(self.text, hint=self.hint)
        return NotSentError(
            self.text,
            external_task_id=external_task_id,
            hint="nothing was sent; check the address and the network",
        )


# A class stands for its subclasses, unless one of them has a row of its own: both "not sent"
# classes are subclasses of classes that also cover failures after sending.
FAILURES: Mapping[str, TransportFailure] = {
    "ClientConnectorCertificateError": TransportFailure(
        "the certificate is not trusted",
        sent=False,
        final=True,
        hint="check the address; if the certificate authority is your own, name its certificate "
        "by SSL_CERT_FILE or in an SSL context",
    ),
    "ClientConnectorError": TransportFailure("can't connect", sent=False),
    "ClientProxyConnectionError": TransportFailure("can't connect to the proxy", sent=False),
    # The proxy's answer to CONNECT: the tunnel was never open.
    "ClientHttpProxyError": TransportFailure("the proxy refused to connect", sent=False),
    "ConnectionTimeoutError": TransportFailure("connecting took too long", sent=False),
    "InvalidURL": TransportFailure("the address is not valid", sent=False, final=True),
    "ServerDisconnectedError": TransportFailure("the server closed the connection"),
    "SocketTimeoutError": TransportFailure("the server did not answer in time"),
    "ClientPayloadError": TransportFailure("the answer was cut short"),
    "ClientResponseError": TransportFailure("the answer was not HTTP"),
    "TimeoutError": TransportFailure("the time limit passed"),
    "Exception": TransportFailure("the connection broke"),
}


def describe(exc: Exception, url: URL) -> TransportFailure:
    """Return what is worth keeping of *exc*, met on the way to *url*."""
    names = [cls.__name__ for cls in type(exc).__mro__]
    row = next(FAILURES[name] for name in names if name in FAILURES)
    reason = _system_reason(getattr(exc, "os_error", None)) or names[0]
    if names[0] == "ClientHttpProxyError":
        reason = f"HTTP {getattr(exc, 'status', 0)}"
    host = f"{url.raw_host}:{url.port}"  # the raw one: to decode it can fail
    if "Proxy" in names[0]:
        host = f"on the way to {host}"
    return attrs.evolve(row, text=f"{row.text} ({host}, {reason})")


def _system_reason(error: OSError | None) -> str | None:
    """Return why no connection was made, in the system's words and not in asyncio's."""
    reason: str | None = getattr(error, "strerror", None)
    if error is not None and error.errno and (reason or "").startswith("Connect call failed"):
        return os.strerror(error.errno)
    return reason


MAX_REPLY = 2 * 1024 * 1024
"""Longest answer that is read, in bytes: a full page of 500 tasks is below 1 MiB."""


# Seconds after which an idle connection is not used again. A paid request that meets the server's
# own closing of it is lost without having been read, and looks as if it had been: its outcome is
# unknown. Node.js and uvicorn close after 5 s
# (https://nodejs.org/docs/latest-v22.x/api/http.html#serverkeepalivetimeout); aiohttp would use
# it for 15 s.
_IDLE = 4.0


class _GuardedResolver(AbstractResolver):
    """A resolver that returns public addresses only, at the moment of connecting.

    The URL of a result comes from the server; it must not lead into the caller's own network.
    Hosts that the caller configured may be anywhere.
    """

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host* that may be connected to."""
        try:
            found = await self._resolver.resolve(host, port, family)
        except (UnicodeError, RuntimeError) as exc:
            # A label that is empty or too long, or no thread could be started. aiohttp takes only
            # an OSError for a failure to connect.
            raise OSError(None, str(exc)) from None
        if host in self._trusted:
            return found
        public = [result for result in found if is_public(result["host"])]
        if found and not public:
            raise OSError(None, "the name leads to a private address")
        return public

    async def close(self) -> None:
        """Release the resolver."""
        await self._resolver.close()


@attrs.define(eq=False)
class _Pool:
    """The connections of one event loop.

    Attributes:
        api: For the API's calls.
        files: For results.
        owned: Those of the two that are ours to close.
        uploads: Limits the large bodies that are sent at once.
        downloads: Limits the results that are fetched at once.
        keeper: Closes what is ours when the loop ends.
        closed: True when that has happened.
    """

    api: aiohttp.ClientSession
    files: aiohttp.ClientSession
    owned: tuple[aiohttp.ClientSession, ...]
    uploads: asyncio.Semaphore
    downloads: asyncio.Semaphore
    keeper: AsyncGenerator[None, None] = attrs.field(init=False)
    closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.keeper = self._keep()

    async def close(self) -> None:
        """Close our sessions; called in their event loop."""
        self.closed = True
        for session in self.owned:
            await session.close()
        with contextlib.suppress(RuntimeError):  # the loop's own end is closing it
            await self.keeper.aclose()

    def detach(self) -> list[aiohttp.BaseConnector]:
        """Close our sessions, and return what is left to close: their connections."""
        self.closed = True
        connectors = {session.connector for session in self.owned}
        for session in self.owned:
            session.detach()
        return [connector for connector in connectors if connector is not None]

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Close our sessions when the loop shuts down: a loop closes its async generators last.

        So a session that is used in two ``asyncio.run`` calls leaves nothing open in the first.
        """
        try:
            yield
        finally:
            self.closed = True
            for session in self.owned:
                await session.close()


_LOOK = 0.05  # seconds


async def _ended(work: Future[None], loop: asyncio.AbstractEventLoop) -> None:
    """Wait for *work* in the *loop* of another thread, unless that loop stops first."""
    future = asyncio.wrap_future(work)
    while not future.done() and loop.is_running():
        await asyncio.wait({future}, timeout=_LOOK)
    if future.done() and not future.cancelled():
        future.result()


_closing: set[asyncio.Future[None]] = set()


def _close_soon(connectors: list[aiohttp.BaseConnector]) -> None:
    """Close *connectors*; called in their event loop."""

    async def close() -> None:
        for connector in connectors:
            await connector.close()

    task = asyncio.ensure_future(close())
    _closing.add(task)  # a loop holds its tasks weakly
    task.add_done_callback(_closing.discard)


@attrs.define(eq=False)
class Transport:
    """Sends requests; one pool of connections for each event loop that uses it.

    Attributes:
        network: How to reach the network.
        timeouts: Time limits.
        clock: The wall clock, for signed tokens.
        trusted: Hosts that may have private addresses, because the caller configured them.
        headers: Sent with each call to the API, besides our own.
    """

    network: Network
    timeouts: Timeouts
    clock: Clock
    trusted: frozenset[str] = frozenset()
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    # Not weak: a copy of a weak dictionary fails while another thread adds to it.
    _pools: dict[asyncio.AbstractEventLoop, _Pool] = attrs.field(factory=dict, init=False)
    _pid: int = attrs.field(factory=os.getpid, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    async def get(self, url: URL, credentials: Credentials | None, *, timeout: float) -> Reply:
        """Send one GET and return its answer, whatever its status.

        Raises:
            NotSentError: The server can't be reached.
            ConnectionLostError: No complete answer came within *timeout* seconds.
            ConfigError: The server's certificate is not trusted, or the caller's own session is
                closed.
            SessionClosedError: `aclose` was called.
        """
        pool = await self._pool()
        request = pool.api.get(
            url,
            headers=self._headers(credentials),
            allow_redirects=False,
            raise_for_status=False,
            proxy=self.network.proxy_for(url),
            timeout=_total_timeout(timeout, self.timeouts.connect),
        )
        try:
            async with request as response:
                return await _read(response)
        except Exception as exc:  # noqa: BLE001 - nothing of aiohttp's may get out, see above
            failure = describe(exc, url)
        if failure.sent is False:
            raise failure.as_error()
        raise ConnectionLostError(
            f"no complete answer from {url.raw_host}: {failure.text}",
            hint="trying again is safe",
        )

    async def post(
        self, url: URL, credentials: Credentials, body: Body, *, external_task_id: str
    ) -> Reply:
        """Send one paid POST, exactly once, and return its answer, whatever its status.

        Raises:
            NotSentError: Nothing left this machine.
            OutcomeUnknownError: It was sent, and no complete answer came.
            InputError: The file changed while it was sent; the server got no complete request.
            ConfigError: The server's certificate is not trusted, or the caller's own session is
                closed.
            SessionClosedError: `aclose` was called; nothing was sent.
        """
        pool = await self._pool()
        upload = Upload(body, pool.uploads)
        pieces = await upload.begin()
        data = pieces if isinstance(pieces, bytes) or not body.check else _CheckedPayload(pieces)
        try:
            self._check_given()  # it may have waited for its place
            request = pool.api.post(
                url,
                data=data,
                headers=self._headers(credentials, body=body, own_id=external_task_id),
                allow_redirects=False,
                raise_for_status=False,
                proxy=self.network.proxy_for(url),
                timeout=_step_timeouts(self.timeouts.response, self.timeouts.connect),
            )
        except BaseException:
            upload.end()
            raise
        try:
            async with asyncio.timeout(self.timeouts.post(body.length)), request as response:
                return await _read(response)
        except Exception as exc:  # noqa: BLE001 - nothing of aiohttp's may get out, see above
            failure = describe(exc, url)
        finally:
            upload.end()
        if upload.problem is not None:
            raise upload.problem.with_traceback(None)
        if failure.sent is False:
            raise failure.as_error(external_task_id)
        raise OutcomeUnknownError(
            f"the request was sent to {url.raw_host} and its answer was lost: {failure.text}",
            external_task_id=external_task_id,
            hint="it may have been accepted and billed: look it up, do not submit it again",
        )

    async def fetch(self, url: URL) -> Incoming:
        """Open one file for reading: no key, no cookies, no redirects.

        To be closed by the caller, however it ends.

        Raises:
            NotSentError: The host can't be reached, or its name leads to a private address.
            ConnectionLostError: The transfer broke off.
            DownloadError: The host's certificate is not trusted, or the URL can't be used.
            SessionClosedError: `aclose` was called.
        """
        pool = await self._pool()
        try:
            response = await pool.files.get(
                url,
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
                raise_for_status=False,
                proxy=self.network.proxy_for(url),
                timeout=_step_timeouts(self.timeouts.request, self.timeouts.connect),
            )
        except Exception as exc:  # noqa: BLE001 - nothing of aiohttp's may get out, see above
            failure = describe(exc, url)
        else:
            return Incoming(response, url, plain=pool.files.auto_decompress)
        raise _download_error(failure, url)

    async def download_gate(self) -> asyncio.Semaphore:
        """Return what limits the downloads of the running loop."""
        return (await self._pool()).downloads

    async def aclose(self) -> None:
        """Close the connections of every loop, for good; the caller's own session stays open."""
        self._closed = True
        here = asyncio.get_running_loop()
        pools, self._pools = dict(self._pools), {}
        for loop, pool in pools.items():
            if loop is here:
                await pool.close()
            elif loop.is_running():
                closing, work = pool.close(), None
                with contextlib.suppress(RuntimeError):  # that loop was closed just now
                    work = asyncio.run_coroutine_threadsafe(closing, loop)
                if work is not None:
                    await _ended(work, loop)
                if inspect.getcoroutinestate(closing) == inspect.CORO_CREATED:
                    closing.close()  # the loop's own end closes the pool

    @property
    def unclosed(self) -> bool:
        """True while connections of ours are open."""
        pools = list(self._pools.items())
        return any(not pool.closed and not loop.is_closed() for loop, pool in pools)

    def abandon(self, message: str) -> None:
        """Report each event loop's open connections with *message*, and close them there.

        For a session that was dropped without `aclose`: aiohttp would report each connection
        pool by itself, in words that don't name the session.
        """
        pools, self._pools = dict(self._pools), {}
        for loop, pool in pools.items():
            if pool.closed or loop.is_closed():
                continue
            loop.call_exception_handler({"message": message})
            connectors = pool.detach()
            with contextlib.suppress(RuntimeError):  # the loop was closed just now
                loop.call_soon_threadsafe(_close_soon, connectors)

    def _headers(
        self, credentials: Credentials | None, *, body: Body | None = None, own_id: str = ""
    ) -> dict[str, str]:
        # Kling lists the type as required, also where there is no body.
        ours = {"Accept": "application/json", "Content-Type": "application/json"}
        headers = {**self.headers, **ours}
        if credentials is not None:
            headers["Authorization"] = credentials.header(self.clock.time())
        if body is not None:
            headers["Content-Length"] = str(body.length)  # without it: in chunks
            # No gateway documents it; those that know it will not take a request twice.
            headers["Idempotency-Key"] = own_id
        return headers

    async def _pool(self) -> _Pool:
        if os.getpid() != self._pid:
            raise ForkedSessionError(
                "this session was created in another process",
                hint="create a new CometSession after the fork",
            )
        self._check_open()
        self._check_given()
        loop = check_event_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.closed:
            for other in list(self._pools):  # a pool keeps its loop alive
                if other.is_closed():
                    self._pools.pop(other, None)
            pool = self._pools[loop] = self._open()
            await anext(pool.keeper)
            try:
                self._check_open()
            except SessionClosedError:  # by another thread, which may not have seen this pool
                await pool.close()
                raise
        return pool

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the session is closed; nothing was sent")

    def _check_given(self) -> None:
        """Refuse the caller's own session if it is closed: aiohttp's error looks like a lost reply.

        Raises:
            ConfigError: It is; nothing was sent.
        """
        network = self.network
        if network.session is network.download_session is None:
            return
        given = {"session": network.session, "download_session": network.download_session}
        for name, session in given.items():
            if session is not None and session.closed:
                raise ConfigError(
                    f"the aiohttp session that was passed as {name}= is closed",
                    field=name,
                    hint="close it after the CometSession",
                )

    def _open(self) -> _Pool:
        network = self.network
        connector = aiohttp.TCPConnector(
            limit=network.connections,
            keepalive_timeout=_IDLE,
            resolver=_GuardedResolver(self.trusted | network.proxy_hosts),
            ssl=network.ssl or True,
        )
        ours = functools.partial(
            aiohttp.ClientSession,
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        files = network.download_session or ours(auto_decompress=False, connector_owner=True)
        api = network.session or ours(connector_owner=network.download_session is not None)
        return _Pool(
            api=api,
            files=files,
            owned=tuple(
                session
                for session in (api, files)
                if session not in {network.session, network.download_session}
            ),
            uploads=asyncio.Semaphore(network.uploads),
            downloads=asyncio.Semaphore(network.downloads),
        )


class _CheckedPayload(aiohttp.AsyncIterablePayload):
    """A body whose next piece is asked for when the last one has left this process.

    On a slow network, asyncio keeps what the system does not take. If the process is suspended
    then, it sends that as soon as it continues, before anything is checked.
    """

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        super().__init__(pieces)
        self._pieces = pieces

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        async for piece in self._pieces:
            await writer.write(piece)
            while _waits(getattr(writer, "transport", None)):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(_WAITS)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the body, whose length was announced; what newer versions of aiohttp call."""
        del content_length
        await self.write(writer)


_WAITS = 0.01  # seconds


def _waits(transport: asyncio.WriteTransport | None) -> bool:
    """Return True while anything that was written is still in this process."""
    if transport is None or transport.is_closing():
        return False  # the next piece says so
    # asyncio counts what is encrypted already in a transport below; uvloop does not show that one.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return any(each.get_write_buffer_size() for each in (transport, below) if each is not None)


@attrs.define(eq=False)
class Incoming:
    """A file that is being downloaded."""

    _response: aiohttp.ClientResponse = attrs.field(repr=False)
    url: URL = attrs.field(repr=False)
    # Whether aiohttp decompresses it: the caller's own session does, by default.
    _plain: bool = attrs.field(kw_only=True, alias="plain")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def length(self) -> int | None:
        """The announced size in bytes as they are sent, if announced."""
        return self._response.content_length

    @property
    def encoding(self) -> str:
        """How the bytes that `read` returns are compressed; empty if they are not."""
        named = self._response.headers.get("Content-Encoding", "").strip().lower()
        return "" if self._plain else named

    @property
    def location(self) -> str:
        """Where a redirect leads; empty if it does not say."""
        return self._response.headers.get("Location", "")

    async def read(self, size: int) -> bytes:
        """Return the next bytes, at most *size*; none at the end.

        Raises:
            ConnectionLostError: The transfer broke off.
        """
        try:
            return await self._response.content.read(size)
        except Exception as exc:  # noqa: BLE001 - nothing of aiohttp's may get out, see above
            failure = describe(exc, self.url)
        raise _download_error(failure, self.url)

    def close(self) -> None:
        """Close the response and, unless it was read to its end, its connection."""
        self._response.close()


def _download_error(failure: TransportFailure, url: URL) -> CometError:
    if failure.sent is not False:
        return ConnectionLostError(
            f"the transfer from {url.raw_host} broke off: {failure.text}",
            hint="fetching it again is safe and free",
        )
    if failure.final:
        return DownloadError(f"the result's host can't be used: {failure.text}")
    return failure.as_error()


# A program uses few different limits.
@functools.lru_cache(maxsize=64)
def _total_timeout(seconds: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=connect)


@functools.lru_cache(maxsize=64)
def _step_timeouts(answer: float, connect: float) -> aiohttp.ClientTimeout:
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
