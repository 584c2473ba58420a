"""Images given as files, streams and objects, and constructors that say what they are."""

# ruff: noqa: ANN401 - wrong types are a subject here

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import sys
import tempfile
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, FormData, web
from yarl import URL

from comet_async._images.load import load
from comet_async._images.rules import MAX_BYTES
from comet_async._images.source import SourceImage, name_of_input
from comet_async._images.streams import MAX_HEADER, is_pillow, measure
from comet_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Stream:
    """A file that can be read once, as boto3 gives it."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.threads: set[int] = set()
        self.given = 0

    def read(self, size: int) -> bytes:
        """Return at most *size* bytes."""
        self.threads.add(threading.get_ident())
        data = self._file.read(size)
        self.given += len(data)
        return data


class Upload:
    """A file that is awaited, as Starlette gives it."""

    filename = "dog.png"

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        """Return at most *size* bytes."""
        await asyncio.sleep(0)
        return self._file.read(size)


async def in_pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Yield *data* as a download gives it."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def spooled(data: bytes) -> Any:
    """Return what `UploadFile.file` is."""
    file = tempfile.SpooledTemporaryFile(max_size=1 << 30)  # noqa: SIM115 - in memory
    file.write(data)
    file.seek(0)
    return file


MAKERS = [io.BytesIO, Stream, Upload, in_pieces, spooled]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("wrapped", [False, True])
async def test_files_and_streams(make: Any, wrapped: bool, photo: bytes) -> None:
    """What can be read for bytes is an image, by itself or through `from_file`."""
    file = make(photo)
    image = await load(SourceImage.from_file(file) if wrapped else file)
    assert image.sha256 == hashlib.sha256(photo).hexdigest()
    assert image.source == getattr(file, "filename", "bytes")
    with image.open() as opened:
        assert opened.read() == photo
    getattr(file, "close", int)()


async def test_files_are_read_off_the_loop(photo: bytes) -> None:
    """A slow disk or bucket holds up nothing else."""
    stream = Stream(photo)
    await load(stream)
    assert threading.get_ident() not in stream.threads


async def test_a_file_that_can_seek_is_left_as_it_was(photo: bytes) -> None:
    """The same object can be given twice; what stands before its position is not the image."""
    file = io.BytesIO(b"header" + photo)
    file.seek(6)
    assert await load(file) == await load(file)
    assert file.tell() == 6


async def test_names_of_open_files(tmp_path: Path, photo: bytes) -> None:
    """An open file is called by its name, unless another is given."""
    path = tmp_path / "dog.png"
    path.write_bytes(photo)
    with path.open("rb") as file:
        assert (await load(file)).source == str(path)
        assert (await load(SourceImage.from_file(file, name="upload 7"))).source == "upload 7"


@pytest.mark.parametrize("make", [Stream, Upload, in_pieces])
async def test_streams_are_read_up_to_the_limit(make: Any) -> None:
    """An endless upload does not fill the memory."""
    with pytest.raises(InputError, match="at most 10 MB"):
        await load(make(bytes(MAX_BYTES + 10_000_000)))


async def test_no_more_is_read_than_is_accepted() -> None:
    """A piece beyond the limit is enough to know."""
    stream = Stream(bytes(3 * MAX_BYTES))
    with pytest.raises(InputError, match="at most 10 MB"):
        await load(stream)
    assert stream.given < MAX_BYTES + 1_000_000


def closed() -> io.BytesIO:
    """Return a file that was closed."""
    file = io.BytesIO(b"x")
    file.close()
    return file


class Failing:
    """A file on a bad disk."""

    def read(self, _size: int) -> bytes:
        """Fail."""
        raise OSError(5, "Input/output error")


class Dropped:
    """A stream of a library with errors of its own, as boto3's and aiohttp's are."""

    async def read(self, _size: int) -> bytes:
        """Fail."""
        raise LookupError


async def of_text() -> AsyncIterator[Any]:
    """Yield text."""
    yield "text"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (closed(), "can't be read: I/O operation on closed file"),
        (Failing(), "can't be read: .*Input/output error"),
        (Dropped(), "can't be read: LookupError"),
        (io.StringIO("text"), "gives str where bytes are expected"),
        (of_text(), "gives str where bytes are expected"),
        (io.BytesIO(), "is empty"),
        (io.BytesIO(b"words"), "is text"),
    ],
    ids=["closed", "failing", "dropped", "text file", "text stream", "empty", "words"],
)
async def test_files_that_can_not_be_read(file: Any, message: str) -> None:
    """Each is an error of the image, with a remedy."""
    with pytest.raises(InputError, match=message) as caught:
        await load(file)
    assert caught.value.hint


async def test_a_file_that_was_read_before_says_so(photo: bytes) -> None:
    """It was the caller who read it: nothing is wrong with the image."""
    file = io.BytesIO(photo)
    file.read()
    with pytest.raises(InputError, match="is empty") as caught:
        await load(file)
    assert "seek(0)" in str(caught.value.hint)


async def test_a_part_of_an_aiohttp_form_is_read(photo: bytes) -> None:
    """Its ``read`` takes no size; what reads a piece has another name."""
    seen: list[int | None] = []

    async def upload(request: web.Request) -> web.Response:
        part: Any = await (await request.multipart()).next()
        seen.append((await load(part)).width)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", upload)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        form = FormData()
        form.add_field("image", photo, filename="dog.png")
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with ClientSession() as client, client.post(url, data=form) as answer:
            assert answer.status == 200
    finally:
        await runner.cleanup()
    assert seen == [400]


@pytest.mark.parametrize("wrong", [1.5, None, object(), ["dog.png"]])
async def test_other_things_are_named(wrong: Any) -> None:
    """The error says what would do."""
    with pytest.raises(InputError, match="is not supported") as caught:
        await load(wrong)
    assert "pass a path, bytes or an https URL" in str(caught.value)


# ---------------------------------------------------------------------------- constructors


async def test_constructors_say_what_it_is(tmp_path: Path, photo: bytes) -> None:
    """Path, bytes and URL are what they are called, and are looked at when they are used."""
    path = tmp_path / "dog.png"
    path.write_bytes(photo)
    for image in (
        SourceImage.from_path(path),
        SourceImage.from_path(str(path)),
        SourceImage.from_bytes(photo),
        SourceImage.from_bytes(memoryview(photo), name="upload"),
    ):
        assert not image.loaded
        loaded = await load(image)
        assert loaded.loaded
        assert (loaded.width, loaded.source) == (400, image.source)
        assert loaded.sha256 == hashlib.sha256(photo).hexdigest()
        assert (await load(image, hashed=False)).width == 400
    url = await load(SourceImage.from_url(" https://example.com/dog.png\n"))
    assert url == await load("https://example.com/dog.png")


async def test_a_path_is_never_a_url(
    tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be called like a URL, and a relative one is where it was named."""
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "https:" / "dog.png"
    odd.parent.mkdir()
    odd.write_bytes(photo)
    image = SourceImage.from_path("https://dog.png")
    monkeypatch.chdir("/")
    assert (await load(image)).path == odd


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "dog.png", "../x.png", "~/x.png", "file:///etc/passwd", "", "C:/x.png"]
)
@pytest.mark.parametrize("make", [SourceImage.from_url, URL])
async def test_a_url_is_never_a_path(make: Any, text: str) -> None:
    """A service that passes on what its user sends uploads no file of its own."""
    with pytest.raises(InputError, match=r"is not a URL|can't fetch a file: URL|is not an http"):
        await load(make(text))


@pytest.mark.parametrize(
    "url",
    [
        "https://a..b/x.png",
        "https://.example.com/x.png",
        "https://-a.com/x.png",
        "https://a-.com/x.png",
        f"https://{'a' * 64}.com/x.png",
        "https://" + "a." * 130 + "com/x.png",
        "https://example.com/" + "x" * 9000,
        "https://exa mple.com/x.png",
        "https://ex_am%ple.com/x.png",
        "https://xn--/x.png",
        "https://xn--a-\u00fc.example/x.png",
    ],
)
async def test_impossible_hosts_are_refused(url: str) -> None:
    """What no name server can know is not sent, and not paid."""
    with pytest.raises(InputError, match="is not a URL"):
        await load(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com./x.png",
        "https://my_bucket.s3.example.com/x.png",
        "https://b\u00fccher.example/x.png",
        "https://a-b--c.example.com/x.png",
        "https://123.example.com/x.png",
        "https://8.8.8.8/x.png",
        "https://[2606:4700::1111]/x.png",
    ],
)
async def test_odd_hosts_are_accepted(url: str) -> None:
    """Names that are in use pass."""
    assert (await load(url)).url == url


def test_names_of_inputs(photo: bytes) -> None:
    """What an outcome calls an image, before it is looked at."""
    assert name_of_input("dog.png") == "dog.png"
    assert name_of_input(photo) == name_of_input(bytearray(photo)) == "<bytes>"
    assert name_of_input("data:image/png;base64,AAAA") == "<data>"
    assert name_of_input(URL("https://example.com/a.png")) == "https://example.com/a.png"
    assert name_of_input(io.BytesIO()) == "<bytes>"
    assert name_of_input(Upload(b"")) == "dog.png"
    assert name_of_input(SourceImage.from_bytes(b"", name="upload")) == "upload"


async def test_bytes_are_called_data() -> None:
    """A message has a subject."""
    with pytest.raises(InputError, match=r"^image: the data is text, not a PNG or JPEG"):
        await load(b"words")
    text = base64.b64encode(b"words").decode()
    with pytest.raises(InputError, match=r"^image: the data URI is text"):
        await load(f"data:image/png;base64,{text}")


# ---------------------------------------------------------------------------- Pillow


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA", "La", "I;16"])
async def test_pillow_images(mode: str) -> None:
    """The pixels are what counts, however they are stored."""
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.new("L", (400, 300), 255)
    image.paste(0, (0, 0, 200, 150))
    image = image.convert("LA" if mode == "La" else "I;16" if mode == "I;16" else "RGB")
    image = image.convert(mode)
    if mode == "I;16":
        image = pillow.frombytes("I;16", (400, 300), bytes(range(256)) * 937 + bytes(128))
    loaded = await load(image)
    assert (loaded.width, loaded.height, loaded.format) == (400, 300, "png")
    with loaded.open() as file, pillow.open(file) as opened:
        opened.load()
        assert opened.size == (400, 300)
    assert (await load(image)).sha256 == loaded.sha256
    image.paste(image.crop((300, 200, 350, 250)), (0, 0))
    assert (await load(image)).sha256 != loaded.sha256


async def test_equal_pixels_of_other_colours_are_another_image() -> None:
    """What they mean is in a palette, and one of them may stand for nothing."""
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.frombytes("P", (400, 300), bytes(range(250)) * 480)
    image.putpalette([value for value in range(256) for _ in range(3)])
    other = image.copy()
    other.putpalette([255 - value for value in range(256) for _ in range(3)])
    clear = image.copy()
    clear.info["transparency"] = 7
    images = [image, other, clear, image.copy()]
    hashes = [(await load(each)).sha256 for each in images]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]


def test_pillow_while_another_thread_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is known by then, and has no content yet."""
    monkeypatch.setitem(sys.modules, "PIL.Image", types.ModuleType("PIL.Image"))
    assert not is_pillow("dog.png")


async def test_pillow_images_that_can_not_be_decoded(photo: bytes) -> None:
    """An image that was only opened is read when it is used."""
    pillow = pytest.importorskip("PIL.Image")
    with pytest.raises(InputError, match="Pillow image can't be decoded"):
        await load(pillow.open(io.BytesIO(photo[:5000])))
    image = pillow.open(io.BytesIO(photo))
    image.close()
    with pytest.raises(InputError, match="Pillow image can't be decoded"):
        await load(image)


async def test_pillow_images_that_break_a_rule() -> None:
    """The same limits hold as for files."""
    pillow = pytest.importorskip("PIL.Image")
    with pytest.raises(InputError, match="both sides at least 300 px"):
        await load(pillow.new("RGB", (200, 200)))
    assert (await load(pillow.new("RGB", (200, 200)), prepare=True)).width == 300
    for mode in ("I", "F"):
        with pytest.raises(InputError, match="no fixed black and white"):
            await load(pillow.new(mode, (400, 300)))


# ---------------------------------------------------------------------------- sizes of URLs


async def test_size_of_an_image_that_comes_in_pieces(photo: bytes) -> None:
    """The header is enough, and no more is read than that."""
    taken = 0

    async def download() -> AsyncIterator[bytes]:
        nonlocal taken
        for at in range(0, len(photo), 100):
            taken += 100
            yield photo[at : at + 100]

    info = await measure(download())
    assert info is not None
    assert (info.width, info.height) == (400, 300)
    assert taken < len(photo) // 2


async def test_measuring_ends() -> None:
    """What is not an image, or hides its size, costs a bounded amount."""
    taken = 0

    async def endless(start: bytes) -> AsyncIterator[bytes]:
        nonlocal taken
        yield start
        while True:
            taken += 65536
            yield bytes(65536)

    assert await measure(endless(b"words" * 2000)) is None
    assert await measure(endless(b"\xff\xd8\xff\xe0\xff\xff")) is None
    assert taken <= 3 * MAX_HEADER
