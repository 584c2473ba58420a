"""Results become files: whole or not at all, from public addresses only, under free names."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import ssl
import struct
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession, web
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from hypothesis import given, strategies as st
from yarl import URL

from comet_async._fs import file_sha256
from comet_async._http.transport import Transport
from comet_async._images.load import SourceImage
from comet_async._results import download
from comet_async._results.download import Downloader, check_address, parse_url
from comet_async._results.files import Part, in_thread, place
from comet_async._results.folder import FolderOutput
from comet_async.clock import SystemClock
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    CometError,
    ConnectionLostError,
    DownloadError,
    InputError,
    NotFoundError,
    NotSentError,
    ResultExpiredError,
    SaveError,
)
from comet_async.models import ResultImage, Task, TaskStatus
from tests.support.servers import Handler, Server, answering, serving

END_OF_PNG = 12  # bytes of the chunk IEND


def segment(marker: int, body: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(metadata: int = 0) -> bytes:
    """Return a JPEG of 40 x 30 pixels of nonsense, behind so many kilobytes of metadata."""
    frame = segment(0xC0, struct.pack(">BHHB", 8, 30, 40, 1) + b"\1\x11\0")
    extra = segment(0xEB, bytes(1020)) * metadata
    return b"\xff\xd8" + extra + frame + segment(0xDA, b"\1\1\0\0\x3f\0") + b"pixels\xff\xd9"


WEBP_BODY = b"WEBPVP8X" + struct.pack("<II", 110, 0) + b"\x27\0\0\x1d\0\0" + bytes(100)
WEBP = b"RIFF" + struct.pack("<I", len(WEBP_BODY)) + WEBP_BODY


def padded(png: bytes, size: int) -> bytes:
    """Return the same image with *size* bytes of something else in it."""
    body = b"niSe" + os.urandom(size)
    chunk = struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-END_OF_PNG] + chunk + png[-END_OF_PNG:]


@asynccontextmanager
async def downloading(
    *, loopback: bool = True, network: Network | None = None, trusted: str = ""
) -> AsyncIterator[Downloader]:
    """A downloader whose transport is closed at the end."""
    clock = SystemClock()
    transport = Transport(
        network=network or Network(),
        timeouts=Timeouts(),
        clock=clock,
        trusted=frozenset({trusted}),
    )
    try:
        yield Downloader(transport=transport, clock=clock, loopback=loopback)
    finally:
        await transport.aclose()


async def fetch(handler: Handler, folder: Path, *, path: str = "/x.png", name: str = "x") -> Part:
    """Fetch what *handler* serves into *folder*."""
    async with serving(handler) as server, downloading() as downloader:
        return await downloader.fetch(f"{server.url}{path}", folder, name=name)


def names(folder: Path) -> list[str]:
    """Return what lies in *folder*."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ------------------------------------------------------------------------- whole images


def box(kind: bytes, body: bytes, *, long: bool = False, size: int | None = None) -> bytes:
    """Return one box of an AVIF or HEIC."""
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


AVIF = (
    box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta", bytes(200)) + box(b"mdat", bytes(70))
)
WHOLE = {
    "jpeg": jpeg(),
    "webp": WEBP,
    "avif": AVIF,
    "avif-long": AVIF + box(b"mdat", bytes(300), long=True),
    "avif-open": AVIF + box(b"mdat", bytes(300), size=0),
    "heic": box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"mdat", bytes(9)),
    "gif": b"GIF89a" + struct.pack("<HH", 40, 30) + bytes(50) + b";\0",
    "bmp": b"BM" + struct.pack("<IIIIii", 80, 0, 54, 40, 40, 30) + bytes(54),
    "tiff": b"II*\0" + bytes(100),
}


@pytest.mark.parametrize("kind", ["png", *WHOLE])
async def test_complete_image(kind: str, tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    """A paid image in any format that we know is written beside its future name."""
    data = {**WHOLE, "png": make_photo(40, 30)}[kind]
    part = await fetch(answering(web.Response(body=data)), tmp_path / "new" / "folder")
    assert part.path == tmp_path / "new" / "folder" / ".x.part"
    assert part.path.read_bytes() == data
    assert part.format == kind.partition("-")[0]
    assert (part.size, part.sha256) == (len(data), hashlib.sha256(data).hexdigest())


async def test_large_image_is_written_in_pieces(tmp_path: Path, photo: bytes) -> None:
    """An image of several megabytes comes through byte by byte the same."""
    data = padded(photo, 5_000_001)
    part = await fetch(answering(web.Response(body=data)), tmp_path)
    assert part.sha256 == hashlib.sha256(data).hexdigest() == file_sha256(part.path)


async def test_much_metadata_before_the_size(tmp_path: Path) -> None:
    """Metadata of megabytes (C2PA, depth maps) may stand before a JPEG's size."""
    part = await fetch(answering(web.Response(body=jpeg(metadata=3000))), tmp_path)
    assert part.format == "jpeg"


async def test_disk_that_takes_little_at_a_time(
    tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that takes a part of the bytes is followed by one for the rest."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
    part = await fetch(answering(web.Response(body=photo)), tmp_path)
    assert part.path.read_bytes() == photo


async def test_names_of_parts_do_not_meet(tmp_path: Path, photo: bytes) -> None:
    """Without a name, each part has a random one, hidden."""
    async with serving(answering(web.Response(body=photo))) as server, downloading() as downloader:
        for _ in range(2):
            await downloader.fetch(str(server.url), tmp_path)
    assert len(names(tmp_path)) == 2
    assert all(name.startswith(".") and name.endswith(".part") for name in names(tmp_path))


async def test_address_is_asked_for_as_it_is(tmp_path: Path, photo: bytes) -> None:
    """The address keeps its spelling: another one would break its signature."""
    path = "/a%2Fb%7Ec.png?sign=a%2Bb+c%3D&x=%E6%97%A5"
    async with serving(answering(web.Response(body=photo))) as server, downloading() as downloader:
        await downloader.fetch(f"{server.url}{path}", tmp_path)
    assert server.paths == [path]


# ------------------------------------------------------------------ what is not an image


async def cut(request: web.BaseRequest) -> web.StreamResponse:
    """Announce more than is sent."""
    response = web.StreamResponse()
    response.content_length = 1000
    await response.prepare(request)
    await response.write(b"\x89PNG\r\n\x1a\n")
    assert request.transport
    request.transport.close()
    return response


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "html", "json", "gif-cut", "bmp-cut", "avif-cut", "avif-head", "avif-broken"),
        *("magic", "png-cut", "jpeg-cut", "webp-cut", "gzip-cut", "gzip-damaged", "short"),
    ],
)
async def test_incomplete_image(kind: str, tmp_path: Path, photo: bytes) -> None:
    """What is not a complete image is not saved, and fetching it again is worth a try."""
    bodies = {
        "empty": b"",
        "html": b"<!doctype html><title>Access denied</title>",
        "json": b'{"code": 1}',
        "gif-cut": WHOLE["gif"][:-2],
        "bmp-cut": WHOLE["bmp"][:-1],
        "avif-cut": AVIF[:-1],
        "avif-head": AVIF + b"\0\0",
        "avif-broken": AVIF + box(b"mdat", bytes(20), size=4),
        "magic": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "png-cut": photo[:-1],
        "jpeg-cut": jpeg()[:-2],
        "webp-cut": WEBP[:-1],
        "gzip-cut": zlib.compress(photo, wbits=31)[:-9],
        "gzip-damaged": b"\x1f\x8b" + bytes(100),
    }
    headers = {"Content-Type": "image/png", "Cache-Control": "no-transform"}
    if kind.startswith("gzip"):
        headers["Content-Encoding"] = "gzip"
    body = bodies.get(kind)
    handler = cut if body is None else answering(web.Response(body=body, headers=headers))
    with pytest.raises(ConnectionLostError) as caught:
        await fetch(handler, tmp_path)
    assert caught.value.retryable
    assert names(tmp_path) == []


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["ours", "caller's"])
async def test_compressed_image(own: bool, many: int, tmp_path: Path, photo: bytes) -> None:
    """A host may compress whatever it is asked; the image is saved as it was before that."""
    image = padded(photo, 3 * 256 * 1024 - len(photo) - END_OF_PNG)  # whole pieces
    parts = [image[: len(image) // many], image[len(image) // many :] if many > 1 else b""]
    body = b"".join(zlib.compress(part, wbits=31) for part in parts if part)
    handler = answering(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    async with contextlib.AsyncExitStack() as stack:
        network = Network()
        if own:
            network = Network(download_session=await stack.enter_async_context(ClientSession()))
        server = await stack.enter_async_context(serving(handler))
        downloader = await stack.enter_async_context(downloading(network=network))
        part = await downloader.fetch(str(server.url), tmp_path)
    assert part.path.read_bytes() == image
    assert len(image) % (256 * 1024) == 0


async def test_an_image_that_is_only_called_compressed(tmp_path: Path, photo: bytes) -> None:
    """Stores keep what they were once told about a file."""
    handler = answering(web.Response(body=photo, headers={"Content-Encoding": "gzip"}))
    assert (await fetch(handler, tmp_path)).path.read_bytes() == photo


async def test_an_image_that_can_not_be_decompressed(tmp_path: Path, photo: bytes) -> None:
    """The error says how; asking the same host again would not help."""
    handler = answering(web.Response(body=photo[::-1], headers={"Content-Encoding": "br"}))
    with pytest.raises(DownloadError, match=r"compressed \(br\).*download_session") as caught:
        await fetch(handler, tmp_path)
    assert not caught.value.retryable
    assert names(tmp_path) == []


async def test_little_that_stands_for_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decompressed is bounded as well, and never held as a whole."""
    monkeypatch.setattr(download, "MAX_FILE", 3 * 1024**2)
    body = zlib.compress(bytes(64 * 1024**2), wbits=31)
    handler = answering(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    with pytest.raises(DownloadError, match="larger than 3 MiB"):
        await fetch(handler, tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 * 1024**2
    assert names(tmp_path) == []


async def test_too_large_by_its_own_word(tmp_path: Path) -> None:
    """A file that announces more than 64 MiB is refused before it is read."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = download.MAX_FILE + 1
        await response.prepare(request)
        return response

    with pytest.raises(DownloadError, match="larger than 64 MiB"):
        await fetch(handle, tmp_path)
    assert names(tmp_path) == []


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    """Send zeros until the other side has enough."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        await response.write(bytes(256 * 1024))


async def test_endless_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without end is read up to the limit, and nothing of it stays."""
    monkeypatch.setattr(download, "MAX_FILE", 3 * 1024**2)
    with pytest.raises(DownloadError, match="larger than 3 MiB"):
        await fetch(endless, tmp_path)
    assert names(tmp_path) == []


def dripping(pause: float) -> Handler:
    """Send a zero every *pause* seconds."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"\0")
            await asyncio.sleep(pause)

    return handle


@pytest.mark.parametrize(("pause", "seconds"), [(10, 300), (1000, 20)], ids=["drip", "silence"])
async def test_slow_file(pause: float, seconds: float, tmp_path: Path) -> None:
    """A file that drips ends after five minutes, one that stops coming after twenty seconds."""
    loop = asyncio.get_running_loop()
    async with serving(dripping(pause)) as server, downloading() as downloader:
        begin = loop.time()
        with pytest.raises(ConnectionLostError):
            await downloader.fetch(str(server.url), tmp_path)
        assert loop.time() - begin == pytest.approx(seconds, abs=2)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, ResultExpiredError),
        (404, ResultExpiredError),
        (410, ResultExpiredError),
        (408, ConnectionLostError),
        (425, ConnectionLostError),
        (429, ConnectionLostError),
        (500, ConnectionLostError),
        (502, ConnectionLostError),
        (503, ConnectionLostError),
        (400, DownloadError),
        (401, DownloadError),
        (206, DownloadError),
        (304, DownloadError),
    ],
)
async def test_status(status: int, error: type[CometError], tmp_path: Path, photo: bytes) -> None:
    """What the host answers tells whether to ask for a new link, or for the same one again."""
    body = None if status == 304 else photo
    with pytest.raises(error) as caught:
        await fetch(answering(web.Response(status=status, body=body)), tmp_path)
    assert type(caught.value) is error
    assert caught.value.status == status
    assert names(tmp_path) == []


# --------------------------------------------------------------------- strange addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/x.png",
        "ftp://cdn.example/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "",
        "https://user@cdn.example/x.png",
        "https://user:word@cdn.example/x.png",
        "https://localhost/x.png",
        "https://127.0.0.1/x.png",
        "https://127.1/x.png",
        "https://2130706433/x.png",
        "https://[::1]/x.png",
        "https://10.0.0.1/x.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/x.png",
        "https://[fe80::1%25eth0]/x.png",
        "https://0.0.0.0/x.png",
    ],
)
@pytest.mark.parametrize("loopback", [False, True], ids=["public-root", "loopback-root"])
def test_refused_address(url: str, loopback: bool) -> None:
    """Only https, public hosts, and no passwords; this machine when the API runs on it."""
    address = URL(url)
    if loopback and address.host in {"localhost", "127.0.0.1", "::1"}:
        check_address(address, loopback=True)
        return
    with pytest.raises(DownloadError, match="refused"):
        check_address(address, loopback=loopback)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://cdn.example/x.png", "its scheme is http, not https"),
        ("/x.png", "its scheme is missing, not https"),
        ("https://", "it names no host"),
    ],
)
def test_a_refused_address_says_why(url: str, reason: str) -> None:
    """The reason is the one that applies."""
    with pytest.raises(DownloadError, match=reason):
        check_address(URL(url), loopback=False)


@pytest.mark.parametrize("url", ["https://cdn.example/x?sign=a", "https://8.8.8.8:8443/x.png"])
def test_accepted_address(url: str) -> None:
    """A public host is taken by name or by number."""
    check_address(URL(url), loopback=False)


IMPOSSIBLE = [
    "https://[::1",
    "https://cdn.example:99999/x",
    "https://cdn.example:port/x",
    "nonsense",
    "https:///x.png",
    "https://cdn..example.com/x.png",
    f"https://{'a' * 64}.example.com/x.png",
    "https://\ud800.example.com/x.png",
    "https://cdn.example.com/\ud800.png",
    "https://ex\u200bample.com/x.png",
    "https://xn--/x.png",
    "https://xn--a-ecp.ru/x.png",
    "https://cdn example.com/x.png",
    "https://\u3002/x.png",
    "https://%00/x.png",
]


@pytest.mark.parametrize("url", IMPOSSIBLE, ids=ascii)
async def test_impossible_url(url: str, tmp_path: Path) -> None:
    """Text that can't be a URL is an error of ours, not of a codec or a library."""
    async with downloading() as downloader:
        with pytest.raises((DownloadError, NotSentError)) as caught:
            await downloader.fetch(url, tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize("url", IMPOSSIBLE, ids=ascii)
async def test_impossible_redirect(url: str, tmp_path: Path) -> None:
    """A redirect to text that can't be a URL is an error of the same kind."""
    location = url.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    handler = answering(web.Response(status=302, headers={"Location": location}))
    with pytest.raises((DownloadError, NotSentError)):
        await fetch(handler, tmp_path)


@given(st.text(max_size=60), st.sampled_from(["", "https://", "//", "https://h.example/"]))
def test_any_text_is_a_url_or_an_error(text: str, start: str) -> None:
    """Whatever a server writes: a URL in ASCII that can be read, or our own error."""
    try:
        url = parse_url(start + text)
    except DownloadError:
        return
    assert str(url).isascii()
    check = contextlib.suppress(DownloadError)
    with check:
        check_address(url, loopback=False)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("/r/my result.png?sig=a%2Bb", "/r/my%20result.png?sig=a%2Bb"),
        ("/r/moved 图.png?sig=%7e%2B", "/r/moved%20%E5%9B%BE.png?sig=%7e%2B"),
        ('/a%2Fb~c%7Ec.png?x=%e6+%E6|{}^"', "/a%2Fb~c%7Ec.png?x=%e6+%E6%7C%7B%7D%5E%22"),
        ("/100%.png?a=50%&b=%zz", "/100%25.png?a=50%25&b=%25zz"),
        ("/a//b/../c;d=1,2?x=[1]&y='()*!", "/a//b/../c;d=1,2?x=[1]&y='()*!"),
        (" /x.png\t?a=\n1 ", "/x.png?a=1"),
        ("/x.png?sig=a#part", "/x.png?sig=a"),
    ],
    ids=ascii,
)
async def test_urls_keep_their_spelling(url: str, sent: str, tmp_path: Path, photo: bytes) -> None:
    """Encoded is what must be; all else stays byte for byte, or the signature would break."""
    async with serving(answering(web.Response(body=photo))) as server, downloading() as downloader:
        base = str(server.url).rstrip("/")
        await downloader.fetch(f"{base}{url.strip(' ')}", tmp_path)
    assert server.paths == [sent]


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/r/moved 图.png?sig=%7e%2B", "/r/moved%20%E5%9B%BE.png?sig=%7e%2B"),
        ("moved%2f.png?sig=%7e", "/r/moved%2f.png?sig=%7e"),
        ("?sig=%7e", "/r/x.png?sig=%7e"),
    ],
)
async def test_redirects_keep_their_spelling(
    location: str, sent: str, tmp_path: Path, photo: bytes
) -> None:
    """A redirect's reference is encoded as little as a URL."""
    moved = web.Response(status=302, headers={"Location": location})
    handler = answering(moved, web.Response(body=photo))
    async with serving(handler) as server, downloading() as downloader:
        await downloader.fetch(str(server.url / "r/x.png"), tmp_path)
    assert server.paths == ["/r/x.png", sent]


def test_names_in_other_scripts_are_encoded() -> None:
    """A host may be written in letters outside ASCII."""
    assert parse_url("https://bücher.example/日?a=é").raw_host == "xn--bcher-kva.example"


@pytest.fixture
def fake_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every name lead to this machine."""

    async def resolve(
        _self: ThreadedResolver, host: str, port: int = 0, family: int = 0
    ) -> list[ResolveResult]:
        here = ResolveResult(
            hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
        )
        return [here]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)


@asynccontextmanager
async def far_away(handler: Handler) -> AsyncIterator[tuple[str, Downloader]]:
    """Serve *handler* over TLS as ``cdn.example``, for a session whose API is not here."""
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("cdn.example").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    network = Network(ssl=ours)
    async with (
        serving(handler, tls=theirs) as server,
        downloading(loopback=False, network=network, trusted="cdn.example") as downloader,
    ):
        yield f"https://cdn.example:{server.port}", downloader


@pytest.mark.usefixtures("fake_dns")
@pytest.mark.parametrize(
    "target",
    [
        "http://cdn.example:{port}/x.png",
        "http://127.0.0.1:{port}/x.png",
        "https://127.0.0.1:{port}/x.png",
        "https://[::1]:{port}/x.png",
        "https://localhost:{port}/x.png",
        "//127.0.0.1:{port}/x.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/x.png",
        "https://[::1",
        "file:///etc/passwd",
        "https://user:word@cdn.example:{port}/x.png",
    ],
)
async def test_redirect_into_the_dark(target: str, tmp_path: Path, photo: bytes) -> None:
    """A redirect to where a result must not be is refused, and nobody is connected to."""
    async with serving(answering(web.Response(body=photo))) as inside:
        head = {"Location": target.format(port=inside.port)}
        async with far_away(answering(web.Response(status=302, headers=head))) as (url, downloader):
            with pytest.raises(DownloadError):
                await downloader.fetch(url, tmp_path)
    assert inside.seen == []
    assert names(tmp_path) == []


@pytest.mark.usefixtures("fake_dns")
async def test_name_that_leads_inside(tmp_path: Path) -> None:
    """A public name that resolves to a private address is not connected to."""
    async with serving(answering({})) as inside, downloading(loopback=False) as downloader:
        with pytest.raises(NotSentError, match="private address"):
            await downloader.fetch(f"https://other.example:{inside.port}/x.png", tmp_path)
    assert inside.seen == []


@pytest.mark.usefixtures("fake_dns")
async def test_redirect_between_public_hosts(tmp_path: Path, photo: bytes) -> None:
    """A result may be moved once or twice, by a full address or by a path."""
    moved = web.Response(status=307, headers={"Location": "/moved/x.png"})
    async with far_away(answering(moved, web.Response(body=photo))) as (url, downloader):
        assert (await downloader.fetch(url, tmp_path)).format == "png"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("hops", "requested"), [(3, 4), (4, 4)])
async def test_number_of_redirects(
    status: int, hops: int, requested: int, tmp_path: Path, photo: bytes
) -> None:
    """Three redirects are followed, the fourth is not."""
    moved = web.Response(status=status, headers={"Location": "again"})
    handler = answering(*[moved] * hops, web.Response(body=photo))
    async with serving(handler) as server, downloading() as downloader:
        got: Part | DownloadError
        try:
            got = await downloader.fetch(str(server.url), tmp_path)
        except DownloadError as error:
            got = error
    assert isinstance(got, Part) is (hops == 3)
    assert len(server.seen) == requested


async def test_redirect_to_nowhere(tmp_path: Path) -> None:
    """A redirect that names no place ends after as many tries."""
    with pytest.raises(DownloadError, match="redirects more than 3 times"):
        await fetch(answering(web.Response(status=302)), tmp_path)


# ------------------------------------------------------------------------------ the disk


async def test_leftover_is_replaced(tmp_path: Path, photo: bytes) -> None:
    """A part that a crash left behind under the same name makes room."""
    (tmp_path / ".x.part").write_bytes(b"half of it")
    part = await fetch(answering(web.Response(body=photo)), tmp_path)
    assert part.path.read_bytes() == photo


async def test_link_in_the_place_of_the_part(tmp_path: Path, photo: bytes) -> None:
    """A symbolic link under the part's name is replaced, never written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".x.part").symlink_to(victim)
    part = await fetch(answering(web.Response(body=photo)), tmp_path)
    assert victim.read_bytes() == b"precious"
    assert not part.path.is_symlink()


async def test_link_that_appears_at_the_last_moment(
    tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that is there again after the clean-up is refused, not written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".x.part").symlink_to(victim)
    monkeypatch.setattr(Path, "unlink", lambda _path, missing_ok=False: None)  # noqa: ARG005 - pathlib's signature
    with pytest.raises(DownloadError, match="can't be saved"):
        await fetch(answering(web.Response(body=photo)), tmp_path)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("blocked", ["out", "out/.x.part/"], ids=["folder", "part"])
async def test_disk_that_refuses_the_file(blocked: str, tmp_path: Path, photo: bytes) -> None:
    """What stands in the way of the folder or of the part is an error that says what to do."""
    if blocked.endswith("/"):
        (tmp_path / blocked).mkdir(parents=True)
    else:
        (tmp_path / blocked).write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="can't be saved") as caught:
        await fetch(answering(web.Response(body=photo)), tmp_path / "out")
    assert not caught.value.retryable
    assert "paid and safe" in (caught.value.hint or "")


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_full_disk(
    call: str, tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up, or fails at the end, leaves nothing behind."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DownloadError) as caught:
        await fetch(answering(web.Response(body=padded(photo, 3_000_000))), tmp_path)
    assert caught.value.message == "the result can't be saved: No space left on device"
    assert "make room on the disk" in (caught.value.hint or "")
    assert names(tmp_path) == []


async def test_cancelled_while_it_comes(tmp_path: Path) -> None:
    """A fetch that is cancelled in the middle leaves nothing behind."""
    async with serving(dripping(1)) as server, downloading() as downloader:
        task = asyncio.create_task(downloader.fetch(str(server.url), tmp_path))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names(tmp_path) == []


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let ``os.open`` (inside a thread) wait until a test says so."""
    state = SimpleNamespace(reached=threading.Event(), go_on=threading.Event())
    open_file = os.open

    def slow(path: Any, flags: int, *more: Any, **options: Any) -> int:  # noqa: ANN401 - the signature of `os.open`
        if str(path).endswith(".part"):
            state.reached.set()
            state.go_on.wait(10)
        return open_file(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", slow)
    yield state
    state.go_on.set()


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_is_written(
    times: int, tmp_path: Path, photo: bytes, slow_disk: SimpleNamespace
) -> None:
    """A thread can't be cancelled: what it writes after that goes, too."""
    async with serving(answering(web.Response(body=photo))) as server, downloading() as downloader:
        task = asyncio.create_task(downloader.fetch(str(server.url), tmp_path))
        while not slow_disk.reached.is_set():  # noqa: ASYNC110 - it is set in a thread
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        slow_disk.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_thread(lambda: None)  # behind whatever the thread still has to do
    assert names(tmp_path) == []


# -------------------------------------------------------------------------- a name for it


def part_of(folder: Path, data: bytes = b"new") -> Part:
    """Return a part in *folder*."""
    path = folder / ".x.part"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return Part(path=path, format="png", sha256=sha256, size=len(data))


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def linking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the file system has links: memory cards and some network drives have none."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr(os, "link", refuse)
    return bool(request.param)


@pytest.mark.usefixtures("linking")
@pytest.mark.parametrize(
    ("there", "exists"),
    [(None, "fail"), (b"new", "fail"), (b"old", "replace"), (b"new", "replace")],
)
async def test_part_gets_its_name(
    there: bytes | None, exists: download.Exists, tmp_path: Path
) -> None:
    """A free name, the same bytes, or the wish to replace: the file is there afterwards."""
    target = tmp_path / "x.png"
    if there is not None:
        target.write_bytes(there)
    await place(part_of(tmp_path), target, exists=exists)
    assert names(tmp_path) == ["x.png"]
    assert target.read_bytes() == b"new"


async def test_a_name_that_another_process_takes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file stays, whatever a look at the name showed just before."""
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(DownloadError, match="another file"):
        await place(part_of(tmp_path), target)
    assert (names(tmp_path), target.read_bytes()) == (["x.png"], b"old")


@pytest.mark.usefixtures("linking")
async def test_another_file_is_kept(tmp_path: Path) -> None:
    """Another file under the name stays as it is, and the part goes."""
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    with pytest.raises(DownloadError, match="another file"):
        await place(part_of(tmp_path), target)
    assert (names(tmp_path), target.read_bytes()) == (["x.png"], b"old")


@pytest.mark.parametrize("to", ["victim", "nowhere"])
async def test_link_under_the_name_is_kept(to: str, tmp_path: Path) -> None:
    """A link is another file, even one that leads to the same bytes, or nowhere."""
    (tmp_path / "victim").write_bytes(b"new")
    target = tmp_path / "x.png"
    target.symlink_to(tmp_path / to)
    with pytest.raises(DownloadError, match="another file"):
        await place(part_of(tmp_path), target)
    assert target.is_symlink()


async def test_a_crash_between_two_names(tmp_path: Path) -> None:
    """The first one is removed when the result is found, and never written to."""
    output = FolderOutput(tmp_path)
    part, target = part_of(tmp_path), tmp_path / "x.png"
    os.link(part.path, target)
    other = tmp_path / ".y.part"
    other.write_bytes(b"of another result")
    await output.make_durable("x.png")
    assert names(tmp_path) == [".y.part", "x.png"]
    os.link(target, tmp_path / ".z.png.part")
    source = SourceImage(source="", sha256="", data=b"other", size=5, format="png")
    await output.save(source, "z.png")
    assert (target.read_bytes(), (tmp_path / "z.png").read_bytes()) == (b"new", b"other")


@pytest.mark.parametrize("exists", ["fail", "replace"])
async def test_folder_under_the_name(exists: download.Exists, tmp_path: Path) -> None:
    """A folder can't be replaced, and the part does not stay."""
    (tmp_path / "x.png").mkdir()
    with pytest.raises(DownloadError, match=r"is a folder|Is a directory"):
        await place(part_of(tmp_path), tmp_path / "x.png", exists=exists)
    assert names(tmp_path) == ["x.png"]


def test_hash_of_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a link, nothing, and a file that can't be read have no hash."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    assert [file_sha256(tmp_path / name) for name in (".", "link", "absent")] == [None] * 3

    def refuse(*_: object) -> None:
        raise PermissionError

    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"").hexdigest()
    monkeypatch.setattr(Path, "open", refuse)
    assert file_sha256(tmp_path / "file") is None


# ----------------------------------------------------------------- links that are renewed


@pytest.fixture
async def cdn(photo: bytes) -> AsyncIterator[Server]:
    """Return a host that has what is called "good", lost "old", and stumbles once."""
    stumbled: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/stumbles" and not stumbled:
            stumbled.append(request.path)
            return web.Response(status=503)
        return web.Response(status=404) if request.path == "/old" else web.Response(body=photo)

    async with serving(handle) as server:
        yield server


def renewing(*images: ResultImage) -> tuple[Callable[..., Awaitable[Task]], list[str]]:
    """Return a function that asks for a task and gets *images*, and what it was asked."""
    requested: list[str] = []

    async def renew(task_id: str, *, kind: str) -> Task:
        requested.append(f"{kind} {task_id}")
        return Task(id=task_id, status=TaskStatus.SUCCEED, images=images)

    return renew, requested


def image(
    url: URL, *, index: int = 0, task_id: str = "8781", mark: URL | None = None
) -> ResultImage:
    """Return an image of a finished task."""
    watermark_url = None if mark is None else str(mark)
    return ResultImage(index=index, url=str(url), watermark_url=watermark_url, task_id=task_id)


@pytest.mark.parametrize("watermarked", [False, True])
async def test_version(cdn: Server, watermarked: bool, tmp_path: Path) -> None:
    """Either version of an image can be saved, without asking for the task."""
    renew, requested = renewing()
    wanted = image(cdn.url / "plain", mark=cdn.url / "marked")
    async with downloading() as downloader:
        await downloader.save(wanted, tmp_path / "x.png", renew, watermarked=watermarked)
    assert cdn.paths == ["/marked" if watermarked else "/plain"]
    assert requested == []


async def in_memory(
    how: str, downloader: Downloader, wanted: ResultImage, renew: Callable[..., Awaitable[Task]]
) -> bytes:
    """Return the bytes of an image, read at once or as a stream."""
    if how == "read":
        return await downloader.read(wanted, renew)
    async with downloader.stream(wanted, renew) as chunks:
        return b"".join([chunk async for chunk in chunks])


STATUSES = [400, 401, 402, 403, 404, 405, 406, 409, 410, 416, 418, 421, 451, 500, 503]
BROKEN = [
    *(f"/{status}" for status in STATUSES),
    "http://127.0.0.1:1/x.png",
    "http://cdn.example/x.png",
    "https://127.0.0.1:{port}/x.png",
    "https://cdn..example/x.png",
    "https://no-such-host.invalid/x.png",
    "/html",
    "/redirects",
]


@pytest.fixture
async def old_host(photo: bytes) -> AsyncIterator[Server]:
    """Return a host at which most URLs have gone bad, each in its way."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        word = request.path.strip("/")
        if word == "redirects":
            return web.Response(status=302, headers={"Location": "https://[::1"})
        body = b"<Error>ExpiredToken</Error>" if word in {"html", "400"} else photo
        return web.Response(status=int(word) if word.isdigit() else 200, body=body)

    async with serving(handle) as server:
        yield server


def url_at(server: Server, url: str) -> URL:
    """Return *url*, or that path of *server*."""
    text = url.format(port=server.port)
    return URL(text if "://" in text else f"{str(server.url).rstrip('/')}{text}", encoded=True)


@pytest.mark.parametrize("url", BROKEN)
@pytest.mark.parametrize("how", ["save", "read", "stream"])
async def test_any_url_that_fails_is_replaced(
    url: str, how: str, old_host: Server, tmp_path: Path, photo: bytes
) -> None:
    """Whatever is wrong with it, the task is asked for a new one, which costs nothing."""
    renew, requested = renewing(image(old_host.url / "good"))
    wanted = image(url_at(old_host, url))
    async with downloading() as downloader:
        if how == "save":
            await downloader.save(wanted, tmp_path / "x.png", renew)
            assert (tmp_path / "x.png").read_bytes() == photo
        else:
            assert await in_memory(how, downloader, wanted, renew) == photo
    assert requested == ["expand 8781"]


async def test_same_url_again_is_not_tried_again(old_host: Server, tmp_path: Path) -> None:
    """A server that has no other URL ends it, with the task's id in the error."""
    bad = image(old_host.url / "400")
    renew, requested = renewing(bad)
    async with downloading() as downloader:
        with pytest.raises(DownloadError, match="HTTP 400") as caught:
            await downloader.save(bad, tmp_path / "x.png", renew)
    assert (caught.value.task_id, len(requested), old_host.paths) == ("8781", 1, ["/400"])


async def test_a_foreign_file_is_no_reason_for_a_new_url(old_host: Server, tmp_path: Path) -> None:
    """Another URL would meet the same disk; the error says which task's image it was."""
    (tmp_path / "x.png").write_bytes(b"mine")
    renew, requested = renewing()
    async with downloading() as downloader:
        with pytest.raises(SaveError, match="another file") as caught:
            await downloader.save(image(old_host.url / "good"), tmp_path / "x.png", renew)
    assert (caught.value.task_id, requested) == ("8781", [])
    assert (tmp_path / "x.png").read_bytes() == b"mine"


# ------------------------------------------------------------------------------ in memory


@pytest.mark.parametrize("how", ["read", "stream"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [("cut", "cut short"), ("large", "larger than"), ("broken", "broke off"), ("gone", "HTTP 404")],
)
async def test_memory_has_the_same_guards(
    how: str, kind: str, error: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken or endless image is an error; a stream tells at its end."""
    monkeypatch.setattr(download, "MAX_FILE", 1_000_000)
    large = web.StreamResponse()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if kind == "broken":
            return await cut(request)
        if kind == "large":
            await large.prepare(request)
            for _ in range(20):
                await large.write(photo + bytes(100_000))
            return large
        return web.Response(body=photo[:-1], status=404 if kind == "gone" else 200)

    async with serving(handle) as server, downloading() as downloader:
        renew, _ = renewing()
        with pytest.raises(CometError, match=error) as caught:
            await in_memory(how, downloader, image(server.url), renew)
    assert caught.value.task_id == "8781"


async def test_a_stream_that_breaks_is_not_begun_again(photo: bytes) -> None:
    """Bytes that were handed out can't be taken back: no second URL after the first bytes."""
    renew, requested = renewing()
    async with serving(answering(web.Response(body=photo[:-1]))) as server:
        async with downloading() as downloader:
            with pytest.raises(ConnectionLostError):
                await in_memory("stream", downloader, image(server.url), renew)
    assert (len(server.seen), requested) == (1, [])


async def test_a_stream_that_begins_with_few_bytes(photo: bytes) -> None:
    """What the network gives first may be too little to tell an image from anything else."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(photo[:3])
        await asyncio.sleep(1)
        await response.write(photo[3:])
        return response

    async with serving(handle) as server, downloading() as downloader:
        renew, _ = renewing()
        assert await in_memory("stream", downloader, image(server.url), renew) == photo


async def test_a_stream_may_be_left_early(photo: bytes) -> None:
    """Its connection is closed with the block, and other streams are not held up."""
    data = padded(photo, 3_000_000)
    async with serving(answering(*[web.Response(body=data)] * 12)) as server:
        async with downloading() as downloader, contextlib.AsyncExitStack() as stack:
            renew, _ = renewing()
            for _ in range(10):
                opened = downloader.stream(image(server.url), renew)
                chunks = await stack.enter_async_context(opened)
                assert (await anext(aiter(chunks))).startswith(b"\x89PNG")


@pytest.mark.parametrize("watermarked", [False, True])
async def test_expired_link_is_asked_for_anew(
    cdn: Server,
    watermarked: bool,
    tmp_path: Path,
) -> None:
    """A link that is no longer good is replaced by the task's new one for the same image."""
    fresh = image(cdn.url / "plain", index=1, mark=cdn.url / "marked")
    renew, requested = renewing(image(cdn.url / "other"), fresh)
    wanted = image(cdn.url / "old", index=1, mark=cdn.url / "old")
    async with downloading() as downloader:
        await downloader.save(wanted, tmp_path / "x.png", renew, watermarked=watermarked)
    assert cdn.paths == ["/old", "/marked" if watermarked else "/plain"]
    assert requested == ["expand 8781"]


async def test_broken_transfer_is_repeated(cdn: Server, photo: bytes, tmp_path: Path) -> None:
    """A host that stumbles is asked again, for the same link."""
    renew, requested = renewing()
    async with downloading() as downloader:
        await downloader.save(image(cdn.url / "stumbles"), tmp_path / "x.png", renew)
    assert file_sha256(tmp_path / "x.png") == hashlib.sha256(photo).hexdigest()
    assert (cdn.paths, requested) == (["/stumbles"] * 2, [])


@pytest.mark.parametrize("task_id", ["", "8781"], ids=["no-task", "no-image"])
async def test_expired_for_good(cdn: Server, task_id: str, tmp_path: Path) -> None:
    """Without a task to ask for, or without that image in it, the result is expired."""
    renew, _ = renewing(image(cdn.url / "plain", index=5))
    async with downloading() as downloader:
        with pytest.raises(ResultExpiredError):
            await downloader.save(image(cdn.url / "old", task_id=task_id), tmp_path / "x", renew)


async def test_task_that_the_server_forgot(cdn: Server, tmp_path: Path) -> None:
    """After thirty days the task is gone as well: the image is expired, whatever says so."""

    async def renew(task_id: str, *, kind: str) -> Task:
        raise NotFoundError(f"no {kind} {task_id}")

    async with downloading() as downloader:
        with pytest.raises(ResultExpiredError):
            await downloader.save(image(cdn.url / "old"), tmp_path / "x", renew)


async def test_version_that_was_not_asked_for(cdn: Server, tmp_path: Path) -> None:
    """A watermarked version exists only if the request asked for one."""
    renew, _ = renewing()
    async with downloading() as downloader:
        with pytest.raises(InputError, match="no such version"):
            await downloader.save(image(cdn.url), tmp_path / "x", renew, watermarked=True)
