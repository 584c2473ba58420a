"""Small copies of images for a page, of any format that can be decoded here."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from comet_async._images.formats import sniff
from comet_async._images.prepare import eight_bits, upright

if TYPE_CHECKING:
    from PIL.Image import Image

_QUALITIES = (74, 62, 50)  # of WebP; detail hides what a lower one loses
_BYTES_PER_PIXEL = 0.09  # 26 kB for 720 x 405 pixels: an image takes about 40 kB of a page
_MAX_PROFILE = 4096  # bytes; wide colours stay, profiles of printers don't
_HEAD = 64


@attrs.frozen(kw_only=True)
class Thumbnail:
    """A small copy of an image.

    Attributes:
        address: The copy itself, as a ``data:`` URL.
        size: Width and height of the original as a viewer shows it, in pixels.
        width: Of the copy.
        height: Of the copy.
    """

    address: str = attrs.field(repr=False)
    size: tuple[int, int]
    width: int
    height: int


def make_thumbnail(path: Path, longest: int) -> Thumbnail | None:
    """Return a copy of the image at *path*, or None when it can't be decoded. Takes its time.

    Args:
        path: PNG, JPEG, WebP, HEIC, TIFF or whatever else Pillow reads.
        longest: Pixels of the copy's longer side; a smaller image is not scaled up.
    """
    try:
        with path.open("rb") as file, _open(file) as image:
            full = image.size
            image.draft("RGB", (longest, longest))  # a JPEG is decoded smaller, and faster
            return _copy(image, full, longest)
    except Exception:  # noqa: BLE001 - no pillow-heif; decoders raise whatever bytes lead them to
        return None


def _open(file: io.BufferedReader) -> Image:
    import PIL.Image  # noqa: PLC0415 - an extra

    if sniff(file.peek(_HEAD)[:_HEAD]) != "heic":
        return PIL.Image.open(file)
    from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra

    heif: Image = HeifImageFile(file)  # type: ignore[no-untyped-call]  # it has no types there
    return heif


def _copy(image: Image, full: tuple[int, int], longest: int) -> Thumbnail:
    turned = upright(image)
    if turned.size != image.size:
        full = full[1], full[0]
    plain, profile = eight_bits(turned, turned.info.get("icc_profile"), [])
    plain.thumbnail((longest, longest))
    plain.info = {}  # no EXIF: it would turn the copy again, and say where it was taken
    kept = profile if profile and len(profile) <= _MAX_PROFILE else None
    text = base64.b64encode(_encode(plain, kept)).decode()
    width, height = plain.size
    return Thumbnail(
        address=f"data:image/webp;base64,{text}", size=full, width=width, height=height
    )


def _encode(image: Image, profile: bytes | None) -> bytes:
    """Return *image* as WebP, at the best quality with which it is small enough."""
    data = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4, icc_profile=profile)
        data = buffer.getvalue()
        if len(data) <= _BYTES_PER_PIXEL * image.width * image.height:
            break
    return data
