"""Which way up an image is shown: the one reader of its EXIF and XMP metadata.

Check, margins and conversion all go by this reader, so that what a viewer shows is what is
measured, sent and expanded. Where sources of an image disagree, the order is Pillow's: EXIF
first, then XMP. Metadata that can't be read counts as none.

Sources: EXIF 2.32 (JEITA CP-3451E), TIFF 6.0, XMP specification part 2 (``tiff:Orientation``).
"""

# ruff: noqa: PLR2004 - the numbers are the formats' own; each stands beside its name

from __future__ import annotations

import re
import struct
from collections.abc import Collection

import attrs

EXIF_PREFIX = b"Exif\x00\x00"
"""What a JPEG writes before its EXIF block."""

_ORIENTATION = 0x0112
_UPRIGHT = 1
_BYTE_ORDERS = {
    b"MM\x00*": ">",
    b"II*\x00": "<",
    b"MM*\x00": ">",  # written by mistake, and read by all viewers
    b"II\x00*": "<",
}
# EXIF asks for a SHORT; telephones write LONG, and other programs all the rest.
_WHOLE_NUMBERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Orientation is in the first directory, near the start.
_MAX_EXIF = 1024 * 1024


@attrs.define(eq=False)
class OrientationReader:
    """Collects what an image's metadata says about its orientation.

    Attributes:
        xmp: The XMP packet; empty if there is none.
    """

    xmp: bytes = attrs.field(default=b"", repr=False)
    _exif: bytes | None = attrs.field(default=None, init=False, repr=False)
    _profile: bytes | None = attrs.field(default=None, init=False, repr=False)

    @property
    def value(self) -> int:
        """The orientation, 1 (upright) to 8; 1 if nothing says another."""
        exif = self._profile if self._exif is None else self._exif
        found = None if exif is None else _read_exif(exif)
        if found is None and (match := _XMP.search(self.xmp)):
            found = int(match[1])
        return found if found is not None and 1 <= found <= 8 else _UPRIGHT

    def set_exif(self, block: bytes) -> None:
        """Take *block*, which begins with `EXIF_PREFIX` or not, for the image's EXIF."""
        self._exif = block

    def add_exif(self, segment: bytes) -> None:
        """Take the next of a JPEG's segments with EXIF, each of which begins with the prefix."""
        if self._exif is None:
            self._exif = segment
        elif len(self._exif) < _MAX_EXIF:
            self._exif += segment.removeprefix(EXIF_PREFIX)

    def set_text(self, keyword: bytes, text: bytes) -> None:
        """Take a PNG's text, which may hold XMP or EXIF as hexadecimal digits."""
        if keyword == b"XML:com.adobe.xmp":
            self.xmp = text
        elif keyword == b"Raw profile type exif":
            digits = b"".join(text.split(b"\n")[3:])  # after a name and a length
            try:
                self._profile = bytes.fromhex(digits.decode("ascii"))
            except ValueError:
                self._profile = None


def orientation_of(exif: bytes | None, xmp: bytes) -> int:
    """Return the orientation that an EXIF block and an XMP packet say, 1 to 8."""
    reader = OrientationReader(xmp=xmp)
    if exif is not None:
        reader.set_exif(exif)
    return reader.value


def _read_exif(block: bytes) -> int | None:
    """Return the orientation in an EXIF block (a TIFF structure), None when it says none."""
    for _ in range(2):  # some programs write the prefix twice
        block = block.removeprefix(EXIF_PREFIX)
    return read_numbers(block, {_ORIENTATION}).get(_ORIENTATION)


def read_numbers(block: bytes, tags: Collection[int]) -> dict[int, int]:
    """Return the whole numbers that the first directory of a TIFF structure holds under *tags*.

    A tag that holds something else has the number 0. What is cut short counts as far as it can
    be read.
    """
    found: dict[int, int] = {}
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return found
    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(f"{order}H", block, entry)
            if tag in tags:
                found[tag] = _read_number(block, entry + 2, order)
    except struct.error:
        pass
    return found


def _read_number(block: bytes, at: int, order: str) -> int:
    """Return the whole number of a directory entry: the first of several, 0 if it holds none."""
    kind, count = struct.unpack_from(f"{order}HI", block, at)
    code = _WHOLE_NUMBERS.get(kind)
    if code is None or not count:
        return 0
    place = at + 6
    if count * struct.calcsize(code) > 4:  # too long for the entry, which says where it is
        (place,) = struct.unpack_from(f"{order}I", block, place)
    (value,) = struct.unpack_from(f"{order}{code}", block, place)
    return int(value)
