"""Images that tests make themselves, without an image library."""

from __future__ import annotations

import functools
import struct
import zlib
from pathlib import Path

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG: length, name, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
    """Return the chunk with the size; 8 bits of RGB unless told otherwise."""
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


@functools.lru_cache(maxsize=64)
def make_png(width: int, height: int, tint: int = 0) -> bytes:
    """Return a colour gradient as PNG, *width* x *height* pixels."""
    row = bytearray(1 + 3 * width)
    row[1::3] = bytes(x * 255 // width for x in range(width))
    row[3::3] = bytes([tint]) * width
    rows = bytearray()
    for y in range(height):
        row[2::3] = bytes([y * 255 // height]) * width
        rows += row
    pixels = png_chunk(b"IDAT", zlib.compress(rows, 1))
    return PNG_SIGNATURE + png_header(width, height) + pixels + png_chunk(b"IEND", b"")


def with_odd_exif(jpeg: bytes) -> bytes:
    """Return *jpeg* lying on its left side, with a unit of resolution that is text, not a number.

    It is read everywhere, but can't be written back.
    """
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0128, 2, 1, b"x")
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def make_folder(folder: Path, count: int) -> Path:
    """Make *folder* with *count* different images; return it."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(make_png(300, 300, number))
    return folder
