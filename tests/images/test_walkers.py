"""What decoders refuse is refused, found while the bytes pass by."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from comet_async._images import walkers
from comet_async._images.formats import Inspector
from comet_async._images.load import load
from comet_async.errors import InputError

Image = pytest.importorskip("PIL.Image")


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def saved(format: str, mode: str = "RGB", **options: Any) -> bytes:  # noqa: A002 - Pillow's
    """Return a noisy image of 320 x 300 pixels as a file."""
    data = random.Random(1).randbytes(320 * 300 * len(mode))  # noqa: S311 - not a secret
    buffer = io.BytesIO()
    Image.frombytes(mode, (320, 300), data).save(buffer, format, **options)
    return buffer.getvalue()


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and bodies of a PNG's chunks."""
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of chunks, with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def cut_in_chunks(data: bytes, size: int) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG whose image data is cut into pieces of *size* bytes."""
    parts = chunks(data)
    stream = b"".join(body for kind, body in parts if kind == b"IDAT")
    pieces = [(b"IDAT", stream[at : at + size]) for at in range(0, len(stream), size)]
    return [parts[0], *pieces, (b"IEND", b"")]


def flat() -> bytes:
    """Return a PNG of 320 x 300 pixels in a few hundred bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (320, 300), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG, JPEG = saved("PNG"), saved("JPEG", quality=80)
FLAT = flat()
GRAY_PALETTE = saved("PNG", "P")
PARTS = cut_in_chunks(PNG, 8192)
HEADER, END = PARTS[0], PARTS[-1]
FRAME = JPEG.index(b"\xff\xc0")
SCAN = JPEG.index(b"\xff\xda")
SCAN_DATA = SCAN + 2 + struct.unpack_from(">H", JPEG, SCAN + 2)[0]
TABLES, CODES = JPEG.index(b"\xff\xdb"), JPEG.index(b"\xff\xc4")


def with_process(marker: int, bits: int = 8) -> bytes:
    """Return the JPEG with another frame marker, and another precision."""
    return (
        JPEG[: FRAME + 1]
        + bytes([marker])
        + JPEG[FRAME + 2 : FRAME + 4]
        + bytes([bits])
        + (JPEG[FRAME + 5 :])
    )


def flipped(data: bytes, at: int) -> bytes:
    """Return *data* with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGED = {
    "no image data": joined([HEADER, END]),
    "empty image data": joined([HEADER, (b"IDAT", b""), END]),
    "a bit of the image": flipped(PNG, len(PNG) // 2),
    "a bit of a checksum": flipped(PNG, 30),
    "a bit of metadata": flipped(PNG[:33] + chunk(b"tEXt", b"a\0bcd") + PNG[33:], 44),
    "cut, and the end pasted": PNG[: len(PNG) // 2] + PNG[-12:],
    "cut between chunks": joined([*PARTS[:5], END]),
    "a chunk cut out, others behind": PNG[:33] + joined(PARTS[1:3])[8:] + joined(PARTS[9:])[12:],
    "interrupted": joined([*PARTS[:3], (b"tEXt", b"a\0b"), *PARTS[3:]]),
    "another stream": joined([HEADER, (b"IDAT", b"nonsense" * 500), END]),
    "far too short": joined([HEADER, (b"IDAT", b"\x78\x9c" + bytes(20)), END]),
    "no palette": joined([part for part in chunks(GRAY_PALETTE) if part[0] != b"PLTE"]),
    "short metadata": joined([HEADER, (b"gAMA", b"\0"), *PARTS[1:]]),
    "large profile": joined(
        [HEADER, (b"iCCP", b"p\0\0" + zlib.compress(bytes(2_000_000))), *PARTS[1:]]
    ),
    "large compressed text": joined(
        [HEADER, (b"iTXt", b"p\0\1\0\0\0" + zlib.compress(bytes(2_000_000))), *PARTS[1:]]
    ),
    "no scan": JPEG[:SCAN] + b"\xff\xd9",
    "empty scan": JPEG[:SCAN_DATA] + b"\xff\xd9",
    "no tables": JPEG[:TABLES] + JPEG[FRAME:],
    "cut codes": JPEG[: CODES + 2] + b"\0\x20" + JPEG[CODES + 4 :],
    "too many codes": JPEG[: CODES + 5] + b"\xff" * 16 + JPEG[CODES + 21 :],
    "odd scan": JPEG[: SCAN + 4] + b"\7" + JPEG[SCAN + 5 :],
    "impossible sampling": JPEG[: FRAME + 11] + b"\x51" + JPEG[FRAME + 12 :],
    "cut tables": JPEG[: TABLES + 2] + b"\0\x20" + JPEG[TABLES + 4 :],
}


def opens_in_pillow(data: bytes) -> bool:
    """Return True if Pillow decodes *data*."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:  # noqa: BLE001 - decoders raise anything
        return False
    return True


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
async def test_damage_is_refused(data: bytes, prepare: bool) -> None:
    """A good header and a good end are not an image: nothing of the kind is paid for."""
    with pytest.raises(InputError, match=r"damaged|more metadata than decoders accept") as caught:
        await load(data, prepare=prepare)
    assert caught.value.sent is False
    assert caught.value.hint


@pytest.mark.parametrize("size", [2_000_000, 6_000_000])
@pytest.mark.parametrize("kind", ["tEXt", "iTXt"])
async def test_long_text_that_is_not_compressed(kind: str, size: int) -> None:
    """Image editors write megabytes of history into a PNG, and decoders accept that."""
    start = b"XML:com.adobe.xmp\0" + (b"\0\0\0\0" if kind == "iTXt" else b"")
    data = joined([HEADER, (kind.encode(), start + b"x" * size), *PARTS[1:]])
    assert opens_in_pillow(data)
    assert (await load(data)).width == 320


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
@pytest.mark.parametrize("prepare", [False, True])
async def test_processes_that_are_not_decoded(marker: int, prepare: bool) -> None:
    """They are refused by name."""
    with pytest.raises(InputError, match=rf"JPEG.*\(SOF{marker - 0xC0}\), which decoders"):
        await load(with_process(marker), prepare=prepare)


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC9, 0xCA])
async def test_other_processes_are_accepted(marker: int) -> None:
    """Baseline, extended and progressive JPEGs, with either coding, are what decoders read."""
    assert (await load(with_process(marker))).width == 320


async def test_twelve_bits_are_named() -> None:
    """Extended and progressive JPEGs may have 12 bits; decoders in use don't read them."""
    for marker in (0xC1, 0xC2):
        with pytest.raises(InputError, match="a JPEG with 12 bits a channel"):
            await load(with_process(marker, bits=12))


async def test_two_channels_are_named() -> None:
    """Nobody knows which colours they would be."""
    body = JPEG[FRAME + 4 : FRAME + 9] + b"\2" + JPEG[FRAME + 10 : FRAME + 16]
    frame = JPEG[FRAME : FRAME + 2] + struct.pack(">H", len(body) + 2) + body
    with pytest.raises(InputError, match="a JPEG with 2 channels"):
        await load(JPEG[:FRAME] + frame + JPEG[FRAME + 19 :])


async def test_jpeg_ls_and_apple_png_are_named() -> None:
    """Relatives of common formats, which open nowhere."""
    with pytest.raises(InputError, match="a JPEG-LS image"):
        await load(b"\xff\xd8" + b"\xff\xf7" + JPEG[FRAME + 2 : FRAME + 19] + JPEG[SCAN:])
    with pytest.raises(InputError, match="Apple's own variant"):
        await load(joined([(b"CgBI", bytes(4)), *PARTS]))


ACCEPTED = {
    "one chunk": PNG,
    "many chunks": joined(PARTS),
    "chunks of 100 bytes": joined(cut_in_chunks(PNG, 100)),
    "chunks of one byte": joined(cut_in_chunks(FLAT, 1)),
    "equal chunks": joined(cut_in_chunks(PNG, sum(len(b) for k, b in PARTS if k == b"IDAT") // 2)),
    "empty chunk between": joined([HEADER, PARTS[1], (b"IDAT", b""), *PARTS[2:]]),
    "wrong checksum behind the image": joined(PARTS[:-1])
    + flipped(chunk(b"tEXt", b"a\0b"), 13)
    + chunk(*END),
    "animation": saved("PNG", save_all=True, append_images=[Image.new("RGB", (320, 300))]),
    "film behind": PNG + bytes(100_000),
    "JPEG": JPEG,
    "JPEG with a film": JPEG + b"\0\0\0\x18ftypmp42" + bytes(100_000),
    "two JPEGs": JPEG + JPEG,
    "progressive": saved("JPEG", progressive=True),
    "CMYK": saved("JPEG", "CMYK"),
    "gray": saved("JPEG", "L"),
    "restart markers": saved("JPEG", restart_marker_blocks=1),
    "MPO": saved("MPO", save_all=True, append_images=[Image.new("RGB", (320, 300))]),
}


@pytest.mark.parametrize("step", [1009, 1 << 30])
@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
async def test_what_pillow_opens_is_accepted(data: bytes, step: int) -> None:
    """Checks are no stricter than decoders, wherever the pieces are cut."""
    assert opens_in_pillow(data)
    assert (await load(data)).width == 320
    inspector = Inspector()
    for at in range(0, len(data), step):
        inspector.feed(data[at : at + step])
    assert (inspector.damage, inspector.unsupported) == ("", "")
    assert inspector.complete or inspector.has_end([data])


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7, 4096])
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_found_in_pieces(data: bytes, step: int) -> None:
    """Wherever the pieces are cut, the verdict is the same."""
    whole, pieces = Inspector(), Inspector()
    whole.feed(data)
    for at in range(0, len(data), step):
        pieces.feed(data[at : at + step])
    assert (pieces.damage, pieces.info) == (whole.damage, whole.info)


async def test_large_png_is_hashed_beside_its_checksums(tmp_path: Path) -> None:
    """Another thread makes the hash of a large file, and it is the same hash."""
    data = joined([HEADER, *[(b"tEXt", b"a\0" + bytes(60_000))] * 40, *PARTS[1:]])
    path = tmp_path / "large.png"
    path.write_bytes(data)
    assert len(data) > 2_000_000
    assert (await load(path)).sha256 == hashlib.sha256(data).hexdigest()
    path.write_bytes(flipped(data, 1_500_000))
    with pytest.raises(InputError, match="the checksum of its tEXt chunk is wrong"):
        await load(path)


def test_checksums_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same with the [speed] extra and without it."""
    checksums = [walkers._fastest_crc32()]
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.delitem(sys.modules, "isal.isal_zlib", raising=False)
    checksums.append(walkers._fastest_crc32())
    data = bytes(range(256)) * 500
    begun = zlib.crc32(b"IDAT")
    assert {checksum(memoryview(data), begun) for checksum in checksums} == {
        zlib.crc32(data, begun)
    }
