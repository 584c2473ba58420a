"""The one reader of the orientation, compared with Pillow's."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest

from comet_async._images.formats import read_info
from comet_async._images.load import load

Image = pytest.importorskip("PIL.Image")

BIG, LITTLE = ">", "<"
SHORT, LONG = 3, 4


def exif(
    orientation: int, *, kind: int = SHORT, order: str = BIG, count: int = 1, twice: bool = False
) -> bytes:
    """Return an EXIF block; *count* numbers stand behind the directory if they don't fit in it."""
    code = {SHORT: "H", LONG: "I", 6: "b", 8: "h", 9: "i", 1: "B", 7: "B"}[kind]
    numbers = struct.pack(f"{order}{count}{code}", *[orientation] * count)
    inline = numbers.ljust(4, b"\0")[:4] if len(numbers) <= 4 else struct.pack(f"{order}I", 40)
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count) + inline
    entries = [entry, entry] if twice else [entry]
    mark = b"MM\0*" if order == BIG else b"II*\0"
    head = mark + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head.ljust(40, b"\0") + numbers


def xmp(orientation: int, *, element: bool = False) -> bytes:
    """Return an XMP packet, with the orientation as an attribute or as an element."""
    said = f">{orientation}<" if element else f'="{orientation}"'
    return b"<x:xmpmeta tiff:Orientation" + said.encode() + b"/>"


def saved(format: str, **options: Any) -> bytes:  # noqa: A002 - Pillow's word and types
    """Return an image of 480 x 320 pixels, red at the top left, as a file."""
    image = Image.new("RGB", (480, 320), "blue")
    image.paste("red", (0, 0, 240, 160))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*extra: bytes, behind: bytes = b"") -> bytes:
    """Return a PNG with *extra* chunks before its image data, and others *behind* it."""
    data, end = saved("PNG"), chunk(b"IEND", b"")
    return data[:33] + b"".join(extra) + data[33 : -len(end)] + behind + end


def jpeg(*segments: bytes) -> bytes:
    """Return a JPEG with APP1 *segments*."""
    data = saved("JPEG")
    made = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in segments)
    return data[:2] + b"".join(made) + data[2:]


EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
RAW = b"Raw profile type exif"


def raw_profile(block: bytes) -> bytes:
    """Return EXIF as ImageMagick writes it into a PNG."""
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


FILES = {
    "SHORT": jpeg(EXIF + exif(6)),
    "LONG": jpeg(EXIF + exif(6, kind=LONG)),
    "LONG, little end first": jpeg(EXIF + exif(8, kind=LONG, order=LITTLE)),
    "SSHORT": jpeg(EXIF + exif(6, kind=8)),
    "SLONG": jpeg(EXIF + exif(6, kind=9)),
    "SBYTE": jpeg(EXIF + exif(6, kind=6)),
    "BYTE": jpeg(EXIF + exif(6, kind=1)),
    "UNDEFINED": jpeg(EXIF + exif(6, kind=7)),
    "three LONGs": jpeg(EXIF + exif(6, kind=LONG, count=3)),
    "named twice": jpeg(EXIF + exif(5, twice=True)),
    "prefix twice": jpeg(EXIF + EXIF + exif(6)),
    "odd byte order": jpeg(EXIF + exif(6).replace(b"MM\0*", b"MM*\0")),
    "beyond 8": jpeg(EXIF + exif(9)),
    "zero": jpeg(EXIF + exif(0)),
    "XMP attribute": jpeg(XMP + xmp(6)),
    "XMP element": jpeg(XMP + xmp(8, element=True)),
    "XMP beyond 8": jpeg(XMP + xmp(9)),
    "EXIF before XMP": jpeg(EXIF + exif(6), XMP + xmp(3)),
    "EXIF after XMP": jpeg(XMP + xmp(3), EXIF + exif(6)),
    "EXIF zero, XMP": jpeg(EXIF + exif(0), XMP + xmp(6)),
    "EXIF without it, XMP": jpeg(EXIF + exif(6).replace(b"\x01\x12", b"\x01\x13"), XMP + xmp(6)),
    "two XMP packets": jpeg(XMP + xmp(3), XMP + xmp(6)),
    "EXIF in two segments": jpeg(EXIF + exif(6, kind=LONG, count=3)[:24], EXIF + exif(6)[24:]),
    "two EXIF segments": jpeg(EXIF + exif(6), EXIF + exif(3)),
    "PNG eXIf": png(chunk(b"eXIf", exif(6))),
    "PNG eXIf with prefix": png(chunk(b"eXIf", EXIF + exif(6, kind=LONG))),
    "PNG eXIf behind": png(behind=chunk(b"eXIf", exif(6))),
    "PNG raw profile": png(chunk(b"tEXt", RAW + b"\0" + raw_profile(exif(6)))),
    "PNG raw profile, prefix": png(chunk(b"tEXt", RAW + b"\0" + raw_profile(EXIF + exif(6)))),
    "PNG raw profile, zTXt": png(
        chunk(b"zTXt", RAW + b"\0\0" + zlib.compress(raw_profile(exif(8))))
    ),
    "PNG raw profile behind": png(behind=chunk(b"tEXt", RAW + b"\0" + raw_profile(exif(6)))),
    "PNG XMP": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))),
    "PNG XMP, compressed": png(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(8)))
    ),
    "PNG eXIf, raw profile, XMP": png(
        chunk(b"eXIf", exif(6)),
        chunk(b"tEXt", RAW + b"\0" + raw_profile(exif(3))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(2)),
    ),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
async def test_orientation_is_what_pillow_reads(data: bytes) -> None:
    """Wherever and however it is written, the size is that of the image as viewers show it."""
    with Image.open(io.BytesIO(data)) as image:
        expected = image.getexif().get(0x0112, 1)
    expected = expected if expected in range(1, 9) else 1
    info = read_info(data)
    assert info is not None
    assert info.orientation == expected
    assert (info.width, info.height) == ((480, 320) if expected < 5 else (320, 480))
    plain = await load(data)
    assert (plain.width, plain.height) == (info.width, info.height)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
@pytest.mark.filterwarnings("ignore")  # as above
async def test_conversion_rotates_by_the_same_number(data: bytes) -> None:
    """What is measured is what is sent: upright, without metadata that would rotate it again."""
    info = read_info(data)
    assert info is not None
    loaded = await load(data, prepare=True)
    assert (loaded.width, loaded.height) == (info.width, info.height)
    rotated = f"rotated upright (orientation {info.orientation})"
    assert (rotated in loaded.notes) is (info.orientation != 1)
    with loaded.open() as file, Image.open(file) as image:
        assert image.size == (loaded.width, loaded.height)
        red = {3: (-9, -9), 5: (9, 9), 6: (-9, 9), 7: (-9, -9), 8: (9, -9)}
        x, y = red.get(info.orientation, (9, 9))
        pixel = image.convert("RGB").getpixel((x % image.width, y % image.height))
        assert pixel[0] > pixel[2] + 150


def test_raw_profile_of_nonsense_is_none() -> None:
    """What is not hexadecimal says nothing."""
    info = read_info(png(chunk(b"tEXt", RAW + b"\0\nexif\n  4\nzzzz\n")))
    assert info is not None
    assert info.orientation == 1


async def test_exif_that_can_not_be_written_back() -> None:
    """A value that can't be written back is left out with all metadata."""
    block = exif(6)
    # ResolutionUnit as text, which is meant to be a number.
    odd = struct.pack(">HHI4s", 0x0128, 2, 1, b"x\0\0\0")
    block = block[:9] + b"\2" + block[10:22] + odd + bytes(4)
    loaded = await load(jpeg(EXIF + block), prepare=True)
    assert (loaded.width, loaded.height) == (320, 480)


@pytest.mark.parametrize("format", ["TIFF", "WEBP"])
async def test_other_formats_are_rotated_as_well(format: str) -> None:  # noqa: A002 - Pillow's word
    """The same reader serves the formats whose headers are left to Pillow."""
    block = Image.Exif()
    block[0x0112] = 6
    loaded = await load(saved(format, exif=block), prepare=True)
    assert (loaded.width, loaded.height) == (320, 480)
    loaded = await load(saved("WEBP", xmp=xmp(6)), prepare=True)
    assert (loaded.width, loaded.height) == (320, 480)
