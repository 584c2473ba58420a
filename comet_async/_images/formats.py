"""What a run of bytes is: its image format, its size as seen upright, and whether it ends.

Rule of this file: bytes in, values out. No file, no network, no image library, and no
exception for any input: bytes that can't be read give None.

Sources: PNG, https://www.w3.org/TR/png-3/; JPEG, ITU-T T.81; EXIF 2.32 (JEITA CP-3451E);
WebP, https://developers.google.com/speed/webp/docs/riff_container.
"""

# ruff: noqa: PLR2004 - the numbers are the formats' own; each stands beside its name

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

EXTENSIONS: Mapping[str, str] = MappingProxyType(
    {
        "png": "png",
        "jpeg": "jpg",
        "webp": "webp",
        "gif": "gif",
        "bmp": "bmp",
        "tiff": "tif",
        "avif": "avif",
        "heic": "heic",
    }
)
"""File name extension of each format that `sniff` knows, without the dot."""

FORMAT_NAMES: Mapping[str, str] = MappingProxyType(
    {"webp": "WebP", **{name: name.upper() for name in EXTENSIONS if name != "webp"}}
)
"""How each format is written for people."""

WITHOUT_HEADER = frozenset({"tiff", "heic", "avif"})
"""Formats that `sniff` knows but `read_info` does not read."""

# Real headers have some dozen segments, a few hundred with an extended XMP packet. The bound
# keeps a hostile file of two-byte segments from costing time.
_MAX_SEGMENTS = 4096
# Phones put depth maps of a few megabytes before a JPEG's size; no header is longer than this.
_MAX_HEAD = 8 * 1024 * 1024
_TAIL = 64 * 1024

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_EXIF = b"Exif\x00\x00"


@attrs.frozen(kw_only=True)
class ImageInfo:
    """What an image's header says.

    Attributes:
        format: ``"png"``, ``"jpeg"``, ``"webp"``, ``"gif"`` or ``"bmp"``.
        width: Pixels across, as a viewer shows it (EXIF orientation applied).
        height: Pixels down, as a viewer shows it.
        orientation: EXIF orientation of a PNG or JPEG, 1 (upright) to 8; 1 otherwise.
        bits: Bits of one channel.
        channels: Channels of one pixel as stored: 4 in a JPEG means CMYK.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    bits: int = 8
    channels: int = 3


def sniff(head: bytes) -> str | None:
    """Return the format that the first bytes name, a key of `EXTENSIONS`, or None.

    Args:
        head: The first 32 bytes or more.
    """
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "bmp"
    return _sniff_iso(head) if head[4:8] == b"ftyp" else None


_MAGICS = (
    (_PNG_MAGIC, "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),  # BigTIFF
    (b"MM\x00+", "tiff"),
)
# "BM" alone would also match text; the second header's length tells them apart.
_BMP_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def _sniff_iso(head: bytes) -> str | None:
    # The first brand may be the general "mif1" in both families: AVIF shows in the list.
    length = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, length, 4))}
    if brands & _AVIF_BRANDS:
        return "avif"
    return "heic" if brands & _HEIC_BRANDS else None


def read_info(head: bytes) -> ImageInfo | None:
    """Return what the header that begins with *head* says, or None when it can't be read.

    64 KiB are enough for most images; a JPEG with much metadata needs more.
    """
    return _parse(head).info


@attrs.frozen
class _Parsed:
    """A header as far as it was read; *final* when more bytes would not change it."""

    info: ImageInfo | None = None
    final: bool = True
    end: int = 0  # where the search for the end mark may begin


_BROKEN = _Parsed()
_MORE = _Parsed(final=False)


def _parse(head: bytes) -> _Parsed:
    parser = _PARSERS.get(sniff(head) or "")
    try:
        parsed = parser(head) if parser else _BROKEN
    except (struct.error, IndexError):
        return _MORE
    if parsed.info and min(parsed.info.width, parsed.info.height) < 1:
        return _BROKEN
    short = parsed.info is None and len(head) < 32  # no header but a JPEG's is longer
    return _MORE if short else parsed


# ---------------------------------------------------------------------------- PNG

# Colour type → (channels, allowed bits).
_PNG_COLOURS = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (3, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}


def _parse_png(head: bytes) -> _Parsed:
    length, kind, width, height, bits, colour = struct.unpack_from(">I4sIIBB", head, 8)
    (check,) = struct.unpack_from(">I", head, 29)
    channels, allowed = _PNG_COLOURS.get(colour, (0, ()))
    sound = length == 13 and kind == b"IHDR" and zlib.crc32(head[12:29]) == check
    if not sound or bits not in allowed:
        return _BROKEN
    orientation, final = _png_orientation(head)
    if orientation > 4:  # 5 to 8 lie on their side
        width, height = height, width
    info = ImageInfo(
        format="png",
        width=width,
        height=height,
        orientation=orientation,
        bits=bits,
        channels=channels,
    )
    return _Parsed(info, final, 33)


def _png_orientation(head: bytes) -> tuple[int, bool]:
    at = 33  # after the signature and IHDR
    for _ in range(_MAX_SEGMENTS):
        if at + 8 > len(head):
            return 1, False
        length, kind = struct.unpack_from(">I4s", head, at)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf":
            return _orientation(head[at + 8 : at + 8 + length]), at + 8 + length <= len(head)
        at += 12 + length
    return 1, True


# ---------------------------------------------------------------------------- JPEG

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # tables and a reserved word among the frame markers
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_TOO_LATE = frozenset({0xD9, 0xDA})  # end of image, start of scan


def _parse_jpeg(head: bytes) -> _Parsed:
    at, orientation = 2, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(head, at)  # junk and fill bytes are skipped
        if found is None:
            return _MORE
        at, marker = found.end(), head[found.end() - 1]
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", head, at)
        if marker in _TOO_LATE or length < 2:  # the length counts itself
            return _BROKEN
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:  # T.81 table B.1
            return _jpeg_frame(head, at, orientation or 1)
        if marker == 0xE1 and not orientation and head[at + 2 : at + 8] == _EXIF:  # APP1
            orientation = _orientation(head[at + 8 : at + length])
        at += length
    return _BROKEN


def _jpeg_frame(head: bytes, at: int, orientation: int) -> _Parsed:
    length, bits, height, width, channels = struct.unpack_from(">HBHHB", head, at)
    if length < 8 + 3 * channels:
        return _BROKEN
    if orientation > 4:  # 5 to 8 lie on their side
        width, height = height, width
    info = ImageInfo(
        format="jpeg",
        width=width,
        height=height,
        orientation=orientation,
        bits=bits,
        channels=channels,
    )
    return _Parsed(info, end=at + length)


def _orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block (a TIFF structure), 1 when it says none."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == 0x0112 and kind == 3:  # Orientation, a SHORT
                return value if 1 <= value <= 8 else 1  # all that EXIF knows
    except struct.error:
        pass
    return 1


# ---------------------------------------------------------------------------- the others


def _plain(name: str, width: int, height: int, channels: int = 3) -> _Parsed:
    return _Parsed(ImageInfo(format=name, width=width, height=height, channels=channels))


def _parse_gif(head: bytes) -> _Parsed:
    return _plain("gif", *struct.unpack_from("<HH", head, 6))


def _parse_bmp(head: bytes) -> _Parsed:
    if head[14] == 12:  # the oldest header, with short numbers
        return _plain("bmp", *struct.unpack_from("<HH", head, 18))
    width, height = struct.unpack_from("<ii", head, 18)
    return _plain("bmp", width, abs(height))  # a negative height: stored from the top


def _parse_webp(head: bytes) -> _Parsed:
    kind = head[12:16]
    if kind == b"VP8X":
        flags, width, height = struct.unpack_from("<I3s3s", head, 20)
        across, down = (int.from_bytes(side, "little") + 1 for side in (width, height))
        return _plain("webp", across, down, 4 if flags & 0x10 else 3)
    if kind == b"VP8L" and head[20] == 0x2F:  # its signature byte
        (bits,) = struct.unpack_from("<I", head, 21)
        across, down = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return _plain("webp", across, down, 4 if bits & 0x10000000 else 3)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return _plain("webp", width & 0x3FFF, height & 0x3FFF)
    return _BROKEN


_PARSERS: Mapping[str, Callable[[bytes], _Parsed]] = {
    "png": _parse_png,
    "jpeg": _parse_jpeg,
    "gif": _parse_gif,
    "bmp": _parse_bmp,
    "webp": _parse_webp,
}


def is_complete(format: str, tail: bytes) -> bool:  # noqa: A002 - the word of the field
    """Return True when a PNG's or JPEG's end mark stands in *tail*.

    What follows the mark is not looked at: phones append second images, films and zeros.
    Other formats have no end mark; they count as complete here (`Inspector` checks WebP).

    Args:
        format: A key of `EXTENSIONS`.
        tail: The last bytes; no thumbnail from the header, which has an end of its own.
    """
    mark = _END_MARKS.get(format)
    return mark is None or mark in tail


_END_MARKS: Mapping[str, bytes] = {"png": _PNG_END, "jpeg": _JPEG_END}


@attrs.define(eq=False)
class Inspector:
    """Reads an image that passes by in pieces, keeping no more than its header and its tail.

    Attributes:
        size: Bytes fed so far.
    """

    size: int = attrs.field(default=0, init=False)
    _head: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _tail: bytes = attrs.field(default=b"", init=False, repr=False)
    _parsed: _Parsed = attrs.field(default=_MORE, init=False, repr=False)
    _parsed_size: int = attrs.field(default=0, init=False, repr=False)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the file."""
        self.size += len(data)
        self._tail = (self._tail + data if len(data) < _TAIL else data)[-_TAIL:]
        if not self._parsed.final and len(self._head) < _MAX_HEAD:
            self._head += data
        # Again only once the header has doubled: the work stays linear in its length.
        if len(self._head) >= 2 * self._parsed_size:
            self._parse_head()

    def skip(self, size: int) -> int:
        """Pass over the middle of a file of *size* bytes, if it can be; return where to go on."""
        if self._parsed.final and size - _TAIL > self.size:
            self.size, self._tail = size - _TAIL, b""
        return self.size

    def _parse_head(self) -> None:
        if not self._parsed.final and self._parsed_size != len(self._head):
            self._parsed_size = len(self._head)
            self._parsed = _parse(bytes(self._head))

    @property
    def format(self) -> str | None:
        """The format, or None while or when it can't be told."""
        return sniff(bytes(self._head[:256]))

    @property
    def info(self) -> ImageInfo | None:
        """What the header says, or None while or when it can't be read."""
        self._parse_head()
        return self._parsed.info

    @property
    def complete(self) -> bool:
        """True when the header can be read, and the end is there or not far from it.

        False as well for a whole image with more than 64 KiB behind its end, as telephones
        write them; `has_end` finds it.
        """
        if self.info is None:
            return False
        if self.format == "webp":
            # RIFF tells its length, without the eight bytes that tell it.
            return self.size >= 8 + int.from_bytes(self._head[4:8], "little")
        return self._ends_in(self._tail, self.size - len(self._tail))

    def has_end(self, pieces: Iterable[bytes]) -> bool:
        """Return True when the end is anywhere in the file, which is passed in once more.

        Slower than all the rest together, so that it is for those few that are not `complete`.
        """
        start, window = 0, b""
        if self.format not in _END_MARKS:
            return False
        for piece in pieces:
            window += piece
            if self._ends_in(window, start):
                return True
            # A mark may lie across two pieces.
            start += max(0, len(window) - len(_PNG_END))
            window = window[-len(_PNG_END) :]
        return False

    def _ends_in(self, part: bytes, start: int) -> bool:
        # Not in the header: the thumbnail in it has an end of its own.
        return is_complete(self.format or "", part[max(0, self._parsed.end - start) :])
