"""From what a user names to an image that may be sent."""

# ruff: noqa: ANN401 - a test may touch its small files; wrong types are a subject here

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st
from yarl import URL

from comet_async._images import rules
from comet_async._images.load import load
from comet_async._images.rules import MAX_BYTES, ImageRules
from comet_async._images.source import SourceImage
from comet_async.errors import InputError
from tests.support.images import PNG_SIGNATURE, png_chunk as chunk, png_header


def png(width: int, height: int, size: int = 0) -> bytes:
    """Return a file that looks like a PNG to all but decoders, of *size* bytes if given."""
    start = PNG_SIGNATURE + png_header(width, height)
    end = chunk(b"IEND", b"")
    # So many bytes could hold the pixels, if they were all alike.
    least = (3 * min(width, 20_000) + 1) * min(height, 20_000) // 1032 + 10
    length = max(least, size - len(start) - len(end) - 12)
    return start + chunk(b"IDAT", b"\x78\x01".ljust(length, b"\0")) + end


async def refused(image: Any, **options: Any) -> InputError:
    """Return the error that *image* is refused with; it always says what to do."""
    with pytest.raises(InputError) as caught:
        await load(image, **options)
    error = caught.value
    assert error.field == "image"
    assert error.value
    assert error.limit
    assert error.hint
    assert error.sent is False
    return error


@pytest.fixture
def dog(tmp_path: Path, photo: bytes) -> Path:
    """Return the path of a valid image."""
    path = tmp_path / "dog.png"
    path.write_bytes(photo)
    return path


@pytest.mark.parametrize("size", [0, 200_000, 300_000, 400_000, 5_000_000])
async def test_an_unwanted_hash_is_not_made(size: int, tmp_path: Path) -> None:
    """The image is known as well as with its hash, but for the hash."""
    path = tmp_path / "dog.png"
    path.write_bytes(png(400, 300, size))
    assert await load(path, hashed=False) == attrs.evolve(await load(path), sha256="")


async def test_an_image_without_a_hash_gets_one_where_it_is_wanted(tmp_path: Path) -> None:
    """Keys are made of hashes: without one, different images would be the same purchase."""
    path = tmp_path / "dog.png"
    path.write_bytes(png(400, 300))
    known = await load(path)
    assert await load(await load(path, hashed=False)) == known
    assert await load(known) is known
    by_bytes = await load(png(400, 300), hashed=False)
    assert (await load(by_bytes)).sha256 == known.sha256


async def test_file_cut_while_it_is_read_at_once(tmp_path: Path) -> None:
    """A small body is read whole; what is too short is never sent."""
    path = tmp_path / "dog.png"
    path.write_bytes(png(400, 300, 3000))
    image = await load(path)
    with image.open() as file:
        os.truncate(path, 1000)
        with pytest.raises(InputError, match="changed"):
            file.read()


@pytest.mark.parametrize("size", [200_000, 300_000, 5_000_000])
async def test_cut_short_is_seen_without_a_hash(size: int, tmp_path: Path) -> None:
    """The end is looked at, whatever is passed over on the way to it."""
    path = tmp_path / "dog.png"
    path.write_bytes(png(400, 300, size)[:-20])
    assert "cut short" in str(await refused(path, hashed=False))
    path.write_bytes(png(400, 300, size) + bytes(100_000))  # as telephones append films
    assert (await load(path, hashed=False)).width == 400


async def test_path_is_measured_and_hashed(dog: Path, photo: bytes) -> None:
    """All that is needed later is known after one reading."""
    image = await load(str(dog))
    assert image == SourceImage(
        source=str(dog),
        sha256=hashlib.sha256(photo).hexdigest(),
        path=dog,
        size=len(photo),
        mtime_ns=dog.stat().st_mtime_ns,
        width=400,
        height=300,
        format="png",
    )
    assert not image.is_url


@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview, Path, str, URL], ids=lambda m: m.__name__
)
async def test_every_kind_of_input_gives_the_same_image(make: Any, dog: Path, photo: bytes) -> None:
    """Path, bytes and data URI lead to the same hash and the same bytes."""
    data_uri = f"data:image/png;base64,{base64.b64encode(photo).decode()}"
    value = {Path: dog, str: str(dog), URL: data_uri}.get(make, photo)
    image = await load(value if isinstance(value, str) else make(value))
    assert image.sha256 == hashlib.sha256(photo).hexdigest()
    assert image.size == len(photo)
    with image.open() as file:
        assert file.read() == photo


async def test_image_is_taken_as_it_is(dog: Path) -> None:
    """A loaded image is not read again."""
    image = await load(dog)
    dog.unlink()
    assert await load(image) is image


async def test_relative_path_stays_right_after_a_change_of_folder(
    dog: Path, monkeypatch: pytest.MonkeyPatch, photo: bytes
) -> None:
    """The file is remembered by its absolute path, the name as it was given."""
    monkeypatch.chdir(dog.parent)
    image = await load("dog.png")
    monkeypatch.chdir("/")
    assert image.source == "dog.png"
    with image.open() as file:
        assert file.read() == photo


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (299, 400, "has 299x400 px; it needs both sides at least 300 px"),
        (400, 299, "both sides at least 300 px"),
        (751, 300, "an aspect ratio from 1:2.5 to 2.5:1"),
        (300, 751, "an aspect ratio"),
        (60_000, 60_000, "claims 60000x60000 px; at most 179 megapixels"),
        (0xFFFFFFFF, 0xFFFFFFFF, "megapixels"),
        (300, 300, None),
        (750, 300, None),
        (300, 750, None),
        (13_000, 13_000, None),
    ],
)
async def test_shape_is_checked(width: int, height: int, message: str | None) -> None:
    """The limits of the API are inclusive."""
    data = png(width, height)
    if message is None:
        assert (await load(data)).width == width
    else:
        assert message in str(await refused(data))


HTML = b"<!DOCTYPE html><title>404</title>"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"just some words", "is text, not a PNG or JPEG"),
        (b"\xef\xbb\xbf\n" + HTML, "is an HTML page, not a PNG or JPEG"),
        (b"<svg xmlns='x'/>", "is an SVG drawing"),
        (b"%PDF-1.7", "is a PDF document"),
        (bytes(range(256)), "is data in an unknown format"),
        (b"GIF89a" + bytes(40), "is GIF"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(30), "is WebP"),
        (b"II*\0" + bytes(40), "is TIFF"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "is HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(40), "is AVIF"),
        (b"BM" + bytes(12) + struct.pack("<I", 40) + bytes(40), "is BMP"),
        (png(400, 300)[:-1], "is cut short"),
        (png(400, 300)[:20] + b"\xff" + png(400, 300)[21:], "has a damaged header"),
        (b"\xff\xd8\xff\xd9", "holds no image data"),
        (png(400, 300, MAX_BYTES + 1), "has 10,485,761 bytes; at most 10 MB (10,485,760 bytes)"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_content_is_checked(data: bytes, message: str, tmp_path: Path) -> None:
    """What the server would refuse is refused, from memory and from a file of any name."""
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    assert message in str(await refused(data))
    error = await refused(path)
    assert message in error.message
    assert "holiday.jpg" in error.message


async def test_other_formats_name_the_remedy() -> None:
    """Formats that can be converted say how."""
    error = await refused(b"GIF89a" + bytes(40))
    assert error.value == "GIF"
    assert "prepare=True" in str(error.hint)


async def test_film_behind_an_image_is_not_damage() -> None:
    """Telephones append one; the image before it is whole."""
    film = bytes(300_000)
    assert (await load(png(400, 300) + film)).width == 400
    assert "checksum of its IEND" in str(await refused(png(400, 300)[:-1] + film))


async def test_largest_file_passes() -> None:
    """Exactly 10 MB is not too much."""
    assert (await load(png(400, 300, MAX_BYTES))).size == MAX_BYTES


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("no-such.png", "no-such.png is neither a file nor a URL", "check the spelling"),
        ("~/dog.png", "neither a file nor a URL", "write the whole path"),
        ("", "'' is neither", "check the spelling"),
        ("dog\0.png", "dog?.png is neither", "check the spelling"),
        ("x" * 5000, "neither", "check the spelling"),
        (base64.b64encode(png(400, 300)).decode(), "neither", "decode it, and give the file"),
        ("/9j/4AAQSkZJRgABAQAAAQABAAD", "neither", "decode it, and give the file"),
    ],
    ids=["missing", "home", "empty", "null", "long", "png", "jpeg"],
)
async def test_text_that_is_nothing_says_so(text: str, message: str, hint: str) -> None:
    """Text is never guessed to be Base64, but the error knows what it looks like."""
    error = await refused(text)
    assert message in error.message
    assert hint in str(error.hint)
    assert len(error.message) < 200


async def test_things_that_are_not_files(tmp_path: Path, dog: Path) -> None:
    """Folders, pipes and circles of links are named for what they are, without hanging."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    assert "is a folder" in str(await refused(tmp_path))
    assert "is not a regular file" in str(await refused(tmp_path / "pipe.png"))
    assert "is a symbolic link" in str(await refused(tmp_path / "circle.png"))
    assert "neither" in str(await refused(dog / "inside.png"))
    assert "float is not supported" in str(await refused(1.5))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_file_is_named(dog: Path) -> None:  # pragma: no cover - not as root
    """Missing rights are not a missing file."""
    dog.chmod(0)
    assert "can't be read: Permission denied" in str(await refused(dog))


async def test_symbolic_link_is_followed_by_default(tmp_path: Path, dog: Path) -> None:
    """A folder's links may lead anywhere, so that folders do not follow them."""
    link = tmp_path / "link.png"
    link.symlink_to(dog)
    assert (await load(link)).width == 400
    assert "is a symbolic link" in str(await refused(link, follow_symlinks=False))


async def test_errors_on_the_disk_are_errors_of_the_image(
    dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk becomes an error that names the file."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageRules, "check_kind", fail)
    assert "dog.png can't be read: Input/output error" in str(await refused(dog))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/png;base64,not*base64", "is not valid Base64"),
        ("data:image/png;base64,QUJD", "the data URI is text, not a PNG or JPEG"),
        ("data:image/png,raw", "the data URI is of another kind"),
        ("data:text/plain;base64,QUJD", "another kind"),
        ("data:image/png;base64", "another kind"),
    ],
)
async def test_data_uris_that_hold_no_image(text: str, message: str) -> None:
    """A data URI is decoded and judged like a file."""
    assert message in str(await refused(text))


async def test_data_uri_may_be_folded_or_escaped(photo: bytes) -> None:
    """Line breaks, percent escapes and parameters are in use."""
    text = base64.encodebytes(photo).decode().replace("+", "%2B")
    image = await load(f" DATA:image/png;name=dog;base64,{text}")
    assert image.sha256 == hashlib.sha256(photo).hexdigest()
    assert image.source == "data URI"


SIGNED = "https://cdn.example.com/a%2Fb~c.png?Signature=s3cret%2B"


async def test_url_is_kept_to_the_letter() -> None:
    """Another spelling of the same URL could break its signature."""
    image = await load(f"  {SIGNED}\n")
    assert image.url == image.source == SIGNED
    assert image.is_url
    assert image.sha256 == hashlib.sha256(SIGNED.encode()).hexdigest()
    assert (image.size, image.width, image.format) == (0, None, None)
    assert "s3cret" not in repr(image)
    with pytest.raises(InputError, match="a URL has no bytes"):
        image.open()


async def test_yarl_url_is_taken() -> None:
    """A URL object is as good as its text."""
    assert (await load(URL("http://example.com/dog.png"))).url == "http://example.com/dog.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file:///etc/passwd", "can't fetch a file: URL"),
        ("file:dog.png", "can't fetch a file: URL"),
        ("FTP://example.com/dog.png", "can't fetch a ftp: URL"),
        ("s3://bucket/dog.png", "can't fetch a s3: URL"),
        ("https:///dog.png", "is not a URL"),
        ("https://[::1/dog.png", "is not a URL"),
        ("https://example.com:99999/dog.png", "is not a URL"),
        ("https://example.com/my dog.png", "is not a URL"),
        ("https://example.com/a\nb", "is not a URL"),
        ("https://me:pa55@example.com/dog.png", "a user name or a password"),
        ("http://localhost/dog.png", "can't reach localhost"),
        ("http://sub.LOCALHOST./dog.png", "which is private"),
        ("http://127.0.0.1:8000/dog.png", "which is private"),
        ("http://127.1/dog.png", "which is private"),
        ("http://2130706433/dog.png", "which is private"),
        ("http://0x7f.0.0.1/dog.png", "which is private"),
        ("http://10.0.0.8/dog.png", "which is private"),
        ("http://192.168.1.1/dog.png", "which is private"),
        ("http://169.254.169.254/latest", "which is private"),
        ("http://100.64.0.1/dog.png", "which is private"),
        ("http://0.0.0.0/dog.png", "which is private"),
        ("http://224.0.0.1/dog.png", "which is private"),
        ("http://[::1]/dog.png", "which is private"),
        ("http://[fe80::1]/dog.png", "which is private"),
        ("http://[fd00::1]/dog.png", "which is private"),
        ("http://[::ffff:127.0.0.1]/dog.png", "which is private"),
    ],
)
async def test_urls_that_the_provider_must_not_get(text: str, message: str) -> None:
    """Nothing private is asked for in our name, and no password is shown."""
    error = await refused(text)
    assert message in error.message
    assert "pa55" not in f"{error} {error.value}"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "10.0.0.8", "[::1]:9"])
async def test_private_urls_are_for_the_sandbox(host: str) -> None:
    """A server on this machine may fetch from this machine."""
    text = f"http://{host}/dog.png"
    assert (await load(text, allow_private=True)).url == text


async def test_public_addresses_are_taken() -> None:
    """A literal is refused for being private, not for being a literal."""
    assert (await load("https://8.8.8.8/dog.png")).is_url


async def test_a_colon_makes_no_url(
    tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name may hold a colon."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo:1.png").write_bytes(photo)
    assert (await load("photo:1.png")).source == "photo:1.png"


async def test_field_names_the_error() -> None:
    """A second image of a request is called by its own name."""
    with pytest.raises(InputError, match=r"^mask: the data is empty") as caught:
        await load(b"", field="mask")
    assert caught.value.field == "mask"


async def test_message_keeps_the_end_of_a_long_path(tmp_path: Path) -> None:
    """The file's name is what a person looks for."""
    path = tmp_path / ("deep" * 30) / "the-dog.png"
    assert "…" in str(await refused(path))
    assert "the-dog.png is neither" in str(await refused(path))


async def test_message_holds_no_control_characters(tmp_path: Path) -> None:
    """A file's name can't write on the terminal, and need not be valid text."""
    path = os.fsencode(tmp_path) + b"/\x1b[2Jred\xff.png"
    Path(os.fsdecode(path)).write_bytes(b"text")
    message = str(await refused(Path(os.fsdecode(path))))
    assert "?[2Jred?.png is text" in message


# ---------------------------------------------------------------------------- reading it again


async def test_each_open_starts_at_the_beginning(dog: Path, photo: bytes) -> None:
    """A second attempt sends the same bytes as the first."""
    image = await load(dog)
    with image.open() as first, image.open() as second:
        assert first.read(100) == second.read(100) == photo[:100]
        assert first.read() == photo[100:]
        assert first.read() == b""


async def test_pieces_end_where_the_file_ends(dog: Path, photo: bytes) -> None:
    """Read in pieces, of any kind of call, it is the same file."""
    image = await load(dog)
    buffer = bytearray(len(photo) + 10)
    with image.open() as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == photo
        file.seek(0)
        assert file.readinto(buffer) == len(photo)  # type: ignore[attr-defined]  # a raw file has it
        assert buffer[: len(photo)] == photo
        file.seek(0)
        assert file.readall() == photo  # type: ignore[attr-defined]  # as above


def change(path: Path, how: str) -> None:
    """Change a file as other programs do."""
    data = path.read_bytes()
    if how == "longer":
        path.write_bytes(data + b"more")
    elif how == "shorter":
        path.write_bytes(data[:-100])
    elif how == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()


CHANGES = ["longer", "shorter", "touched"]


@pytest.mark.parametrize("how", [*CHANGES, "deleted"])
async def test_open_refuses_a_changed_file(dog: Path, how: str) -> None:
    """What was checked is what is sent, or nothing is."""
    image = await load(dog)
    change(dog, how)
    expected = "neither a file" if how == "deleted" else "changed while it was read"
    with pytest.raises(InputError, match=expected):
        image.open()


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("piece", [100, -1])
async def test_reading_notices_a_change(dog: Path, how: str, piece: int) -> None:
    """A file that changes on its way is not passed off as whole."""
    image = await load(dog)
    with image.open() as file:
        file.read(10)
        change(dog, how)
        with pytest.raises(InputError, match="changed while it was read"):
            list(iter(lambda: file.read(piece), b""))


async def test_failing_disk_while_reading(dog: Path) -> None:
    """An error in the middle of sending names the image."""
    image = await load(dog)
    with image.open() as file:
        folder = os.open(dog.parent, os.O_RDONLY)
        os.dup2(folder, file.fileno())  # reading a folder fails like a bad disk
        os.close(folder)
        with pytest.raises(InputError, match="is a folder"):
            file.read(10)


async def test_loading_notices_a_change(dog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another program is still writing is not taken."""

    def write(*_: object) -> None:
        with dog.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(ImageRules, "check_kind", write)
    assert "changed while it was read" in str(await refused(dog))
    monkeypatch.setattr(ImageRules, "check_kind", lambda *_: os.utime(dog, ns=(1, 1)))
    assert "changed while it was read" in str(await refused(dog))


# ---------------------------------------------------------------------------- environment


async def test_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """Hash and header are taken as the file passes by."""
    path = tmp_path / "large.png"
    path.write_bytes(png(4000, 3000, MAX_BYTES))
    await load(path)
    tracemalloc.start()
    try:
        await load(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_reading_leaves_the_loop_free(dog: Path) -> None:
    """While an image is read, other tasks run."""
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    task = asyncio.create_task(load(dog))
    await ran.wait()
    assert not task.done()
    await task


async def test_many_at_once(tmp_path: Path) -> None:
    """A batch may ask for all its images; two are read at a time."""
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(png(400 + number, 300))
    images = await asyncio.gather(*map(load, paths))
    assert [image.width for image in images] == list(range(400, 450))


def test_several_loops_one_after_the_other(dog: Path) -> None:
    """Nothing is bound to the loop that came first."""
    assert asyncio.run(load(dog)) == asyncio.run(load(dog))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_nothing_but_our_errors(value: bytes | str) -> None:
    """Whatever is passed in, the answer is an image or an error of ours."""
    with contextlib.suppress(InputError):
        asyncio.run(load(value))


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\xff\x0a", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"8BPS\0\x01", "a Photoshop file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx ", "a camera raw file"),
        (b"\0\0\x01\0\x01\0", "an icon"),
    ],
)
async def test_what_nobody_takes_has_a_name(start: bytes, name: str, *, prepare: bool) -> None:
    """Other formats are named, plain and with conversion, with what to do instead."""
    with pytest.raises(InputError) as caught:
        await load(start + bytes(60), prepare=prepare)
    assert f"is {name}" in caught.value.message
    assert "PNG or JPEG" in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("installed", [True, False])
async def test_heic_needs_one_more_package(
    monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    """The advice is whole: it does not take a second try to hear of the package."""
    monkeypatch.setattr(rules, "find_spec", lambda _name: object() if installed else None)
    error = await refused(b"\0\0\0\x18ftypheic" + bytes(40))
    more = "" if installed else ", after pip install 'comet-async[heif]'"
    assert error.hint == f"pass prepare=True to convert it{more}"


def test_a_password_in_a_url_is_not_shown() -> None:
    """Such a URL is refused when it is loaded; until then it may be printed."""
    image = SourceImage.from_url("https://me:canary@example.com/a@b.png?sig=canary")
    assert "canary" not in repr(image)
    assert "https://example.com/a@b.png" in repr(image)
