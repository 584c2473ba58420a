"""The engine ``stub``: a plain grey PNG of the right size, made without any image library."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

from comet_async._images.formats import read_info

_PNG = b"\x89PNG\r\n\x1a\n"
_BAND = 64  # rows that are compressed at once


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of the upright PNG or JPEG in *data*; None if it is neither."""
    info = read_info(data)
    if info is None or info.format not in {"png", "jpeg"}:
        return None
    return info.width, info.height


def grey_png(width: int, height: int, *, variant: int = 0, label: str = "") -> bytes:
    """Return an image of one grey.

    Args:
        width: Pixels across.
        height: Pixels down.
        variant: 0 to 8; each has its own grey.
        label: Text that is written into the file, to tell files of the same size apart.
    """
    notes = {"Software": "comet_async sandbox", "Engine": "stub", "Prompt": "ignored"}
    if label:
        notes["Source"] = label
    texts = (_chunk(b"tEXt", f"{key}\0{value}".encode("latin-1")) for key, value in notes.items())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    pixels = _pixels(width, height, 128 - 8 * variant)
    return b"".join(
        (_PNG, _chunk(b"IHDR", header), *texts, _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    )


@lru_cache(maxsize=32)
def _pixels(width: int, height: int, grey: int) -> bytes:
    row = b"\0" + bytes([grey]) * (3 * width)
    packer = zlib.compressobj(1)
    packed = [packer.compress(row * min(_BAND, height - y)) for y in range(0, height, _BAND)]
    return b"".join([*packed, packer.flush()])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
