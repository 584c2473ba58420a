"""Damaged files of every format end in a verdict, within bounds, and what is accepted opens."""

from __future__ import annotations

import asyncio
import io
import struct
import warnings
import zlib

import pytest
from hypothesis import given, strategies as st

from comet_async._images.formats import Inspector
from comet_async._images.load import load
from comet_async._images.source import SourceImage
from comet_async.errors import InputError

Image = pytest.importorskip("PIL.Image")
MOST_PIXELS = 2_000_000  # a header may claim more; decoding that would only test the memory


def drawn() -> list[bytes]:
    """Return a small corpus, drawn here: each format in several variants."""
    image = Image.linear_gradient("L").resize((320, 300)).convert("RGB")
    image.paste("red", (0, 0, 90, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[str, str, dict[str, object]]] = [
        ("PNG", "RGB", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {"icc_profile": bytes(200)}),
        ("JPEG", "RGB", {"exif": exif, "quality": 60}),
        ("JPEG", "L", {"progressive": True, "quality": 60}),
        ("JPEG", "CMYK", {"quality": 60, "comment": b"drawn"}),
        ("WEBP", "RGB", {"lossless": True, "exif": exif}),
        ("WEBP", "RGBA", {"quality": 60}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", "P", {}),
    ]
    files = []
    for kind, mode, options in variants:
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


CORPUS = drawn()
HEADER = 700  # where most of the damage is done


def with_right_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks are sealed again, so that the damage is in what they say."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        end = at + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a file with a few bytes changed, cut out, inserted or doubled, mostly in its header."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from([HEADER, len(data)]))) - 1))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(["change", "cut", "insert", "double", "end"])):
            case "change":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "cut":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "double":
                data[at:at] = data[at : at + 8 * length]
            case _:
                del data[-length * 50 : -12]
        if len(data) < 16:
            break
    sealed = data.startswith(b"\x89PNG") and draw(st.booleans())
    return with_right_checksums(bytes(data)) if sealed else bytes(data)


def verdict(data: bytes, *, prepare: bool = False) -> SourceImage | InputError:
    """Return the loaded image, or the error that refuses it."""
    try:
        return asyncio.run(load(data, prepare=prepare))
    except InputError as error:
        return error


@given(damaged())
def test_what_is_accepted_opens(data: bytes) -> None:
    """Whatever was done to a file, it is refused with a reason, or Pillow can open it."""
    image = verdict(data)
    if isinstance(image, InputError):
        assert image.hint
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as opened:
            orientation = opened.getexif().get(0x0112, 1)
            size = opened.size[::-1] if orientation in range(5, 9) else opened.size
    assert (image.width, image.height) == size


@given(damaged())
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
def test_conversion_ends_in_a_verdict(data: bytes) -> None:
    """A conversion gives an image that opens, or an error of ours; nothing else is raised."""
    inspector = Inspector()
    inspector.feed(data)
    info = inspector.info
    if info is not None and info.width * info.height > MOST_PIXELS:
        return
    image = verdict(data, prepare=True)
    if isinstance(image, InputError):
        assert image.hint
        assert "<" not in image.message
        return
    with image.open() as file, Image.open(file) as opened:
        if image.notes:  # what was converted is whole, what passes by is known by its outside
            opened.load()


@given(damaged(), st.sampled_from([1, 13, 997]))
def test_the_verdict_does_not_depend_on_the_pieces(data: bytes, step: int) -> None:
    """However a file comes in, the same is found, and little is kept of it."""
    whole, pieces = Inspector(), Inspector()
    whole.feed(data)
    for at in range(0, len(data), step):
        pieces.feed(data[at : at + step])
    assert (pieces.info, pieces.damage) == (whole.info, whole.damage)
    assert (pieces.unsupported, pieces.complete) == (whole.unsupported, whole.complete)
