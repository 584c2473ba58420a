"""The transport against real sockets: what each fault means for a paid request.

The first test is a contract with aiohttp: a release that reports a fault in another way must
turn it red, because money hangs on the difference between "not sent" and "unknown".
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import gc
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import attrs
import pytest
import trustme
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from comet_async._http import body as upload, transport as mishaps, transport as transport_room
from comet_async._http.body import Body
from comet_async._http.transport import Transport, _GuardedResolver
from comet_async._images.load import load
from comet_async._images.source import SourceImage
from comet_async._wire.decode import Reply
from comet_async.auth import ApiKey
from comet_async.clock import SystemClock
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    CometError,
    ConfigError,
    ConnectionLostError,
    ForkedSessionError,
    InputError,
    NotSentError,
    OutcomeUnknownError,
    SessionClosedError,
    StaleRecordError,
)
from comet_async.secret import Secret
from comet_async.testing import VirtualLoop

KEY = "sk-canary-0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@attrs.define
class RawServer:
    """A server that does to each connection what a test says."""

    port: int = 0
    requests: list[bytes] = attrs.field(factory=list)
    writers: list[asyncio.StreamWriter] = attrs.field(factory=list)

    @property
    def url(self) -> URL:
        """Where it listens."""
        return URL(f"http://127.0.0.1:{self.port}/kling/v1/images/editing/expand")


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def raw_server(answer: bytes | None, *, reset: bool = False) -> AsyncIterator[RawServer]:
    """Serve *answer* to each request; None answers nothing and closes (or resets) at once."""
    seen = RawServer()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.writers.append(writer)
        try:
            while True:
                seen.requests.append(await _read_request(reader))
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if not answer.startswith(OK):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        if reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for writer in seen.writers:
            writer.close()
        await asyncio.sleep(0.1)  # the handlers see the end of their connections


@asynccontextmanager
async def transport(
    network: Network | None = None, timeouts: Timeouts | None = None
) -> AsyncIterator[Transport]:
    """A transport that is closed at the end."""
    made = Transport(
        network=network or Network(), timeouts=timeouts or Timeouts(), clock=SystemClock()
    )
    try:
        yield made
    finally:
        await made.aclose()


async def post(made: Transport, url: URL, body: Body | None = None) -> Reply:
    """Send one paid request."""
    body = body or Body((b'{"image":"abc"}',))
    return await made.post(url, ApiKey(Secret(KEY)), body, external_task_id="ce1-x")


@asynccontextmanager
async def silent_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[URL]:
    """Accept, read, and never answer."""
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await over.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    try:
        yield URL(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        over.set()
        await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("answer", "reset"),
    [
        (None, False),
        (None, True),
        (b"\x00\x01garbage\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", False),
    ],
    ids=["closed", "reset", "garbage", "cut", "bad-chunk", "bad-gzip"],
)
async def test_answer_lost_after_sending_is_unknown(answer: bytes | None, reset: bool) -> None:
    """Whatever breaks after the request was read leaves its outcome unknown, sent once."""
    async with raw_server(answer, reset=reset) as server, transport() as made:
        with pytest.raises(OutcomeUnknownError) as caught:
            await post(made, server.url)
    assert caught.value.sent is None
    assert caught.value.external_task_id == "ce1-x"
    assert len(server.requests) == 1


async def test_silence_after_sending_is_unknown() -> None:
    """A server that reads and never answers leaves the outcome unknown when time runs out."""
    async with silent_server() as url, transport() as made:
        with pytest.raises(OutcomeUnknownError):
            await post(made, url)


async def test_refused_connection_is_not_sent() -> None:
    """A port where nobody listens: nothing was sent, and another try makes sense."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with transport() as made:
        with pytest.raises(NotSentError) as caught:
            await post(made, URL(f"http://127.0.0.1:{port}/"))
    assert caught.value.sent is False
    assert caught.value.retryable


@pytest.mark.failure("F02")
async def test_unknown_host_is_not_sent() -> None:
    """A name that does not resolve: nothing was sent."""
    async with transport() as made:
        with pytest.raises(NotSentError):
            await post(made, URL("https://nowhere.invalid/"))


async def test_tls_that_never_answers_is_not_sent() -> None:
    """A TLS handshake that stalls ends before anything of ours is sent."""
    async with silent_server() as url, transport() as made:
        with pytest.raises(NotSentError):
            await post(made, url.with_scheme("https"))


@pytest.mark.failure("F04")
async def test_full_pool_is_not_sent() -> None:
    """Waiting for a free connection and not getting one: nothing was sent."""
    narrow = transport(Network(connections=1), Timeouts(response=600))
    async with silent_server() as url, narrow as made:
        first = asyncio.create_task(post(made, url))
        await asyncio.sleep(1)
        with pytest.raises(NotSentError):
            await post(made, url)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("idle", [True, False])
async def test_idle_connection_carries_no_paid_request(
    idle: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Servers give up idle connections: what is sent on one just then is lost unread."""
    assert transport_room._IDLE < 5  # when Node.js and uvicorn give up
    connections: list[int] = []
    given_up = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await _read_request(reader) and number >= given_up:
                connections[number] += 1
                writer.write(OK)
                await writer.drain()
        writer.transport.abort()

    if idle:
        monkeypatch.setattr(transport_room, "_IDLE", 0.01)
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with server, transport() as made:
        assert (await post(made, url)).status == 200
        if idle:
            await asyncio.to_thread(time.sleep, 0.05)  # aiohttp asks the machine's own clock
            given_up = 1
        assert (await post(made, url)).status == 200
    await asyncio.sleep(0.1)  # the handlers see the end of their connections
    assert connections == ([1, 1] if idle else [2])


@pytest.mark.failure("F18")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_returned_and_the_body_sent_once(status: int) -> None:
    """A redirect is never followed: aiohttp would send the body, and pay, again."""
    async with raw_server(OK) as other:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(head.encode()) as server, transport() as made:
            reply = await post(made, server.url)
    assert reply.status == status
    assert (len(server.requests), len(other.requests)) == (1, 0)


async def test_every_row_names_a_class_of_aiohttp() -> None:
    """Each class in the table exists, so that a rename in aiohttp is noticed."""
    for name in set(mishaps.FAILURES) - {"TimeoutError", "Exception"}:
        assert issubclass(getattr(aiohttp, name), aiohttp.ClientError)


async def test_only_failures_to_connect_mean_not_sent() -> None:
    """The table calls nothing "not sent" that could happen after sending."""
    safe = {name for name, row in mishaps.FAILURES.items() if row.sent is False}
    assert safe == {
        "ClientConnectorCertificateError",
        "ClientConnectorError",
        "ClientHttpProxyError",
        "ClientProxyConnectionError",
        "ConnectionTimeoutError",
        "InvalidURL",
    }


@pytest.mark.failure("F03")
async def test_untrusted_certificate_is_final() -> None:
    """A certificate that is not trusted is a matter of settings, not of trying again."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with silent_server(context) as url, transport() as made:
        with pytest.raises(ConfigError) as caught:
            await post(made, url)
    assert not caught.value.retryable


async def test_own_authority_is_trusted() -> None:
    """An SSL context of the caller's own reaches a server with a certificate of its own."""
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=theirs)
    url = URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with transport(Network(ssl=ours)) as made:
        assert (await post(made, url)).status == 200
    server.close()


def _locals_of(error: BaseException) -> str:
    """Everything that a crash reporter would show of *error*."""
    texts = [repr(error), str(error), repr(error.args), repr(vars(error))]
    link: BaseException | None = error
    while link is not None:
        trace = link.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                texts += [repr(value) for value in trace.tb_frame.f_locals.values()]
            trace = trace.tb_next
        texts.append(repr(link))
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("answer", [None, b"\x00garbage\r\n\r\n"], ids=["closed", "garbage"])
async def test_no_error_shows_the_key(answer: bytes | None) -> None:
    """Neither text, repr, frames nor causes of an error hold the key."""
    async with raw_server(answer) as server, transport() as made:
        for call in (post(made, server.url), made.get(server.url, ApiKey(Secret(KEY)), timeout=5)):
            with pytest.raises(CometError) as caught:
                await call
            assert KEY not in _locals_of(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None


async def test_key_goes_to_the_api_only() -> None:
    """The key is a header of the API's requests, and of no other host's."""
    async with raw_server(OK) as server, transport() as made:
        await made.get(server.url, ApiKey(Secret(KEY)), timeout=5)
        with contextlib.closing(await made.fetch(server.url)) as incoming:
            assert incoming.status == 200
    assert KEY.encode() in server.requests[0]
    assert KEY.encode() not in server.requests[1]
    assert b"authorization" not in server.requests[1].lower()


@pytest.mark.parametrize("size", [*range(90_000, 90_004), 98_303, 98_304, 98_305, 400_001])
async def test_streamed_body_is_the_json_that_was_announced(tmp_path: Path, size: int) -> None:
    """Base64 pieces join for every size mod 3, and the length is exact."""
    data = os.urandom(size)
    path = tmp_path / "photo"
    path.write_bytes(data)
    stat = path.stat()
    image = SourceImage(
        source="photo", sha256="", path=path, size=size, mtime_ns=stat.st_mtime_ns, format="png"
    )
    body = Body.build({"n": 1, "prompt": 'a "b"'}, {"image": image})
    async with raw_server(OK) as server, transport() as made:
        await post(made, server.url, body)
    text = server.requests[0].partition(b"\r\n\r\n")[2]
    assert len(text) == body.length
    sent = json.loads(text)
    assert base64.b64decode(sent["image"]) == data
    assert (sent["n"], sent["prompt"]) == (1, 'a "b"')


@pytest.mark.parametrize("check", [None, lambda: None], ids=["alone", "among workers"])
async def test_file_that_changes_while_sent_is_an_input_error(
    photo: bytes, tmp_path: Path, check: Callable[[], None] | None
) -> None:
    """A body that could not be completed is an error of the input, not an unknown outcome."""
    path = tmp_path / "photo.png"
    path.write_bytes(photo)
    image = await load(path)
    path.write_bytes(photo + b"more")
    body = attrs.evolve(Body.build({}, {"image": image}), check=check)
    async with raw_server(OK) as server, transport() as made:
        with pytest.raises(InputError, match="changed"):
            await post(made, server.url, body)
    assert server.requests == []


@pytest.mark.failure("F71")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("small", [False, True], ids=["in pieces", "at once"])
async def test_no_request_is_completed_by_what_still_waits_to_leave(
    small: bool, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is slow leaves bytes in this process: a suspended worker would send them."""
    read, ended, checks = asyncio.Event(), asyncio.Event(), 0
    bodies: list[bytes] = []
    if small:
        monkeypatch.setattr(upload, "GATED", LARGE.length)
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await read.wait()
        bodies.append(await reader.read(-1))
        writer.close()
        ended.set()

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 1:  # the lease has ended while the rest waited
            raise StaleRecordError("its lease ended")

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=theirs if secure else None)
    scheme = "https" if secure else "http"
    url = URL(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with transport(Network(ssl=ours)) as made:
        sending = asyncio.create_task(post(made, url, attrs.evolve(LARGE, check=check)))
        await asyncio.sleep(1)
        assert checks == 1  # the last byte waits for all others
        read.set()
        with pytest.raises(StaleRecordError):
            await sending
    await ended.wait()
    server.close()
    assert len(bodies[0]) == LARGE.length - 1


async def test_read_that_breaks_may_be_repeated() -> None:
    """A GET without a complete answer says that asking again is safe."""
    async with raw_server(None) as server, transport() as made:
        with pytest.raises(ConnectionLostError) as caught:
            await made.get(server.url, None, timeout=5)
    assert caught.value.retryable


async def test_read_ends_with_its_timeout() -> None:
    """A GET ends when its own time is over."""
    async with silent_server() as url, transport() as made:
        begin = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionLostError):
            await made.get(url, None, timeout=3)
        assert asyncio.get_running_loop().time() - begin == pytest.approx(3, abs=0.5)


def test_two_loops_leave_nothing_open() -> None:
    """The same transport in two ``asyncio.run`` calls works, and closes with each loop."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())

    async def once() -> int:
        async with raw_server(OK) as server:
            return (await made.get(server.url, None, timeout=5)).status

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(once()) == 200
    assert not made.unclosed


async def test_session_of_the_callers_own_stays_open() -> None:
    """A ``ClientSession`` that was passed in is used, and not closed."""
    async with raw_server(OK) as server, aiohttp.ClientSession() as theirs:
        async with transport(Network(session=theirs)) as made:
            await made.get(server.url, None, timeout=5)
        assert not theirs.closed


@pytest.mark.parametrize("name", ["session", "download_session"])
async def test_session_of_the_callers_own_that_is_closed_is_refused(name: str) -> None:
    """Nothing was sent: that must not look like a paid request whose answer was lost."""
    url = URL("http://127.0.0.1:9/")
    theirs = aiohttp.ClientSession()
    async with transport(Network(**{name: theirs})) as made:
        await theirs.close()
        for attempt in (made.get(url, None, timeout=5), post(made, url)):
            with pytest.raises(ConfigError, match=f"{name}= is closed") as caught:
                await attempt
            assert caught.value.sent is False


async def test_session_that_is_closed_while_a_request_waits_sends_nothing() -> None:
    """A large body that waits for its place is not lost: it never left."""
    theirs = aiohttp.ClientSession()
    large = Body((b"x" * (upload.GATED + 1),))
    async with transport(Network(session=theirs, uploads=1)) as made:
        pool = await made._pool()
        await pool.uploads.acquire()
        sending = asyncio.create_task(post(made, URL("http://127.0.0.1:9/"), large))
        await asyncio.sleep(0)
        await theirs.close()
        pool.uploads.release()
        with pytest.raises(ConfigError, match="is closed"):
            await sending
        assert not pool.uploads.locked()


async def test_closing_in_another_thread_leaves_no_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also not those of a loop that makes its first request at that moment."""
    really = Transport._open

    def closed_meanwhile(made: Transport) -> transport_room._Pool:
        with concurrent.futures.ThreadPoolExecutor() as threads:
            threads.submit(asyncio.run, made.aclose()).result(10)
        return really(made)

    async with raw_server(OK) as server, transport() as made:
        monkeypatch.setattr(Transport, "_open", closed_meanwhile)
        with pytest.raises(SessionClosedError):
            await made.get(server.url, None, timeout=5)
        assert not made.unclosed
        assert server.requests == []


def test_a_loop_that_ended_is_not_kept() -> None:
    """A session that is used in one ``asyncio.run`` after another does not collect their loops."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def once() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with raw_server(OK) as server:
            await made.get(server.url, None, timeout=5)

    for _ in range(3):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(once())
    gc.collect()
    assert [loop() is None for loop in loops] == [True, True, False]


async def test_bug_while_open_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a closed session excuses an assertion."""

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("a bug")

    async with transport() as made:
        pool = await made._pool()
        monkeypatch.setattr(pool.api, "get", broken)
        with pytest.raises(AssertionError, match="a bug"):
            await made.get(URL("http://127.0.0.1:9/"), None, timeout=5)


async def test_another_process_is_refused() -> None:
    """After a fork the transport says so instead of sharing sockets."""
    async with transport() as made:
        made._pid = -1
        with pytest.raises(ForkedSessionError, match="another process"):
            await made.get(URL("http://127.0.0.1:9/"), None, timeout=1)


async def test_unreachable_read_is_not_sent() -> None:
    """A GET to where nobody listens says that nothing was sent, and why, in the system's words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with transport() as made:
        with pytest.raises(NotSentError) as caught:
            await made.get(URL(f"http://127.0.0.1:{port}/"), None, timeout=5)
    assert caught.value.message == f"can't connect (127.0.0.1:{port}, Connection refused)"


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_redirected_read_is_not_followed(status: int) -> None:
    """A redirect of a question is its answer: the key goes nowhere else."""
    async with raw_server(OK) as other:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(head.encode()) as server, transport() as made:
            reply = await made.get(server.url, ApiKey(Secret(KEY)), timeout=5)
    assert (reply.status, other.requests) == (status, [])


async def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is read up to a limit; what is beyond can't fill the memory."""
    monkeypatch.setattr("comet_async._http.transport.MAX_REPLY", 100_000)
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(5_000_000)
    async with raw_server(answer) as server, transport() as made:
        reply = await made.get(server.url, None, timeout=5)
    assert 100_000 < len(reply.body) < 1_000_000


@asynccontextmanager
async def lazy_server(read: asyncio.Event, answer: asyncio.Event) -> AsyncIterator[RawServer]:
    """Read bodies above 1 MB once *read* is set, and answer once *answer* is set."""
    seen = RawServer()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        seen.requests.append(head)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if length > 1_000_000:
            await read.wait()
            await reader.readexactly(length)
            await answer.wait()
        writer.write(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        read.set()
        answer.set()
        await asyncio.sleep(1)


LARGE = Body((bytes(16_000_000),))  # more than the system's buffers take


@asynccontextmanager
async def uploads(
    made: Transport, url: URL, number: int
) -> AsyncIterator[list[asyncio.Task[Reply]]]:
    """Send so many large bodies at once; none goes on after the block."""
    tasks = [asyncio.create_task(post(made, url, LARGE)) for _ in range(number)]
    await asyncio.sleep(1)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_few_large_bodies_at_once() -> None:
    """Large bodies wait for a place on the wire; small ones go by."""
    read, answer = asyncio.Event(), asyncio.Event()
    answer.set()
    async with lazy_server(read, answer) as server, transport(Network(uploads=2)) as made:
        async with uploads(made, server.url, 4) as tasks:
            assert len(server.requests) == 2
            assert (await post(made, server.url)).status == 200
            read.set()
            assert [(await task).status for task in tasks] == [200] * 4
    assert len(server.requests) == 5


async def test_place_is_given_back_once() -> None:
    """Uploads that ended leave as many places as before, and not more."""
    read, answer = asyncio.Event(), asyncio.Event()
    read.set()
    answer.set()
    async with lazy_server(read, answer) as server, transport(Network(uploads=1)) as made:
        for _ in range(3):
            await post(made, server.url, LARGE)
        read.clear()
        async with uploads(made, server.url, 3):
            assert len(server.requests) == 3 + 1


async def test_place_ends_with_the_body() -> None:
    """A server that is slow to answer does not hold up the other uploads."""
    read, answer = asyncio.Event(), asyncio.Event()
    read.set()
    async with lazy_server(read, answer) as server, transport(Network(uploads=1)) as made:
        async with uploads(made, server.url, 2) as tasks:
            await asyncio.sleep(5)
            assert len(server.requests) == 2
            answer.set()
            await asyncio.gather(*tasks)


async def test_failed_upload_gives_its_place_back() -> None:
    """Neither a failure nor a cancellation keeps a place on the wire."""
    read, answer = asyncio.Event(), asyncio.Event()
    answer.set()
    async with lazy_server(read, answer) as server, transport(Network(uploads=1)) as made:
        with pytest.raises(NotSentError):
            await post(made, URL("https://nowhere.invalid/"), LARGE)
        async with uploads(made, server.url, 2):  # one holds the place, the other waits for it
            assert len(server.requests) == 1
        read.set()
        assert (await post(made, server.url, LARGE)).status == 200


@pytest.mark.parametrize(
    ("found", "trusted", "allowed"),
    [
        (["8.8.8.8"], False, ["8.8.8.8"]),
        (["10.0.0.1", "8.8.8.8", "::ffff:10.0.0.1"], False, ["8.8.8.8"]),
        (["127.0.0.1"], True, ["127.0.0.1"]),
        ([], False, []),
        (["127.0.0.1"], False, None),
        (["169.254.169.254", "fe80::1%eth0", "64:ff9b::a00:1"], False, None),
    ],
    ids=["public", "mixed", "trusted", "nothing", "private", "all-private"],
)
async def test_resolver_gives_public_addresses_only(
    found: list[str],
    trusted: bool,
    allowed: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what a name resolves to, only public addresses are connected to."""

    async def resolve(*_: object) -> list[dict[str, str]]:
        return [{"host": host} for host in found]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    resolver = _GuardedResolver(frozenset({"x.example"} if trusted else ()))
    if allowed is None:
        with pytest.raises(OSError, match="private address"):
            await resolver.resolve("x.example", 443)
    else:
        assert [each["host"] for each in await resolver.resolve("x.example", 443)] == allowed
    await resolver.close()


async def test_unclosed() -> None:
    """A transport knows whether connections of its own are open, so that one can warn."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())
    states = [made.unclosed]
    async with raw_server(OK) as server:
        await made.get(server.url, None, timeout=5)
        states.append(made.unclosed)
        await made.aclose()
    states.append(made.unclosed)
    assert states == [False, True, False]


async def test_closed_is_closed() -> None:
    """A closed transport sends nothing more, and may be closed again."""
    async with raw_server(OK) as server, transport() as made:
        await made.get(server.url, None, timeout=5)
        for _ in range(2):
            await made.aclose()
        for call in (post(made, server.url), made.get(server.url, None, timeout=5)):
            with pytest.raises(SessionClosedError) as caught:
                await call
            assert caught.value.sent is False
        with pytest.raises(SessionClosedError):
            await made.fetch(server.url)
        assert len(server.requests) == 1


async def test_other_threads_loop_is_closed_too() -> None:
    """Closing reaches the connections of a loop that runs in another thread, and waits."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())
    asked, closed = threading.Event(), threading.Event()

    async def other() -> None:
        async with raw_server(OK) as server:
            await made.get(server.url, None, timeout=5)
            asked.set()
            await asyncio.to_thread(closed.wait, 10)

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, other()))
    await asyncio.to_thread(asked.wait, 10)
    (pool,) = made._pools.values()
    await made.aclose()
    assert pool.closed
    closed.set()
    await thread


@pytest.mark.real_loop
async def test_loop_that_stops_meanwhile_is_not_waited_for() -> None:
    """As in a program that stops its other thread's loop, and closes the session next."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())
    loop = asyncio.new_event_loop()

    async def once() -> None:
        async with raw_server(OK) as server:
            await made.get(server.url, None, timeout=5)

    def stop() -> None:
        loop.stop()
        stopping.set()
        asked.wait()

    stopping, asked = threading.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(once(), loop))
        loop.call_soon_threadsafe(stop)
        await asyncio.to_thread(stopping.wait)
        closing = asyncio.create_task(made.aclose())
        await asyncio.sleep(0)
        asked.set()
        await asyncio.wait_for(closing, 10)
    finally:
        asked.set()
        await asyncio.to_thread(thread.join)
        await asyncio.to_thread(loop.run_until_complete, loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.real_loop
@pytest.mark.filterwarnings("always::RuntimeWarning")
async def test_loop_that_ends_meanwhile_leaves_no_coroutine(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """It closes its connections by itself, and Python does not warn of what it never began."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())
    loop = asyncio.new_event_loop()

    async def once() -> None:
        async with raw_server(OK) as server:
            await made.get(server.url, None, timeout=5)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(once(), loop))
    really = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *_args, **_more: None  # type: ignore[method-assign, assignment, return-value]  # it never gets to it
    closing = asyncio.create_task(made.aclose())
    await asyncio.sleep(0)
    really(loop.stop)
    await asyncio.to_thread(thread.join)
    await asyncio.wait_for(closing, 10)
    await asyncio.to_thread(loop.run_until_complete, loop.shutdown_asyncgens())
    loop.close()
    del closing
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_loop_that_stands_still_closes_its_own() -> None:
    """The connections of a loop that does not run are left to that loop's end."""
    made = Transport(network=Network(), timeouts=Timeouts(), clock=SystemClock())

    async def once() -> None:
        async with raw_server(OK) as server:
            await made.get(server.url, None, timeout=5)

    with asyncio.Runner(loop_factory=VirtualLoop) as first:
        first.run(once())
        with asyncio.Runner(loop_factory=VirtualLoop) as second:
            second.run(made.aclose())


def test_encoders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base64 is the same with the [speed] extra and without it."""
    encoders = [upload._encoder()]
    monkeypatch.setitem(sys.modules, "pybase64", None)
    encoders.append(upload._encoder())
    data = bytes(range(256)) * 5
    assert {encode(data) for encode in encoders} == {base64.b64encode(data)}


@pytest.mark.parametrize(
    ("given", "request_", "response"),
    [(None, 20, 60), (5, 5, 60), (120.5, 120.5, 120.5), (Timeouts(request=1, response=2), 1, 2)],
    ids=repr,
)
def test_timeouts(given: float | Timeouts | None, request_: float, response: float) -> None:
    """One number is for GETs; it never shortens the wait for the answer to a paid request."""
    limits = Timeouts.of(given)
    assert (limits.request, limits.response) == (request_, response)


@pytest.mark.parametrize("given", [0, -1, float("inf"), float("nan")])
def test_impossible_timeouts(given: float) -> None:
    """A time limit is a positive number of seconds."""
    with pytest.raises(InputError, match="is not a number above 0"):
        Timeouts.of(given)


def test_post_has_time_for_its_body() -> None:
    """A large body on a slow line is given the time that it takes."""
    assert Timeouts().post(0) == 90
    assert Timeouts().post(10_000_000) == 290
