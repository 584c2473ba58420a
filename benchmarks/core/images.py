"""PNG files of a wanted size in bytes, each with other content."""

from __future__ import annotations

import functools
import random
import struct
import zlib
from pathlib import Path

SIDE = 640
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OVERHEAD = 12  # length, name and checksum of a chunk


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size: int, number: int = 0) -> bytes:
    """Return a valid grey PNG of *size* bytes (at least 2 kB); each *number* gives another.

    Its weight is noise in a private chunk behind them: nothing here looks at the pixels.
    """
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    pixels = _pixels()
    end = _chunk(b"IEND", b"")
    rest = size - len(_SIGNATURE) - len(head) - len(pixels) - len(end) - _OVERHEAD
    noise = random.Random(number).randbytes(rest)  # noqa: S311 - noise, not a secret
    return _SIGNATURE + head + pixels + _chunk(b"noIs", noise) + end


@functools.cache
def _pixels() -> bytes:
    return _chunk(b"IDAT", zlib.compress(bytes((SIDE + 1) * SIDE), 9))


def make(folder: Path, count: int, size: int) -> list[Path]:
    """Write *count* images of *size* bytes into *folder*, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(png(size, number))
    return paths
