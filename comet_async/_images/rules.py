"""The API's rules for an image, as errors that say what is wrong and what to do.

They look at facts about an image (first bytes, size, header), never at a file.

Limits: Kling's "Image expansion" page,
https://klingai.com/document-api/api/image/common/outpainting.
"""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from pathlib import Path

import attrs

from comet_async._images.formats import FORMAT_NAMES, WITHOUT_HEADER, Inspector, describe
from comet_async.errors import InputError, install_command

# The page does not say whether 10 MB are 10^7 or 10 * 2^20 bytes, nor whether the file counts
# or its Base64 text: "file" is taken at its word.
MAX_BYTES = 10 * 1024 * 1024
"""The largest image file, in bytes before Base64."""

_USER = re.compile("://[^/#]*@")  # and a password, before the host of a URL

MIN_SIDE = 300
"""The least width and height, in pixels."""

MAX_RATIO = 2.5
"""The longer side is at most this many times the shorter one."""

MAX_PIXELS = 178_956_970
"""The most pixels. The API names no limit; here Pillow refuses to open an image as a
"decompression bomb" (twice its ``MAX_IMAGE_PIXELS``), so most servers would too."""

ACCEPTED = frozenset({"png", "jpeg"})
"""The formats that the API accepts."""

MAX_PREPARE_BYTES = 256 * 1024 * 1024
"""The largest file that ``prepare=True`` accepts: a 40-megapixel TIFF with 16 bits fits."""

_SHOWN = 80


@attrs.frozen(kw_only=True)
class ImageRules:
    """The rules for one image, and how errors name it.

    Attributes:
        field: What the image is called in the request.
        prepare: True when it may be converted, so that less is required of it.
        hashed: Whether its hash is wanted.
        source: The image as the user named it.
    """

    field: str = "image"
    prepare: bool = False
    hashed: bool = True
    source: str = "bytes"

    def refuse(self, what: str, *, limit: str, hint: str, value: str | None = None) -> InputError:
        """Return the error that says what the image is, which rule it breaks, what to do."""
        name = show(self.source) or "''"
        return InputError(
            f"{self.field}: {UNNAMED.get(name, name)} {what}",
            field=self.field,
            value=name if value is None else value,
            limit=limit,
            hint=hint,
        )

    def check_size(self, size: int) -> None:
        """Raise `InputError` for a file of no bytes, or of too many."""
        if not size:
            raise self.refuse("is empty", limit="at least one byte", hint="save it again")
        most = MAX_PREPARE_BYTES if self.prepare else MAX_BYTES
        if size > most:
            hint = "save it smaller" if self.prepare else "pass prepare=True to make it fit"
            limit = f"at most {most >> 20} MB ({most:,} bytes)"
            what = f"has {size:,} bytes; {limit}"
            raise self.refuse(what, value=f"{size} bytes", limit=limit, hint=hint)

    def check_kind(self, format: str | None, head: bytes) -> None:  # noqa: A002 - the field's word
        """Raise `InputError` for what is not an image, or one that must be converted first."""
        if format is None:
            found = describe(head)
            hint = _HINTS.get(found, "save it as PNG or JPEG")
            what = f"is {found}, not a PNG or JPEG"
            raise self.refuse(what, value=found, limit="PNG or JPEG", hint=hint)
        if format not in ACCEPTED and not self.prepare:
            name = FORMAT_NAMES[format]
            what, hint = (
                f"is {name}, which the API does not accept",
                "pass prepare=True to convert it",
            )
            if format == "heic" and find_spec("pillow_heif") is None:
                hint += f", after {install_command('heif')}"
            elif format == "tiff":
                hint += "; floating-point or 32-bit pixels need an image program"
            raise self.refuse(what, value=name, limit="PNG or JPEG", hint=hint)

    def check_whole(self, inspector: Inspector, *, complete: bool) -> None:
        """Raise `InputError` for what decoders don't read, damage, or a size that won't do."""
        info = inspector.info
        if inspector.unsupported:
            what = f"is {inspector.unsupported}, which decoders don't read"
            hint = "save it as an ordinary JPEG or PNG"
            raise self.refuse(what, limit="a common kind of JPEG or PNG", hint=hint)
        if info is not None:
            self.check_shape(info.width, info.height)
        if inspector.damage or (info is None and inspector.format not in WITHOUT_HEADER):
            raise self.damaged(inspector.damage or "has a damaged header")
        if info is not None and not complete:
            hint = "copy or download it again"
            raise self.refuse("is cut short: its end is missing", limit="a whole file", hint=hint)

    def damaged(self, what: str) -> InputError:
        """Return the error for an image that can't be decoded."""
        hint = "copy or download it again, or save it again in an image program"
        return self.refuse(what, limit="an undamaged image", hint=hint)

    def check_shape(self, width: int, height: int) -> None:
        """Raise `InputError` for a side too short, a shape too slim, or an absurd size."""
        size = f"{width}x{height} px"
        refuse = functools.partial(self.refuse, value=size)
        if width * height > MAX_PIXELS:
            limit = f"at most {MAX_PIXELS / 1e6:.0f} megapixels"
            raise refuse(f"claims {size}; {limit}", limit=limit, hint="scale it down")
        if max(width, height) > MAX_RATIO * min(width, height):
            limit = f"an aspect ratio from 1:{MAX_RATIO} to {MAX_RATIO}:1"
            raise refuse(f"has {size}; it needs {limit}", limit=limit, hint="crop it")
        if min(width, height) < MIN_SIDE and not self.prepare:
            limit = f"both sides at least {MIN_SIDE} px"
            hint = "use a larger image, or pass prepare=True to scale it up"
            raise refuse(f"has {size}; it needs {limit}", limit=limit, hint=hint)


# A sentence needs a subject; `SourceImage.source` keeps the short word.
UNNAMED = {"bytes": "the data", "data URI": "the data URI"}
_BY_CONTENT = "the type is detected from the content, whatever the file is called"
_HINTS = {
    "text": _BY_CONTENT,
    "an HTML page": _BY_CONTENT,
    "an XML file": _BY_CONTENT,
    "data in an unknown format": _BY_CONTENT,
    "a Git LFS pointer, which stands for a file that was not downloaded": "run git lfs pull",
    "macOS metadata of another file (AppleDouble)": "name the file without ._ at its start",
    **dict.fromkeys(
        ("a ZIP archive", "a gzip archive", "a 7z archive", "a RAR archive"), "unpack it first"
    ),
}


def show(text: str) -> str:
    """Return *text* as it may appear in a message: short, on one line, no query, no password."""
    if "://" in text:
        text = _USER.sub("://", text.partition("?")[0])
    text = shorten(text, most=_SHOWN)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def without_source(message: str, source: str) -> str:
    """Return *message* without the source at its start, for a place that shows it already."""
    for name in (source, show(source), Path(source).name):  # messages shorten long names
        for prefix in (f"image: {name} ", f"{name}: ", f"{name} "):
            if name and message.startswith(prefix):
                return message[len(prefix) :]
    return message


def shorten(text: str, *, most: int = 160) -> str:
    """Return *text* with at most *most* characters; a path ends in what matters most.

    A longer path could be taken for Base64, and hidden.
    """
    start = most // 4
    return text if len(text) <= most else f"{text[:start]}…{text[start + 1 - most :]}"
