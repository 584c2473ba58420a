"""Expand a photo on this machine: the sandbox's stand-in for the paid service.

Two engines: ``patchmatch`` (needs the extra ``sandbox``) continues the photo with pieces of itself,
``pillow`` frames it in a soft blur. Neither reads a prompt, and neither says anything about the
quality of the paid service.

Pillow and numpy are imported inside functions only, so that neither the library nor a server that
has painted nothing yet pays for them.
"""
# ruff: noqa: PLC0415 - see the last sentence above

from __future__ import annotations

import io
import logging
import math
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from comet_async._images.prepare import upright
from comet_async.errors import MissingExtraError
from comet_async.geometry import Margins, Sides, added_pixels

if TYPE_CHECKING:
    from PIL import Image

Engine: TypeAlias = Literal["patchmatch", "pillow"]
"""What can paint."""

Output: TypeAlias = Literal["exact", "cloudlike"]
"""Pixel for pixel, or of the size and shape that the paid service answers with."""

Quality: TypeAlias = Literal["draft", "standard", "high"]
"""How much work the engine ``patchmatch`` spends: about 1, 1.5 or 3 CPU seconds."""

MAX_PIXELS = 50_000_000
"""The largest photo that is decoded, in pixels: it takes some 150 MB of memory as RGB."""

# The paid service's own answers were seen with 1664 × 832 pixels.
_CLOUD_PIXELS = 1_400_000
_CLOUD_STEP = 32

_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are turned by a quarter
_QUARTER_TURNS = (5, 6, 7, 8)

logger = logging.getLogger(__name__)


class PhotoError(ValueError):
    """The bytes can't be read as a JPEG or PNG photo."""


@attrs.frozen(kw_only=True, eq=False)
class Photo:
    """A decoded photo.

    Attributes:
        image: The image as a viewer shows it: upright, RGB, transparency laid on white.
        icc: Its colour profile, when it has one for RGB.
    """

    image: Image.Image
    icc: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Painting:
    """An expanded photo.

    Attributes:
        png: The file.
        image: The same, not encoded.
        width: Its width in pixels.
        height: Its height in pixels.
        engine: What painted it.
    """

    png: bytes = attrs.field(repr=False)
    image: Image.Image = attrs.field(repr=False, eq=False)
    width: int
    height: int
    engine: Engine


def photo_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of the upright photo, read from the file's header.

    Nothing is decoded, so a size that would not fit into memory is no danger here.

    Raises:
        PhotoError: *data* is not a JPEG or PNG, or has more than `MAX_PIXELS`.
        MissingExtraError: Pillow is not installed.
    """
    image = _open(data)
    width, height = image.size
    # A PNG may carry its EXIF behind the pixels, and looking there would decode them.
    known = image.format != "PNG" or "exif" in image.info
    if known and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
        return height, width
    return width, height


def load_photo(data: bytes) -> Photo:
    """Decode a JPEG or PNG of any colour mode.

    Raises:
        PhotoError: *data* is not a JPEG or PNG, is damaged, or has more than `MAX_PIXELS`.
        MissingExtraError: Pillow is not installed.
    """
    image = _open(data)
    try:
        turned = upright(image)
        return Photo(image=_to_rgb(turned), icc=_rgb_profile(turned))
    except Exception as exc:  # damaged files make decoders raise nearly anything
        raise PhotoError(f"the file is damaged: {type(exc).__name__}") from exc


def paint(  # noqa: PLR0913 - two of them are the input, five are keyword-only options
    data: bytes,
    margins: Margins,
    *,
    variant: int = 0,
    engine: Literal["auto"] | Engine = "auto",
    output: Output = "exact",
    quality: Quality = "standard",
    watermark: bool = False,
) -> Painting:
    """Expand the photo in *data* by *margins*.

    It blocks for a second or so and is safe to call from several threads. The same arguments
    give the same bytes on the same machine.

    Args:
        data: A JPEG or PNG file.
        margins: How far to grow.
        variant: 0 for the plain image, 1 to 8 for others.
        engine: ``auto`` takes the better engine that is installed. An engine that fails is
            replaced by ``pillow``, with a warning in the log.
        output: ``exact`` keeps the photo's own pixels bit for bit, on a canvas of exactly
            the photo plus its margins. ``cloudlike`` scales that to about 1.4 megapixels
            with sides that are multiples of 32.
        quality: For the engine ``patchmatch``.
        watermark: Write SANDBOX into the lower right corner.

    Raises:
        PhotoError: *data* can't be read.
        MissingExtraError: Pillow is not installed, or *engine* asks for one that is not.
    """
    photo = load_photo(data)
    sides = added_pixels(*photo.image.size, margins)
    chosen = best_engine() if engine == "auto" else engine
    image, used = _expand(photo.image, sides, variant, chosen, quality)
    if output == "cloudlike":
        image = image.resize(cloudlike_size(*image.size))
    if watermark:
        _stamp(image)
    width, height = image.size
    png = _encode(image, used, photo.icc)
    return Painting(png=png, image=image, width=width, height=height, engine=used)


def best_engine() -> Engine:
    """Return the better of the engines that are installed and work."""
    return "patchmatch" if _patchmatch_works() else "pillow"


def cloudlike_size(width: int, height: int) -> tuple[int, int]:
    """Return about the size that the paid service gives a canvas of *width* × *height*."""
    scale = math.sqrt(_CLOUD_PIXELS / (width * height)) / _CLOUD_STEP
    steps = (max(1, round(side * scale)) for side in (width, height))
    wide, tall = (step * _CLOUD_STEP for step in steps)
    return wide, tall


def _open(data: bytes) -> Image.Image:
    """Read the header; nothing is decoded yet."""
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingExtraError(
            "the sandbox paints with Pillow, which is not installed", extra="sandbox"
        ) from exc
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Exception as exc:  # damaged files make decoders raise nearly anything
        raise PhotoError(f"not a readable JPEG or PNG: {type(exc).__name__}") from exc
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError(f"{width}x{height} is more than {MAX_PIXELS // 1_000_000} megapixels")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        image = Image.alpha_composite(white, clear)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey: older Pillows clip it in ``convert("L")``."""
    image.info.pop("transparency", None)  # a 16-bit grey value, which has no meaning here
    return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _rgb_profile(image: Image.Image) -> bytes | None:
    """Return the ICC profile if it describes RGB; a profile for CMYK or grey would mislead."""
    icc: bytes = image.info.get("icc_profile") or b""
    # ICC.1:2022, table 17: bytes 16 to 19 of the header name the colour space.
    return icc if icc[16:20] == b"RGB " else None


def _expand(
    image: Image.Image, sides: Sides, variant: int, engine: Engine, quality: Quality
) -> tuple[Image.Image, Engine]:
    if engine == "patchmatch":
        if not _patchmatch_works():
            raise MissingExtraError(
                "the engine patchmatch is not installed or does not work on this platform",
                extra="sandbox",
            )
        try:
            from comet_async.sandbox._painting import patchmatch

            painted = patchmatch.expand(image, sides, variant=variant, quality=quality)
        except Exception:
            logger.warning("the engine patchmatch failed; pillow takes over", exc_info=True)
        else:
            return painted, "patchmatch"
    from comet_async.sandbox._painting import mirror

    return mirror.expand(image, sides, variant=variant), "pillow"


def _patchmatch_works() -> bool:
    """Say whether pypatchmatch 2 is installed and its native library can be loaded."""
    # Asked before the import: that of a 1.x release fetches a binary or runs make.
    try:
        major = metadata.version("pypatchmatch").partition(".")[0]
    except metadata.PackageNotFoundError:
        return False
    if major != "2":
        return False
    try:
        import patchmatch
    except ImportError:
        return False
    return patchmatch.patchmatch_available


def _stamp(image: Image.Image) -> None:
    from PIL import ImageDraw, ImageFont

    size = max(10, min(image.size) // 14)
    corner = (image.width - size // 2, image.height - size // 2)
    ImageDraw.Draw(image).text(
        corner,
        "SANDBOX",
        anchor="rs",
        font=ImageFont.load_default(size),
        fill="white",
        stroke_width=max(1, size // 16),
        stroke_fill="black",
    )


def _encode(image: Image.Image, engine: Engine, icc: bytes | None) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    notes.add_text("Software", "comet_async sandbox")
    notes.add_text("Engine", engine)
    notes.add_text("Prompt", "ignored")
    file = io.BytesIO()
    # Level 1: three times as fast as the default, and the files are hardly larger.
    image.save(file, "PNG", compress_level=1, pnginfo=notes, icc_profile=icc)
    return file.getvalue()
