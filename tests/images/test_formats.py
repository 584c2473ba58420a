"""Formats, sizes and ends of images, read from bytes alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from comet_async._images.formats import EXTENSIONS, Inspector, is_complete, read_info, sniff
from tests.support.images import PNG_SIGNATURE, png_chunk as chunk, png_header

BIG, LITTLE = ">", "<"


def png(width: int, height: int, *extra: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """Return a PNG whose pixels are nonsense, with *extra* chunks before them."""
    header = png_header(width, height, bits=bits, colour=colour)
    pixels = chunk(b"IDAT", b"pixels" * 20)
    return PNG_SIGNATURE + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def exif(orientation: int, order: str = BIG) -> bytes:
    """Return an EXIF block that says nothing but the orientation."""
    mark = b"MM\0*" if order == BIG else b"II*\0"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", 8, 1) + entry


def segment(marker: int, body: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(
    width: int, height: int, *extra: bytes, frame: int = 0xC0, channels: int = 3, end: bool = True
) -> bytes:
    """Return a JPEG whose pixels are nonsense, with *extra* segments before its frame."""
    shape = struct.pack(">BHHB", 8, height, width, channels) + b"\1\x11\0" * channels
    scan = segment(0xDA, b"\1\1\0\0\x3f\0") + b"pixels\xff\0" * 20
    return (
        b"\xff\xd8" + b"".join(extra) + segment(frame, shape) + scan + (b"\xff\xd9" if end else b"")
    )


def orientation_segment(orientation: int, order: str = BIG) -> bytes:
    """Return the segment in which a camera writes how it was held."""
    return segment(0xE1, b"Exif\0\0" + exif(orientation, order))


def webp(kind: bytes, body: bytes) -> bytes:
    """Return a WebP file with one chunk."""
    content = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(content)) + content


LOSSY = webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 427) + bytes(10))
LOSSLESS = webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 426 << 14) + bytes(11))
EXTENDED = webp(b"VP8X", struct.pack("<I", 0x10) + b"\x7f\x02\0\xaa\x01\0")
GIF = b"GIF89a" + struct.pack("<HH", 640, 427) + bytes(10)
BMP = b"BM" + bytes(12) + struct.pack("<Iii", 40, 640, -427) + bytes(28)
OLD_BMP = b"BM" + bytes(12) + struct.pack("<IHH", 12, 640, 427) + bytes(4)
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(1, 1), "png"),
        (jpeg(1, 1), "jpeg"),
        (LOSSY, "webp"),
        (GIF, "gif"),
        (b"GIF87a", "gif"),
        (BMP, "bmp"),
        (OLD_BMP, "bmp"),
        (b"II*\0\x08\0\0\0", "tiff"),
        (b"MM\0*\0\0\0\x08", "tiff"),
        (b"II+\0\x08\0\0\0", "tiff"),
        (AVIF, "avif"),
        (b"\0\0\0\x1cftypavif", "avif"),
        (HEIC, "heic"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"BMW is a car maker from Munich", None),
        (b"<!doctype html>", None),
        (b"", None),
    ],
)
def test_sniff_goes_by_content(data: bytes, expected: str | None) -> None:
    """The first bytes name the format."""
    assert sniff(data) == expected


def test_every_format_has_an_extension() -> None:
    """A result can be named after whatever format it has."""
    assert set(EXTENSIONS) == {"png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heic"}
    assert EXTENSIONS["jpeg"] == "jpg"


@pytest.mark.parametrize(
    "data",
    [
        png(640, 427),
        jpeg(640, 427),
        jpeg(640, 427, frame=0xC2),
        jpeg(640, 427, b"\xff\x01", b"\xff\xff\xff\xff"),
        jpeg(640, 427, segment(0xE0, b"JFIF") + b"junk"),
        jpeg(640, 427, segment(0xC4, bytes(17))),
        LOSSY,
        LOSSLESS,
        EXTENDED,
        GIF,
        BMP,
        OLD_BMP,
    ],
)
def test_read_info_finds_the_size(data: bytes) -> None:
    """Each format's own way to write 640 x 427 is understood."""
    info = read_info(data)
    assert info is not None
    assert (info.width, info.height, info.orientation) == (640, 427, 1)
    assert info.format == sniff(data)


@pytest.mark.parametrize(
    ("data", "bits", "channels"),
    [
        (png(9, 9, bits=16, colour=0), 16, 1),
        (png(9, 9, bits=4, colour=3), 4, 3),
        (png(9, 9, colour=6), 8, 4),
        (jpeg(9, 9, channels=4), 8, 4),
        (jpeg(9, 9, channels=1), 8, 1),
        (EXTENDED, 8, 4),
        (LOSSLESS, 8, 3),
    ],
)
def test_read_info_says_how_pixels_are_stored(data: bytes, bits: int, channels: int) -> None:
    """CMYK, 16 bits and transparency show in the header."""
    info = read_info(data)
    assert info is not None
    assert (info.bits, info.channels) == (bits, channels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", [BIG, LITTLE])
def test_size_is_that_of_the_upright_image(orientation: int, order: str) -> None:
    """Orientations 5 to 8 lie on their side: width and height change places."""
    for data in (
        jpeg(640, 427, orientation_segment(orientation, order)),
        png(640, 427, chunk(b"eXIf", exif(orientation, order))),
    ):
        info = read_info(data)
        assert info is not None
        assert info.orientation == orientation
        assert (info.width, info.height) == ((640, 427) if orientation < 5 else (427, 640))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"MM",
        exif(0),
        exif(9),
        exif(6)[:-6],
        b"MM\0*" + struct.pack(">I", 0xFFFFFFFF),
        b"MM\0*" + struct.pack(">IH", 8, 0xFFFF),
        exif(6).replace(b"MM\0*", b"XX\0*"),
        exif(6).replace(b"\x01\x12", b"\x01\x13"),
    ],
)
def test_unreadable_exif_means_upright(block: bytes) -> None:
    """A broken EXIF block is as good as none."""
    info = read_info(jpeg(640, 427, segment(0xE1, b"Exif\0\0" + block)))
    assert info is not None
    assert info.orientation == 1


def test_only_the_first_exif_block_counts() -> None:
    """A second block, of an embedded image, turns nothing."""
    info = read_info(jpeg(640, 427, orientation_segment(6), orientation_segment(3)))
    assert info is not None
    assert info.orientation == 6


GOOD_PNG, GOOD_JPEG = png(640, 427), jpeg(640, 427)


@pytest.mark.parametrize(
    "data",
    [
        GOOD_PNG[:32],
        GOOD_PNG.replace(b"IHDR", b"CgBI"),
        GOOD_PNG[:18] + b"\xff" + GOOD_PNG[19:],
        png(0, 427),
        png(640, 427, bits=3),
        png(640, 427, colour=7),
        GOOD_JPEG[:6],
        b"\xff\xd8\xff\xd9\0\0",
        b"\xff\xd8" + segment(0xDA, b""),
        b"\xff\xd8\xff\xe0\0\1",
        b"\xff\xd8\xff\xe0\xff\xffshort",
        b"\xff\xd8" + segment(0xC0, b"\x08\1\0\1\0\3"),
        jpeg(640, 0),
        b"\xff\xd8" + b"\xff\1" * 10_000,
        LOSSY.replace(b"\x9d\x01\x2a", b"\0\0\0"),
        LOSSY.replace(b"VP8 ", b"ANIM"),
        GIF[:8],
        BMP[:20],
        AVIF,
        b"",
    ],
)
def test_damaged_headers_give_none(data: bytes) -> None:
    """What can't be read is None, not a guess and not an exception."""
    assert read_info(data) is None


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("png", GOOD_PNG, True),
        ("png", GOOD_PNG + bytes(100), True),
        ("png", GOOD_PNG[:-1], False),
        ("jpeg", GOOD_JPEG, True),
        ("jpeg", GOOD_JPEG + bytes(100), True),
        ("jpeg", GOOD_JPEG[:-1], False),
        ("jpeg", jpeg(640, 427, end=False), False),
        ("gif", GIF, True),
    ],
)
def test_is_complete_looks_for_the_end_mark(name: str, data: bytes, expected: bool) -> None:
    """A PNG ends with IEND, a JPEG with EOI, whatever follows."""
    assert is_complete(name, data[-200:]) is expected


def inspect(data: bytes, step: int) -> Inspector:
    """Return an inspector that saw *data* in pieces of *step* bytes."""
    inspector = Inspector()
    for at in range(0, len(data), step):
        inspector.feed(data[at : at + step])
    return inspector


THUMBNAIL = segment(0xE1, b"Exif\0\0" + exif(6) + GOOD_JPEG)
MOTION = jpeg(640, 427, THUMBNAIL) + b"\0\0\0\x18ftypmp42" + bytes(5000)


@pytest.mark.parametrize("step", [1, 7, 100, 100_000])
@pytest.mark.parametrize(
    ("data", "complete"),
    [
        (GOOD_PNG, True),
        (GOOD_PNG[:-1], False),
        (GOOD_JPEG, True),
        (jpeg(640, 427, end=False), False),
        (jpeg(640, 427, THUMBNAIL, end=False), False),
        (MOTION, True),
        (GOOD_JPEG + GOOD_JPEG, True),
        (LOSSY, True),
        (LOSSY[:-1], False),
        (GIF, True),
        (b"nothing of the kind", False),
    ],
)
def test_inspector_sees_the_end_pass_by(data: bytes, complete: bool, step: int) -> None:
    """Wherever the pieces are cut, a whole image is distinguished from a part of one."""
    inspector = inspect(data, step)
    assert inspector.complete is complete
    assert inspector.size == len(data)
    assert inspector.info == read_info(data)
    assert inspector.format == sniff(data)


def test_end_may_be_far_from_the_end() -> None:
    """A telephone appends a film to its image; a second look finds where the image ends."""
    film = b"\0\0\0\x18ftypmp42" + bytes(200_000)
    for data, whole in (
        (jpeg(640, 427, THUMBNAIL) + film, True),
        (jpeg(640, 427, THUMBNAIL, end=False) + film, False),
        (LOSSY[:-1], False),
    ):
        for step in (1000, 300_000):
            inspector = inspect(data, step)
            pieces = [data[at : at + step] for at in range(0, len(data), step)]
            assert not inspector.complete
            assert inspector.has_end(pieces) is whole


def test_end_across_two_pieces() -> None:
    """Wherever the file is cut, the second look finds the mark."""
    data = jpeg(640, 427) + bytes(100_000)
    inspector = inspect(data, 100_000)
    for cut in range(60, len(data) - 100_000):
        assert inspector.has_end([data[:cut], data[cut:]])


@pytest.mark.parametrize("step", [1000, 300_000])
def test_the_end_of_a_png_needs_no_second_look(step: int) -> None:
    """Its chunks are walked through, and lead to the end wherever it is."""
    assert inspect(png(640, 427) + bytes(200_000), step).complete


def test_inspector_reads_past_megabytes_of_metadata() -> None:
    """A phone's depth map stands before the size of the image."""
    depth = segment(0xE1, bytes(65_000)) * 60
    inspector = inspect(jpeg(640, 427, orientation_segment(8), depth), 256 * 1024)
    assert inspector.info is not None
    assert (inspector.info.width, inspector.info.height) == (427, 640)
    assert inspector.complete


def test_inspector_finds_orientation_behind_a_long_profile() -> None:
    """A PNG's size comes first, its EXIF block possibly much later."""
    data = png(640, 427, chunk(b"iCCP", bytes(300_000)), chunk(b"eXIf", exif(6)))
    assert inspect(data, 64 * 1024).info == read_info(data)
    assert read_info(data[:1000]) != read_info(data)


def test_tiny_segments_end_the_search() -> None:
    """A JPEG of thousands of two-byte segments is damaged, and costs no time."""
    inspector = inspect(b"\xff\xd8\xff\xe0\0\2" + b"\xff\1" * 100_000, 100_000)
    assert inspector.damage == "has a damaged header"
    assert len(inspector._walker._buffer) < 200_000  # type: ignore[union-attr]  # it is one


def test_inspector_does_not_keep_the_file() -> None:
    """Once the header is known, what passes by is forgotten."""
    inspector = inspect(jpeg(640, 427, end=False), 100_000)
    inspector.feed(bytes(1_000_000))
    kept = len(inspector._head) + len(inspector._tail)
    assert kept < 70_000


STARTS = [GOOD_PNG, GOOD_JPEG, MOTION[:400], LOSSY, LOSSLESS, EXTENDED, GIF, BMP, AVIF, HEIC]


@given(st.binary(max_size=300), st.sampled_from([b"", *(start[:40] for start in STARTS)]))
def test_any_bytes_give_a_value_or_none(data: bytes, start: bytes) -> None:
    """No input raises, with or without a credible beginning."""
    whole = start + data
    info = read_info(whole)
    assert info is None or (info.width > 0 and info.height > 0 and info.format in EXTENSIONS)
    assert inspect(whole, 64).info == info


@given(st.sampled_from(STARTS), st.data())
def test_flipped_bytes_give_a_value_or_none(start: bytes, data: st.DataObject) -> None:
    """No damage to a good header raises."""
    damaged = bytearray(start)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    info = read_info(bytes(damaged))
    assert info is None or (info.width > 0 and info.height > 0)
