"""Converts images to PNG or JPEG files that the API accepts, where that loses nothing important.

WebP, HEIC, AVIF, TIFF, GIF and BMP become PNG or JPEG. A file that is too large is encoded again,
and scaled down if that is not enough; an image that is too small is scaled up. An image that
the API accepts, but whose pixels its decoders may read in another way than viewers show them
(rotated by its metadata, CMYK, 16 bits a channel), is written plainly. All else is left as it is.
A shape beyond 1:2.5 needs cropping or padding, which is for a person to decide.

What comes out is the image, or an error: never a thumbnail, never one flat colour, and never a
file that can't be opened again. The same bytes give the same bytes on one machine; another
version of Pillow may write others. Pillow is an extra: it is imported in functions only.
"""

from __future__ import annotations

import importlib.util
import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from comet_async._images.formats import FORMAT_NAMES, ImageInfo, Inspector
from comet_async._images.orientation import orientation_of
from comet_async._images.rules import ACCEPTED, MAX_BYTES, MAX_RATIO, MIN_SIDE, ImageRules
from comet_async.errors import CometError, InputError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling


# As cameras write them; below 85 blocks become visible, and fewer pixels are the better saving.
_QUALITIES = (95, 90, 85)
_SHRINK = 0.8
# A JPEG beyond this is decoded at half its size (the format can do that): 150 MB of memory.
_MAX_DECODED = 50_000_000
# A PNG rarely gets below an eighth of its pixels' bytes, and trying takes seconds.
_MAX_PNG = 8 * MAX_BYTES
# Decoders refuse profiles of a megabyte, and screens need none of a tenth of that.
_MAX_PROFILE = 100_000
_LOSSY = frozenset({"jpeg", "heic", "avif"})
_SAVE_AGAIN = "open it in an image program and save it as PNG or JPEG"


@attrs.frozen(kw_only=True)
class Converted:
    """An image that the API accepts.

    Attributes:
        data: The file.
        format: ``"png"`` or ``"jpeg"``.
        width: Pixels across.
        height: Pixels down.
        notes: What was done, one sentence each.
        scaled_from: Width and height before it was scaled; None if it was not.
    """

    data: bytes = attrs.field(repr=False)
    format: str
    width: int
    height: int
    notes: tuple[str, ...]
    scaled_from: tuple[int, int] | None = None


def needs_conversion(info: ImageInfo | None, size: int) -> bool:
    """Return True if an image can't be sent as it is, or is better not.

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


def convert(
    file: BinaryIO,
    format: str,  # noqa: A002 - the field's word
    check: ImageRules,
    *,
    info: ImageInfo | None = None,
) -> Converted:
    """Return the image in *file* as a PNG or JPEG that the API accepts. Takes its time.

    Args:
        file: The file, at its start.
        format: What it is, a key of `comet_async._images.formats.EXTENSIONS`.
        check: The rules, and the words for what can't be converted.
        info: What its header says, where it was read.

    Raises:
        InputError: It is damaged, too slim, or absurdly large, or would not stay the same image.
        MissingExtraError: Pillow, or for HEIC pillow-heif, is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("converting an image needs Pillow", extra="images")
    notes: list[str] = []
    image, size = _decode(file, format, check, notes, info)
    if image.mode.startswith("I") or (info is not None and info.bits > 8):  # noqa: PLR2004 - what will be left
        notes.append("reduced to 8 bits a channel")
    made = _write(image, size, check, notes, lossy=_is_lossy(file, format))
    old, new = FORMAT_NAMES[format], FORMAT_NAMES[made.format]
    note = f"converted from {old} to {new}" if old != new else f"saved again as {new}"
    return attrs.evolve(made, notes=(*made.notes, note))


def encode(image: Any, check: ImageRules) -> Converted:  # noqa: ANN401 - Pillow's Image, an extra
    """Return a Pillow image's pixels as a PNG, or as a JPEG if that would be too large.

    Raises:
        InputError: It can't be decoded, or its pixels have no fixed black and white.
    """
    check.check_shape(*image.size)
    if image.mode in {"I", "F"}:
        what = f"has pixels of mode {image.mode}, which have no fixed black and white"
        raise check.refuse(what, limit="8 or 16 bits a channel", hint="convert it to RGB")
    try:
        image.load()  # one that was only opened is read here
    except Exception as exc:  # as in `_decode`
        raise _undecodable(exc, check) from exc
    made = _write(image, image.size, check, [], lossy=False)
    return attrs.evolve(made, notes=(*made.notes, f"saved as {FORMAT_NAMES[made.format]}"))


def colours_of(image: Any) -> str:  # noqa: ANN401 - as above
    """Return what the values of a Pillow image's pixels mean, empty if their mode says it."""
    transparent = image.info.get("transparency")
    if image.mode not in {"P", "PA"} and transparent is None:
        return ""
    return repr((image.getpalette("RGBA"), transparent))


def _write(
    image: Image, size: tuple[int, int], check: ImageRules, notes: list[str], *, lossy: bool
) -> Converted:
    """Return *image*, as it stands, as a file that the API accepts and that opens again.

    Its original had *size*.
    """
    plain, profile = eight_bits(image, image.info.get("icc_profile"), notes)
    if _is_flat(plain) and not _is_flat(image):
        what = "would become a single colour: its values are outside what its format shows"
        raise check.refuse(what, limit="8 or 16 bits a channel", hint=_SAVE_AGAIN)
    plain = _scale_up(plain, notes)
    data, plain = _encode(plain, profile, notes, lossy=lossy)
    saved = _check_output(data, plain, check)
    width, height = plain.size
    return Converted(
        data=data,
        format=saved,
        width=width,
        height=height,
        notes=tuple(notes),
        scaled_from=size if plain.size != size else None,
    )


def _check_output(data: bytes, image: Image, check: ImageRules) -> str:
    """Return the format of what was made, once it has been opened again like any other file."""
    from PIL import Image  # noqa: PLC0415 - an extra

    inspector = Inspector()
    inspector.feed(data)
    found, info = inspector.format or "", inspector.info
    problem = inspector.damage or inspector.unsupported
    if info is None or (info.width, info.height) != image.size:
        problem = problem or "it has another size"
    try:
        with Image.open(io.BytesIO(data), formats=[found.upper()]) as opened:
            opened.load()
    except Exception as exc:  # noqa: BLE001 - as in `_decode`
        problem = problem or _reason(exc) or "unreadable"
    if problem:
        what = f"was converted, and the result can't be opened again: {problem}"
        raise check.refuse(what, limit="an ordinary image", hint=_SAVE_AGAIN)
    return found


# ---------------------------------------------------------------------------- decoding


def _decode(
    file: BinaryIO,
    format: str,  # noqa: A002 - as above
    check: ImageRules,
    notes: list[str],
    info: ImageInfo | None,
) -> tuple[Image, tuple[int, int]]:
    """Return the decoded image, upright, and the size that it had before it was scaled."""
    try:
        image = _open(file, format, check)
        if format == "tiff":
            _choose_page(image, check, notes)
            _check_samples(image, check)
        elif format not in {"png", "jpeg"} and getattr(image, "is_animated", False):
            notes.append("only the first image of several kept")
        check.check_shape(*image.size)
        size = image.size
        if format == "jpeg" and size[0] * size[1] > _MAX_DECODED:
            image.draft(None, (size[0] // 2, size[1] // 2))
        image.load()
        if format == "tiff":
            _repair_palette(image)
            image = _repair_gray(image)
        orientation = _orientation(image) if info is None or format == "webp" else info.orientation
        upright = _turn(image, orientation)
    except CometError:
        raise
    except Exception as exc:  # decoders raise whatever damaged bytes lead them to
        raise _undecodable(exc, check) from exc
    if image.size != size:
        notes.append(_scaled("down", size, image.size))
    if orientation != 1:
        notes.append(f"rotated upright (orientation {orientation})")
    width, height = size
    return upright, (height, width) if orientation > 4 else size  # noqa: PLR2004 - 5 to 8 lie on their side


def _undecodable(exc: Exception, check: ImageRules) -> InputError:
    reason = _reason(exc)
    what = f"can't be decoded: {reason}" if reason else "can't be decoded"
    return check.refuse(what, limit="an undamaged image", hint=_SAVE_AGAIN)


def _reason(exc: Exception) -> str:
    """Return what a decoder says, without its objects, which mean nothing to a user."""
    text = str(exc)
    return "" if "<" in text or "object at" in text else text


def _orientation(image: Image) -> int:
    """Return the orientation of an image whose header only Pillow reads."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None and _ORIENTATION in tags:
        found = tags[_ORIENTATION]
        return found if found in range(1, 9) else 1
    xmp = image.info.get("xmp", b"")
    exif = None if tags is not None else image.info.get("exif")
    return orientation_of(exif, xmp if isinstance(xmp, bytes) else str(xmp).encode())


def upright(image: Image) -> Image:
    """Return *image*, which Pillow has opened, as a viewer shows it.

    `ImageOps.exif_transpose` also writes the EXIF block anew, which fails for values that only
    readers put up with.
    """
    image.load()
    return _turn(image, image.getexif().get(_ORIENTATION, 1))


def _turn(image: Image, orientation: int) -> Image:
    """Return *image* as a viewer shows it."""
    from PIL.Image import Transpose  # noqa: PLC0415 - an extra

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation not in methods:
        return image
    turned = image.transpose(methods[orientation])
    turned.info = dict(image.info)  # its profile
    return turned


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
    """Return True if the original was compressed as a photo: a PNG of it would only be larger."""
    if format != "webp":
        return format in _LOSSY
    # The image data follows a header, a profile and other chunks, or inside a frame.
    file.seek(12)
    while len(head := file.read(8)) == 8:  # noqa: PLR2004 - a chunk's name and length
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if name in {b"VP8 ", b"VP8L"}:
            return name == b"VP8 "
        # A frame of an animation: 16 bytes, then chunks.
        file.seek(16 if name == b"ANMF" else length + length % 2, io.SEEK_CUR)
    return True


# ---------------------------------------------------------------------------- TIFF

_ORIENTATION, _SUBFILE, _OLD_SUBFILE, _SUB_IFDS, _DNG_VERSION = 274, 254, 255, 330, 50706
_WIDTH, _HEIGHT, _BITS, _PLANES, _SAMPLE_FORMAT, _COLOURS = 256, 257, 258, 284, 339, 320
_PHOTOMETRIC = 262
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MAX_PAGES = 100


def _choose_page(image: Any, check: ImageRules, notes: list[str]) -> None:  # noqa: ANN401 - Pillow's TiffImageFile
    """Go to the page that is the image: no thumbnail and no mask.

    Raises:
        InputError: There is none, as in a camera raw file.
    """
    if _is_raw(image):
        what = "is a camera raw file, not a PNG or JPEG"
        raise check.refuse(what, limit="PNG or JPEG", hint="save it as PNG or JPEG")
    pages = _read_pages(image)
    whole = [page for page in pages if not page.aside]
    if not whole:
        what = "holds nothing but a reduced version of an image"
        raise check.refuse(what, limit="a whole image", hint=_SAVE_AGAIN)
    chosen = whole[0]
    larger = [page for page in whole if page.enlarges(chosen)]
    chosen = max(larger, key=lambda page: page.width, default=chosen)
    image.seek(chosen.number)
    if len(whole) > 1 and not larger:
        notes.append("only the first image of several kept")
    elif chosen.number:
        notes.append(f"image {chosen.number + 1} of the file taken: those before it are reduced")


@attrs.frozen
class _Page:
    """One page of a TIFF."""

    number: int
    width: int
    height: int
    aside: bool  # a reduced version of another page, or a mask

    def enlarges(self, other: _Page) -> bool:
        """Return True if *other* looks like a thumbnail of this page."""
        alike = abs(self.width * other.height - other.width * self.height)
        return self.width >= 2 * other.width and alike <= 0.05 * self.width * other.height


def _read_pages(image: Any) -> list[_Page]:  # noqa: ANN401 - as above
    pages: list[_Page] = []
    for number in range(_MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        except Exception:  # noqa: BLE001, S110 - a page that can't be decoded is known by its tags
            pass
        tags = image.tag_v2
        kind = tags.get(_SUBFILE, 0)
        aside = bool(kind & (_REDUCED | _MASK)) or tags.get(_OLD_SUBFILE) == 2  # noqa: PLR2004 - reduced
        pages.append(_Page(number, tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0), aside))
    return pages


def _is_raw(image: Any) -> bool:  # noqa: ANN401 - as above
    """Return True for a DNG, NEF, ARW and the like: the image is in a directory below."""
    tags = image.tag_v2
    if _DNG_VERSION in tags:
        return True
    return bool(tags.get(_SUBFILE, 0) & _REDUCED) and _SUB_IFDS in tags


def _check_samples(image: Any, check: ImageRules) -> None:  # noqa: ANN401 - as above
    """Raise `InputError` for pixels that Pillow reads, but not as they are meant."""
    tags = image.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    samples = set(tags.get(_SAMPLE_FORMAT, (1,)))
    problem = ""
    if 3 in samples:  # noqa: PLR2004 - IEEE floating point
        problem = "has floating-point pixels, which have no fixed black and white"
    elif samples - {1, 4} or bits > 16:  # noqa: PLR2004 - neither unsigned nor undefined
        problem = f"has {bits}-bit pixels of an unusual kind"
    elif bits > 8 and tags.get(_PLANES) == 2 and len(tags.get(_BITS, ())) > 1:  # noqa: PLR2004 - separate
        problem = f"has {bits}-bit channels in separate planes"
    if problem:
        raise check.refuse(problem, limit="8 or 16 bits a channel", hint=_SAVE_AGAIN)


def _repair_palette(image: Any) -> None:  # noqa: ANN401 - as above
    """Read a palette of 8-bit values as such: some programs don't scale them to 16 bits."""
    colours = image.tag_v2.get(_COLOURS)
    if image.mode == "P" and colours and max(colours) < 256:  # noqa: PLR2004 - 8 bits
        image.putpalette(bytes(colours), "RGB;L")


def _repair_gray(image: Any) -> Any:  # noqa: ANN401 - as above
    """Return gray of more than 8 bits as 16 bits with the black and white that the file means.

    Pillow reads the values as they are, whatever stands for white.
    """
    if not image.mode.startswith("I;16"):
        return image
    most = 2 ** max(image.tag_v2.get(_BITS, (16,))) - 1
    scale, offset = 65535 / most, 0
    if image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero
        scale, offset = -scale, 65535
    if scale == 1:
        return image
    return image.convert("I").point(lambda value: value * scale + offset)


# ---------------------------------------------------------------------------- colours


def _is_flat(image: Image) -> bool:
    """Return True if all pixels have the same value."""
    # Pillow knows no extrema of 16 bits in the other byte order.
    extrema: Any = (image.convert("I") if image.mode.startswith("I;") else image).getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


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
        image, profile = _to_srgb(image, profile) or image.convert("RGB"), None
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            image = image.convert("RGB")
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    space = b"GRAY" if image.mode == "L" else b"RGB "
    if not profile or profile[16:20] != space:
        return image, None
    return (image, profile) if len(profile) <= _MAX_PROFILE else _apply(image, profile, notes)


def _apply(image: Image, profile: bytes, notes: list[str]) -> tuple[Image, None]:
    """Return *image* in sRGB, without its profile, which is too large to be sent along."""
    size = f"{len(profile) // 1000:,} kB"
    converted = _to_srgb(image, profile)
    if converted is None:
        notes.append(f"its colour profile of {size} left out: it can't be read")
        return image, None
    notes.append(f"converted to sRGB: its colour profile has {size}")
    return converted, None


def _to_srgb(image: Image, profile: bytes | None) -> Image | None:
    """Return *image* in sRGB; None if its profile can't be used."""
    from PIL import ImageCms  # noqa: PLC0415 - an extra

    if not profile:
        return None
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGBA" if image.mode == "RGBA" else "RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        return None  # a damaged profile, or one for another mode


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
