"""Mends images that the API would refuse, as far as an image can be mended.

EXIF rotation is applied; WebP, HEIC, AVIF, TIFF, GIF, BMP, CMYK and 16-bit images become PNG
or JPEG; a file that is too large is encoded again, and scaled down if that is not enough; a
image that is too small is scaled up. What is fine already is never touched. A shape beyond
1:2.5 can't be mended without cropping or padding, which is for a person to decide.

Asked for with ``load(..., prepare=True)``. The same bytes give the same bytes on one machine;
another version of Pillow may write others.

Rule of this file: Pillow is imported inside functions only, because it is an extra.
"""

from __future__ import annotations

import importlib.util
import io
import math
from typing import TYPE_CHECKING, BinaryIO

import attrs

from comet_async._images.formats import FORMAT_NAMES, ImageInfo
from comet_async._images.rules import ACCEPTED, MAX_BYTES, MAX_RATIO, MIN_SIDE, ImageRules
from comet_async.errors import CometError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling


# As cameras write them; below 85 blocks become visible, and fewer pixels are the better saving.
_QUALITIES = (95, 90, 85)
_SHRINK = 0.8
# A JPEG beyond this is decoded at half its size (the format can do that): 150 MB of memory.
_MAX_DECODED = 50_000_000
# A PNG rarely gets below an eighth of its pixels' bytes, and trying takes seconds.
_MAX_PNG = 8 * MAX_BYTES
_ORIENTATION = 0x0112
_LOSSY = frozenset({"jpeg", "heic", "avif"})


@attrs.frozen(kw_only=True)
class Mended:
    """An image that the API takes.

    Attributes:
        data: The file.
        format: ``"png"`` or ``"jpeg"``.
        width: Pixels across.
        height: Pixels down.
        notes: What was done, one sentence each.
    """

    data: bytes = attrs.field(repr=False)
    format: str
    width: int
    height: int
    notes: tuple[str, ...]


def needs_mending(info: ImageInfo | None, size: int) -> bool:
    """Tell whether an image can't be sent as it is, or is better not.

    Args:
        info: Its header, or None for a format whose header is not read.
        size: The file's bytes.
    """
    return (
        info is None
        or info.format not in ACCEPTED
        or size > MAX_BYTES
        or min(info.width, info.height) < MIN_SIDE
        or info.orientation != 1
        or info.bits > 8  # noqa: PLR2004 - 16-bit PNG
        or (info.format == "jpeg" and info.channels == 4)  # noqa: PLR2004 - CMYK
    )


def mend(
    file: BinaryIO,
    format: str,  # noqa: A002 - the field's word
    check: ImageRules,
    *,
    bits: int = 8,
) -> Mended:
    """Return the image in *file* as a PNG or JPEG that the API takes. Takes its time.

    Args:
        file: The file, at its start.
        format: What it is, a key of `comet_async._images.formats.EXTENSIONS`.
        check: The rules, and the words for what can't be mended.
        bits: Bits of one channel, as the header says.

    Raises:
        InputError: It is damaged, too slim, or absurdly large.
        MissingExtraError: Pillow, or for HEIC pillow-heif, is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("preparing an image needs Pillow", extra="images")
    notes: list[str] = []
    image = _decode(file, format, check, notes)
    if bits > 8 or image.mode.startswith("I"):  # noqa: PLR2004 - what will be left
        notes.append("reduced to 8 bits a channel")
    image, profile = eight_bits(image, image.info.get("icc_profile"), notes)
    image = _scale_up(image, notes)
    data, image = _encode(image, profile, notes, lossy=_is_lossy(file, format))
    saved = "png" if data.startswith(b"\x89PNG") else "jpeg"
    old, new = FORMAT_NAMES[format], FORMAT_NAMES[saved]
    notes.append(f"converted from {old} to {new}" if old != new else f"saved again as {new}")
    width, height = image.size
    return Mended(data=data, format=saved, width=width, height=height, notes=tuple(notes))


# ---------------------------------------------------------------------------- decoding


def _decode(file: BinaryIO, format: str, check: ImageRules, notes: list[str]) -> Image:  # noqa: A002 - as above
    from PIL import ImageOps  # noqa: PLC0415 - an extra

    try:
        image = _open(file, format, check)
        check.check_shape(*image.size)
        if format not in {"png", "jpeg"} and getattr(image, "is_animated", False):
            notes.append("only the first image of several kept")
        size = image.size
        if format == "jpeg" and size[0] * size[1] > _MAX_DECODED:
            image.draft(None, (size[0] // 2, size[1] // 2))
        turn = image.getexif().get(_ORIENTATION, 1)
        upright = ImageOps.exif_transpose(image)
    except CometError:
        raise
    except Exception as exc:  # decoders raise whatever damaged bytes lead them to
        what = f"can't be decoded: {type(exc).__name__}: {exc}"
        hint = "open it in an image program and save it again"
        raise check.refuse(what, limit="an undamaged image", hint=hint) from exc
    if turn in range(2, 9):
        notes.append(f"rotated upright (EXIF {turn})")
    if image.size != size:
        notes.append(_scaled("down", size, image.size))
    return upright


def _open(file: BinaryIO, format: str, check: ImageRules) -> Image:  # noqa: A002 - as above
    import PIL.Image  # noqa: PLC0415 - an extra

    if format == "heic":
        try:
            from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra
        except ImportError:
            raise MissingExtraError("reading HEIC needs pillow-heif", extra="heif") from None
        # The class itself: Pillow's registry stays the user's.
        heif: Image = HeifImageFile(file)  # type: ignore[no-untyped-call]  # it has no types there
        return heif
    PIL.Image.init()
    if format.upper() not in PIL.Image.OPEN:
        name = FORMAT_NAMES[format]
        what, hint = f"is {name}, which this Pillow can't read", "install a newer Pillow"
        raise check.refuse(what, limit="a readable format", hint=hint)
    return PIL.Image.open(file, formats=[format.upper()])


def _is_lossy(file: BinaryIO, format: str) -> bool:  # noqa: A002 - as above
    """Tell whether the original was compressed as a photo: a PNG of it would only be larger."""
    if format == "webp":
        file.seek(12)
        return file.read(4) != b"VP8L"
    return format in _LOSSY


# ---------------------------------------------------------------------------- colours


def eight_bits(image: Image, profile: bytes | None, notes: list[str]) -> tuple[Image, bytes | None]:
    """Return *image* as gray, RGB or RGBA with 8 bits, and its colour profile if it still fits.

    Args:
        image: Any of Pillow's images.
        profile: Its ICC profile, if it has one.
        notes: Takes what was done, one sentence each.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        # By rounding: convert("L") would clip.
        image = image.convert("I").point([(v + 128) // 257 for v in range(65536)], "L")
    elif image.mode == "CMYK":
        notes.append("converted from CMYK to RGB")
        image, profile = _from_cmyk(image, profile), None
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            image = image.convert("RGB")
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    space = b"GRAY" if image.mode == "L" else b"RGB "
    return image, profile if profile and profile[16:20] == space else None


def _from_cmyk(image: Image, profile: bytes | None) -> Image:
    from PIL import ImageCms  # noqa: PLC0415 - an extra

    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a damaged profile, or one for another mode
        if converted is not None:
            return converted
    return image.convert("RGB")


# ---------------------------------------------------------------------------- size and file


def _scaled(how: str, old: tuple[int, int], new: tuple[int, int]) -> str:
    return f"scaled {how} from {old[0]}x{old[1]} to {new[0]}x{new[1]}"


def _lanczos() -> Resampling:
    from PIL.Image import Resampling  # noqa: PLC0415 - an extra

    return Resampling.LANCZOS


def _scale_up(image: Image, notes: list[str]) -> Image:
    short = min(image.size)
    if short >= MIN_SIDE:
        return image
    # Rounded, but not beyond the slimmest shape: 100x250 becomes 300x750.
    most = int(MIN_SIDE * MAX_RATIO)
    width, height = (min(most, (side * MIN_SIDE + short // 2) // short) for side in image.size)
    notes.append(_scaled("up", image.size, (width, height)))
    return image.resize((width, height), _lanczos())


def _encode(
    image: Image, profile: bytes | None, notes: list[str], *, lossy: bool
) -> tuple[bytes, Image]:
    """Return a file that fits, and its image: PNG if that keeps more, else JPEG."""
    transparent = image.mode == "RGBA"
    pixels = image.width * image.height * len(image.getbands())
    if transparent or (not lossy and pixels <= _MAX_PNG):
        data = _save(image, "PNG", icc_profile=profile)
        if len(data) <= MAX_BYTES:
            return data, image
    if transparent:
        notes.append("transparency laid on white")
        image = on_white(image)
    return _encode_jpeg(image, profile, notes)


def _encode_jpeg(image: Image, profile: bytes | None, notes: list[str]) -> tuple[bytes, Image]:
    fitted = image
    while True:
        for quality in _QUALITIES:
            data = _save(fitted, "JPEG", quality=quality, icc_profile=profile)
            if len(data) <= MAX_BYTES:
                if quality != _QUALITIES[0]:
                    notes.append(f"quality lowered to {quality} to fit {MAX_BYTES >> 20} MB")
                if fitted is not image:
                    notes.append(_scaled("down", image.size, fitted.size))
                return data, fitted
        fitted = image.resize(_smaller(fitted.size), _lanczos())


def _smaller(size: tuple[int, int]) -> tuple[int, int]:
    # The shorter side is rounded up, so that rounding makes no image too slim.
    short = min(size)
    width, height = (
        math.ceil(side * _SHRINK) if side == short else int(side * _SHRINK) for side in size
    )
    return width, height


def on_white(image: Image) -> Image:
    """Return an RGBA image with white behind it, as RGB."""
    from PIL import Image  # noqa: PLC0415 - an extra

    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _save(image: Image, format: str, **options: object) -> bytes:  # noqa: A002 - Pillow's word
    buffer = io.BytesIO()
    clean = image.copy()
    clean.info = {}  # no EXIF: it would turn the image again, and say where it was taken
    clean.save(buffer, format, **options)
    return buffer.getvalue()
