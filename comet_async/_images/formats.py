"""What a run of bytes is: its image format, its size as seen upright, and whether it is whole.

Bytes in, values out: no file, no network, no image library, and no exception for any input.

Sources: WebP, https://developers.google.com/speed/webp/docs/riff_container; PNG and JPEG: see
`comet_async._images.walkers`.
"""

# ruff: noqa: PLR2004 - the numbers are the formats' own; each stands beside its name

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

from comet_async._images.orientation import read_numbers
from comet_async._images.walkers import MISSING_DATA, JpegWalker, PngWalker, Walker

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

_HEAD = 4096  # enough for every header but a PNG's or JPEG's, which are walked through
_TAIL = 64 * 1024

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"


@attrs.frozen(kw_only=True)
class ImageInfo:
    """What an image's header says.

    Attributes:
        format: ``"png"``, ``"jpeg"``, ``"webp"``, ``"gif"`` or ``"bmp"``.
        width: Pixels across, as a viewer shows it (orientation applied).
        height: Pixels down, as a viewer shows it.
        orientation: Orientation of a PNG or JPEG by its metadata, 1 (upright) to 8; 1 otherwise.
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
            return name if name != "tiff" or not _raw_name(head) else None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "bmp"
    return _sniff_iso(head) if head[4:8] == b"ftyp" else None


_MAGICS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
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


def describe(head: bytes) -> str:
    """Return what bytes are that `sniff` does not know, such as ``a JPEG XL image``.

    Args:
        head: The first 256 bytes or more.
    """
    for at, magic, name in _OTHERS:
        if head.startswith(magic, at):
            return name
    raw = _raw_name(head)
    if raw:
        return raw
    if head[4:8] in _VIDEO_BOXES:
        return "a camera raw file (CR3)" if head[8:12] == b"crx " else "a video (MP4 or MOV)"
    return _describe_text(head)


_OTHERS = (
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"II\xbc\x01", "a JPEG XR image"),
    (0, b"8BPS", "a Photoshop file (PSD)"),
    (0, b"gimp xcf", "a GIMP file (XCF)"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x02\x00", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    (0, b"IIU\x00", "a camera raw file (RW2)"),
    (0, b"IIRO", "a camera raw file (ORF)"),
    (0, b"IIRS", "a camera raw file (ORF)"),
    (0, b"MMOR", "a camera raw file (ORF)"),
    (6, b"HEAPCCDR", "a camera raw file (CRW)"),
    (0, b"FOVb", "a camera raw file (X3F)"),
    (0, b"\x00MRM", "a camera raw file (MRW)"),
    (0, b"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x8aMNG", "an animation (MNG)"),
    (0, b"\x8bJNG", "a JNG image"),
    (0, b"DDS ", "a texture (DDS)"),
    (0, b"qoif", "a QOI image"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance image (HDR)"),
    (0, b"SIMPLE  =", "a FITS image"),
    (128, b"DICM", "a medical image (DICOM)"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x00\x05\x16\x07", "macOS metadata of another file (AppleDouble)"),
)
_VIDEO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_PNM = re.compile(rb"P[1-7][\s#]")


def _describe_text(head: bytes) -> str:
    start = head[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if b"<svg" in head[:1024].lower():
        return "an SVG drawing"
    if start.startswith(b"<?xml"):
        return "an XML file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for a file that was not downloaded"
    if _PNM.match(head):
        return "a PNM image"
    return "text" if _is_text(head[:256]) else "data in an unknown format"


def _is_text(head: bytes) -> bool:
    # The last letter may be cut in two.
    text = head.decode("utf-8-sig", "ignore" if len(head) == 256 else "replace")
    return len(text.encode()) >= len(head) - 6 and all(
        letter.isprintable() or letter in "\t\r\n" for letter in text
    )


_SUBFILE, _MAKE, _DNG_VERSION, _SUB_IFDS = 254, 271, 50706, 330


def _raw_name(head: bytes) -> str:
    """Return what kind of camera raw file a TIFF is; empty if it is none, as far as *head* goes."""
    if head[:4] not in {b"II*\x00", b"MM\x00*"}:
        return ""
    if head[8:10] == b"CR":
        return "a camera raw file (CR2)"
    found = read_numbers(head, {_SUBFILE, _MAKE, _DNG_VERSION, _SUB_IFDS})
    if _DNG_VERSION in found:
        return "a camera raw file (DNG)"
    # The first directory holds a thumbnail, and the image itself is in one below.
    reduced = found.get(_SUBFILE, 0) & 1
    return "a camera raw file" if reduced and _SUB_IFDS in found else ""


def read_info(head: bytes) -> ImageInfo | None:
    """Return what the header that begins with *head* says, or None when it can't be read.

    64 KiB are enough for most images; a JPEG with much metadata needs more.
    """
    inspector = Inspector()
    inspector.feed(head)
    return inspector.info


# ---------------------------------------------------------------------------- the others


def _plain(name: str, width: int, height: int, channels: int = 3) -> ImageInfo:
    return ImageInfo(format=name, width=width, height=height, channels=channels)


def _parse_gif(head: bytes) -> ImageInfo:
    return _plain("gif", *struct.unpack_from("<HH", head, 6))


def _parse_bmp(head: bytes) -> ImageInfo:
    if head[14] == 12:  # the oldest header, with short numbers
        return _plain("bmp", *struct.unpack_from("<HH", head, 18))
    width, height = struct.unpack_from("<ii", head, 18)
    return _plain("bmp", width, abs(height))  # a negative height: stored from the top


def _parse_webp(head: bytes) -> ImageInfo | None:
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
    return None


_PARSERS: Mapping[str, Callable[[bytes], ImageInfo | None]] = {
    "gif": _parse_gif,
    "bmp": _parse_bmp,
    "webp": _parse_webp,
}
_WALKERS: Mapping[str, Callable[[], Walker]] = {"png": PngWalker, "jpeg": JpegWalker}


def is_complete(format: str, tail: bytes) -> bool:  # noqa: A002 - the word of the field
    """Return True when a PNG's or JPEG's end mark is in *tail*.

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
    """Reads an image that arrives in pieces, keeping no more than its header and its tail.

    Attributes:
        size: Bytes fed so far.
        format: The format, or None while or when it can't be recognised.
    """

    size: int = attrs.field(default=0, init=False)
    format: str | None = attrs.field(default=None, init=False)
    _head: bytes = attrs.field(default=b"", init=False, repr=False)
    _tail: bytes = attrs.field(default=b"", init=False, repr=False)
    _walker: Walker | None = attrs.field(default=None, init=False, repr=False)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the file."""
        self.size += len(data)
        self._tail = (self._tail + data if len(data) < _TAIL else data)[-_TAIL:]
        if self._walker is not None:
            self._walker.feed(data)
        if len(self._head) < _HEAD:
            begun = len(self._head)
            self._head += data[: _HEAD - begun]
            self.format = sniff(self._head)
            make = _WALKERS.get(self.format or "")
            if self._walker is None and make is not None:
                self._walker = make()
                self._walker.feed(self._head[:begun] + data)

    @property
    def head(self) -> bytes:
        """The first bytes, enough for `describe`."""
        return self._head

    @property
    def info(self) -> ImageInfo | None:
        """What the header says, or None while or when it can't be read."""
        if self._walker is not None:
            return self._walked(self._walker)
        parser = _PARSERS.get(self.format or "")
        try:
            info = parser(self._head) if parser else None
        except (struct.error, IndexError):
            return None
        return info if info and min(info.width, info.height) > 0 else None

    def _walked(self, walker: Walker) -> ImageInfo | None:
        shape, orientation = walker.shape, walker.orientation.value
        if shape is None:
            return None
        width, height = shape.width, shape.height
        if orientation > 4:  # 5 to 8 lie on their side
            width, height = height, width
        return ImageInfo(
            format=self.format or "",
            width=width,
            height=height,
            orientation=orientation,
            bits=shape.bits,
            channels=shape.channels,
        )

    @property
    def header_ended(self) -> bool:
        """True when more bytes would not change `info`, but for metadata behind the image."""
        walker = self._walker
        if walker is None:
            return self.info is not None or len(self._head) >= _HEAD
        return walker.data_at is not None or bool(walker.damage)

    @property
    def unsupported(self) -> str:
        """What the image is, if decoders don't read that, such as ``a lossless JPEG (SOF3)``."""
        return "" if self._walker is None else self._walker.unsupported

    @property
    def damage(self) -> str:
        """What is wrong with a PNG or JPEG that has passed as a whole; empty if nothing is."""
        if self._walker is None:
            return ""
        if self._walker.damage or self._walker.ended or self.format != "png":
            return self._walker.damage
        # Its chunks lead past its end mark.
        return MISSING_DATA if self.complete else ""

    @property
    def doubtful(self) -> bool:
        """True for a whole PNG whose data should be looked at with `has_all_data`."""
        return self._walker is not None and self._walker.ended and self._walker.doubtful

    @property
    def complete(self) -> bool:
        """True when the header can be read, and the end is there or not far from it.

        False as well for a whole JPEG with more than 64 KiB behind its end, as telephones
        write them; `has_end` finds it.
        """
        if self.info is None:
            return False
        if self.format == "webp":
            # RIFF holds its length, without the eight bytes before it.
            return self.size >= 8 + int.from_bytes(self._head[4:8], "little")
        ended = self._walker is not None and self._walker.ended
        return ended or self._ends_in(self._tail, self.size - len(self._tail))

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
        data_at = 0 if self._walker is None else self._walker.data_at
        if data_at is None:
            return False
        return is_complete(self.format or "", part[max(0, data_at - start) :])
