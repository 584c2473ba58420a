"""Walk through the parts of a PNG or JPEG that arrives in pieces.

A walker finds the size, the orientation and the end of an image, and what keeps decoders from
reading it: an unsupported process, missing image data, wrong checksums. It keeps no more than
the small parts that matter, and its work is bounded by the bytes that pass.

Sources: PNG, https://www.w3.org/TR/png-3/; JPEG, ITU-T T.81. What decoders refuse is what
libjpeg, libpng and Pillow refuse.
"""

# ruff: noqa: PLR2004 - the numbers are the formats' own; each stands beside its name

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import attrs

from comet_async._images.orientation import EXIF_PREFIX, OrientationReader


def _fastest_crc32() -> Callable[[bytes | memoryview, int], int]:
    """Return the fastest checksum there is: the [speed] extra's takes a tenth of the time."""
    try:
        from isal.isal_zlib import crc32  # noqa: PLC0415 - an extra
    except ImportError:
        return zlib.crc32
    return crc32


_crc32 = _fastest_crc32()

# Real headers have a few dozen segments, a few hundred with an extended XMP packet. The bound
# keeps a hostile file of two-byte segments from costing time.
_MAX_SEGMENTS = 4096
# Pillow opens no PNG with a longer profile or compressed text, nor with more text altogether.
_MAX_TEXT = 1024 * 1024
_MAX_ALL_TEXT = 64 * _MAX_TEXT
# Image editors write histories and whole documents uncompressed.
_MAX_PLAIN_TEXT = 16 * _MAX_TEXT


@attrs.frozen(kw_only=True)
class Shape:
    """An image's size as stored, and how its pixels are stored."""

    width: int
    height: int
    bits: int
    channels: int


class Walker(Protocol):
    """Reads one format."""

    orientation: OrientationReader

    @property
    def shape(self) -> Shape | None:
        """What the header says, None while or when it can't be read."""
        ...

    @property
    def unsupported(self) -> str:
        """What the image is, if decoders don't read that; empty otherwise."""
        ...

    @property
    def damage(self) -> str:
        """What is wrong with the image; empty if nothing is, or nothing is known yet."""
        ...

    @property
    def data_at(self) -> int | None:
        """Where the image data begins, in bytes from the start; None before that."""
        ...

    @property
    def ended(self) -> bool:
        """True when the end of the image has passed, as far as that can be seen on the way."""
        ...

    @property
    def doubtful(self) -> bool:
        """True when data may be missing although all that is there looks right."""
        ...

    def feed(self, data: bytes) -> None:
        """Take the next piece of the file."""
        ...


# ---------------------------------------------------------------------------- PNG

# Colour type → (channels, allowed bits).
_PNG_COLOURS: Mapping[int, tuple[int, tuple[int, ...]]] = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (3, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
_PALETTE = 3
_NAME = re.compile(rb"[A-Za-z0-9_]{4}")
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_PLAIN_TEXTS = frozenset({b"tEXt", b"iTXt"})  # the second may be compressed as well
# Chunks that decoders refuse to be shorter.
_LEAST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"acTL": 8, b"fcTL": 26}
_KEPT = frozenset({b"IHDR", b"eXIf", *_TEXTS})
_BETWEEN = struct.Struct(">II4s")  # the checksum of a chunk, the next one's length and name
_SMALLEST_DEFLATE = 1032  # zlib packs at most this many bytes into one
MISSING_DATA = "is damaged: part of its image data is missing"
_HEADER_DAMAGE = "has a damaged header"


@attrs.define(eq=False)
class PngWalker:
    """Walks through a PNG's chunks and their checksums."""

    orientation: OrientationReader = attrs.field(factory=OrientationReader)
    shape: Shape | None = attrs.field(default=None, init=False)
    unsupported: str = attrs.field(default="", init=False)
    damage: str = attrs.field(default="", init=False)
    data_at: int | None = attrs.field(default=None, init=False)
    ended: bool = attrs.field(default=False, init=False)
    doubtful: bool = attrs.field(default=False, init=False)
    # Between the bodies of two chunks stand the checksum of the first, and the length and the
    # name of the second; they are collected here.
    _between: bytearray = attrs.field(factory=bytearray, init=False)
    _wanted: int = attrs.field(default=16, init=False)  # of those; the first are the signature
    _at: int = attrs.field(default=0, init=False)
    _name: bytes = attrs.field(default=b"", init=False)
    _length: int = attrs.field(default=0, init=False)
    _left: int = attrs.field(default=0, init=False)  # bytes of the chunk's body to come
    _crc: int = attrs.field(default=0, init=False)
    _body: bytearray | None = attrs.field(default=None, init=False)
    _colour: int = attrs.field(default=0, init=False)
    _has_palette: bool = attrs.field(default=False, init=False)
    _text_size: int = attrs.field(default=0, init=False)
    # The compressed image data: its length, its first two bytes, and where it goes.
    _data_size: int = attrs.field(default=0, init=False)
    _data_start: bytes = attrs.field(default=b"", init=False)
    _sink: Callable[[memoryview], None] | None = attrs.field(default=None, alias="sink")
    _first_length: int = attrs.field(default=0, init=False)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the file."""
        view, at, end = memoryview(data), 0, len(data)
        while at < end and not self.ended and not self.damage:
            if self._wanted == 12 and self._in_data:
                at = self._pass_data(view, at)
            if self._wanted:
                taken = view[at : at + self._wanted]
                self._between += taken
                self._wanted -= len(taken)
                if not self._wanted:
                    self._at += len(self._between)
                    self._next_chunk(bytes(self._between))
                    self._between.clear()
            else:
                taken = view[at : at + self._left]
                self._take_body(taken)
                if not self._left:
                    self._wanted = 4 if self._name == b"IEND" else 12
            at += len(taken)

    @property
    def _in_data(self) -> bool:
        """True within the image data, when nothing is to be done but count and check it."""
        begun = self._name == b"IDAT" and len(self._data_start) == 2
        return begun and self._sink is None

    def _pass_data(self, view: memoryview, at: int) -> int:
        """Pass over chunks of image data that lie in *view* as a whole; return where they end.

        What the other methods do as well, for files of thousands of small chunks.
        """
        checksum, end, start = self._crc, len(view), at
        while at + 12 <= end:
            expected, length, name = _BETWEEN.unpack_from(view, at)
            if name != b"IDAT" or expected != checksum or at + 12 + length > end:
                break
            self._length = length
            checksum = _crc32(view[at + 8 : at + 12 + length], 0)
            self._data_size += length
            at += 12 + length
        self._crc = checksum
        self._at += at - start
        return at

    def _take_body(self, piece: memoryview) -> None:
        self._crc = _crc32(piece, self._crc)
        self._left -= len(piece)
        self._at += len(piece)
        if self._body is not None:
            self._body += piece
        elif self._name == b"IDAT":
            self._data_size += len(piece)
            if len(self._data_start) < 2:
                self._data_start = (self._data_start + bytes(piece[:2]))[:2]
            if self._sink is not None:
                self._sink(piece)

    def _next_chunk(self, between: bytes) -> None:
        if self._name:
            self._end_chunk(int.from_bytes(between[:4], "big"))
        if self._name == b"IEND" or self.damage:
            return
        name, length = between[-4:], int.from_bytes(between[-8:-4], "big")
        self._check_order(name)
        self._name, self._length, self._left = name, length, length
        self._crc = zlib.crc32(name)
        most = _MAX_PLAIN_TEXT if name in _PLAIN_TEXTS else 4 * _MAX_TEXT
        kept = name in _KEPT and length <= most
        self._body = bytearray() if kept else None
        if name == b"IDAT" and self.data_at is None:
            self.data_at, self._first_length = self._at, length
        if not length:
            self._wanted = 4 if name == b"IEND" else 12

    def _check_order(self, name: bytes) -> None:
        """Note what decoders refuse in the sequence of chunks."""
        if not self._name and name == b"CgBI":
            self.unsupported = "a PNG in Apple's own variant (CgBI)"
        elif not self._name and name != b"IHDR":
            self.damage = _HEADER_DAMAGE
        elif name == b"IDAT" and self._name != b"IDAT" and self._data_size:
            self.damage = "is damaged: its image data is interrupted"
        elif self.data_at is None and not _NAME.fullmatch(name):
            self.damage = "is damaged: it holds a chunk without a name"

    def _end_chunk(self, checksum: int) -> None:
        name, body = self._name, self._body
        # Decoders pass over wrong checksums of metadata behind the image.
        matters = self.data_at is None or name in {b"IDAT", b"IEND"}
        if matters and checksum != self._crc:
            shown = name.decode("ascii", "replace")
            wrong = f"is damaged: the checksum of its {shown} chunk is wrong"
            self.damage = _HEADER_DAMAGE if name == b"IHDR" else wrong
        elif self.data_at is None and self._length < _LEAST.get(name, 0):
            self.damage = f"is damaged: its {name.decode('ascii')} chunk is too short"
        elif name == b"IHDR" and body is not None:
            self._read_header(bytes(body))
        elif name == b"PLTE":
            self._has_palette = True
        elif name == b"IDAT":
            # Encoders cut the data into equal chunks; only the last is shorter.
            self.doubtful = self._data_size > self._length == self._first_length
        elif name == b"eXIf" and body is not None:
            self.orientation.set_exif(EXIF_PREFIX + body)
        elif name in _TEXTS:
            self._read_text(name, None if body is None else bytes(body))
        elif name == b"IEND":
            self.ended = True
            self._check_data()

    @property
    def rows_size(self) -> int:
        """How many bytes the image data has when it is decompressed; interlaced, a few more."""
        if self.shape is None:
            return 0
        channels = 1 if self._colour == _PALETTE else self.shape.channels
        return ((self.shape.width * self.shape.bits * channels + 7) // 8 + 1) * self.shape.height

    def _read_header(self, body: bytes) -> None:
        if len(body) != 13:
            self.damage = _HEADER_DAMAGE
            return
        width, height, bits, colour, packing, filters, _ = struct.unpack(">IIBBBBB", body)
        channels, allowed = _PNG_COLOURS.get(colour, (0, ()))
        if bits not in allowed or packing or filters or min(width, height) < 1:
            self.damage = _HEADER_DAMAGE
            return
        self._colour = colour
        self.shape = Shape(width=width, height=height, bits=bits, channels=channels)

    def _read_text(self, name: bytes, body: bytes | None) -> None:
        keyword, text, compressed = _split_text(name, body or b"")
        self._text_size += len(text)
        too_long = len(text) > (_MAX_TEXT if compressed else _MAX_PLAIN_TEXT)
        if body is None or too_long or self._text_size > _MAX_ALL_TEXT:
            if self.data_at is None and (body is None or name != b"tEXt"):
                self.damage = "holds more metadata than decoders accept"
        else:
            self.orientation.set_text(keyword, text)

    def _check_data(self) -> None:
        """Note what is wrong with the image data as a whole."""
        if self.unsupported:
            return
        if not self._data_size:
            self.damage = "is damaged: it holds no image data"
        elif self._colour == _PALETTE and not self._has_palette:
            self.damage = "is damaged: its palette is missing"
        elif not _begins_zlib(self._data_start) or (
            self._data_size * _SMALLEST_DEFLATE < self.rows_size
        ):
            self.damage = MISSING_DATA


def has_all_data(pieces: Iterable[bytes]) -> bool:
    """Return True when a PNG's image data can be decompressed to its end.

    Takes several times as long as all else, so that it is for those few that are `doubtful`.
    """
    inflater, size = zlib.decompressobj(), 0

    def inflate(piece: memoryview) -> None:
        nonlocal size
        data: bytes | memoryview = piece
        while data and size < walker.rows_size:
            size += len(inflater.decompress(data, _MAX_TEXT))
            data = inflater.unconsumed_tail

    walker = PngWalker(sink=inflate)
    try:
        for piece in pieces:
            walker.feed(piece)
    except zlib.error:
        return False
    return inflater.eof or size >= walker.rows_size


def _begins_zlib(start: bytes) -> bool:
    return len(start) == 2 and start[0] & 0x0F == 8 and int.from_bytes(start, "big") % 31 == 0


def _split_text(name: bytes, body: bytes) -> tuple[bytes, bytes, bool]:
    """Return the keyword of a text or profile chunk, what it holds, and if that was compressed."""
    keyword, _, text = body.partition(b"\0")
    if name == b"tEXt":
        return keyword, text, False
    if name == b"iTXt":
        compressed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
        return keyword, _inflate(text) if compressed else text, compressed
    return keyword, _inflate(text[1:]), True


def _inflate(data: bytes) -> bytes:
    """Return decompressed *data*, or its start; empty when it can't be decompressed."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT + 1)
    except zlib.error:
        return b""


# ---------------------------------------------------------------------------- JPEG

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # tables and a reserved word among the frame markers
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_END, _SCAN, _TABLES, _CODES, _APP1 = 0xD9, 0xDA, 0xDB, 0xC4, 0xE1
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\x00"
# T.81 table B.1, without the processes that decoders read: baseline, extended and progressive,
# with Huffman or arithmetic coding.
_PROCESSES = {
    0xC3: "a lossless JPEG (SOF3)",
    0xC5: "a hierarchical JPEG (SOF5)",
    0xC6: "a hierarchical progressive JPEG (SOF6)",
    0xC7: "a hierarchical lossless JPEG (SOF7)",
    0xC8: "a JPEG with extensions (JPG)",
    0xCB: "a lossless JPEG with arithmetic coding (SOF11)",
    0xCD: "a hierarchical JPEG with arithmetic coding (SOF13)",
    0xCE: "a hierarchical progressive JPEG with arithmetic coding (SOF14)",
    0xCF: "a hierarchical lossless JPEG with arithmetic coding (SOF15)",
    0xF7: "a JPEG-LS image",
}


@attrs.define(eq=False)
class JpegWalker:
    """Walks through a JPEG's segments up to the image data.

    The end mark is not looked for: that would take as long as all the rest, see `Inspector`.
    """

    orientation: OrientationReader = attrs.field(factory=OrientationReader)
    shape: Shape | None = attrs.field(default=None, init=False)
    unsupported: str = attrs.field(default="", init=False)
    damage: str = attrs.field(default="", init=False)
    data_at: int | None = attrs.field(default=None, init=False)
    ended: bool = attrs.field(default=False, init=False)
    doubtful: bool = attrs.field(default=False, init=False)
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _skip: int = attrs.field(default=2, init=False)  # bytes to pass over; at first the SOI
    _at: int = attrs.field(default=0, init=False)
    _segments: int = attrs.field(default=0, init=False)
    _has_tables: bool = attrs.field(default=False, init=False)
    _done: bool = attrs.field(default=False, init=False)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the file."""
        if not self._done and not self.damage:
            self._buffer += data
        while self._step():
            pass

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self._at += size

    def _step(self) -> bool:
        """Read one segment; False when more bytes are needed, or nothing more is to be read."""
        if self._done or self.damage:
            return False
        if self._skip:
            size = min(self._skip, len(self._buffer))
            self._skip -= size
            self._drop(size)
            return bool(self._buffer)
        if self.data_at is not None:
            return self._look_behind_scan()
        found = _MARKER.search(self._buffer)  # junk and fill bytes are skipped
        if found is None:
            self._drop(max(0, len(self._buffer) - 1))
            return False
        self._drop(found.start())
        return self._read_segment(self._buffer[1])

    def _read_segment(self, marker: int) -> bool:
        if marker in _ALONE:
            self._count(2)
            return True
        if marker == _END:
            self.damage = "is damaged: it holds no image data"
            return True
        if len(self._buffer) < 4:
            return False
        length = int.from_bytes(self._buffer[2:4], "big")
        if length < 2:  # the length counts itself
            self.damage = _HEADER_DAMAGE
            return True
        reader = self._reader(marker)
        if reader is not None:
            if len(self._buffer) < 2 + length:
                return False
            reader(marker, bytes(self._buffer[4 : 2 + length]))
        self._count(2 + length)
        return True

    def _count(self, size: int) -> None:
        self._skip = size
        self._segments += 1
        if self._segments > _MAX_SEGMENTS:
            self.damage = _HEADER_DAMAGE

    def _reader(self, marker: int) -> Callable[[int, bytes], None] | None:
        if marker == _APP1:
            return self._read_metadata
        if marker == _SCAN:
            return self._read_scan
        if marker == _TABLES:
            return self._read_tables
        if marker == _CODES:
            return self._read_codes
        if marker in _PROCESSES or (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES):
            return self._read_frame
        return None

    def _read_metadata(self, _marker: int, body: bytes) -> None:
        if body.startswith(EXIF_PREFIX):
            self.orientation.add_exif(body)
        elif body.startswith(_XMP_PREFIX):
            self.orientation.xmp = body[len(_XMP_PREFIX) :]

    def _read_tables(self, _marker: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            at += 129 if body[at] >> 4 else 65
        if at != len(body):
            self.damage = _HEADER_DAMAGE
        self._has_tables = True

    def _read_codes(self, _marker: int, body: bytes) -> None:
        at = 0
        while at + 17 <= len(body):
            codes = sum(body[at + 1 : at + 17])  # how many of each length
            at += 17 + codes
            if codes > 256:
                break
        if at != len(body):
            self.damage = _HEADER_DAMAGE

    def _read_frame(self, marker: int, body: bytes) -> None:
        if marker in _PROCESSES:
            self.unsupported = self.unsupported or _PROCESSES[marker]
        if self.shape is not None or len(body) < 6:
            self.damage = _HEADER_DAMAGE
            return
        bits, height, width, channels = struct.unpack_from(">BHHB", body)
        sampling = [body[at] for at in range(7, min(len(body), 6 + 3 * channels), 3)]
        wrong = any(not 1 <= each >> 4 <= 4 or not 1 <= each & 15 <= 4 for each in sampling)
        if wrong or len(body) < 6 + 3 * channels or min(width, height) < 1:
            self.damage = _HEADER_DAMAGE
            return
        self.shape = Shape(width=width, height=height, bits=bits, channels=channels)
        if not self.unsupported and bits != 8:
            self.unsupported = f"a JPEG with {bits} bits a channel"
        if not self.unsupported and channels not in {1, 3, 4}:
            self.unsupported = f"a JPEG with {channels} channels"

    def _read_scan(self, _marker: int, body: bytes) -> None:
        if self.shape is None or not body or not 1 <= body[0] <= 4 or len(body) != 4 + 2 * body[0]:
            self.damage = _HEADER_DAMAGE
            return
        self.data_at = self._at + 4 + len(body)
        if not self.unsupported and not self._has_tables:
            self.damage = "is damaged: its quantization tables are missing"

    def _look_behind_scan(self) -> bool:
        if len(self._buffer) >= 2:
            self._done = True
            if self._buffer.startswith(bytes((0xFF, _END))):
                self.damage = "is damaged: it holds no image data"
            self._buffer.clear()
        return False
