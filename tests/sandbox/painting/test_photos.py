"""Reading photos: every odd JPEG and PNG comes out upright and RGB, everything else is refused."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageChops, ImageStat

from comet_async.sandbox._painting.painter import PhotoError, load_photo, photo_size
from tests.support.images import PNG_SIGNATURE, png_chunk as chunk, png_header

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = (48, 32)
TURN = Image.Transpose

# EXIF orientation: how the stored pixels differ from what a viewer shows.
STORED_AS = {
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}


def image() -> Image.Image:
    """Return soft random colours without any symmetry."""
    chance = random.Random(5)  # noqa: S311 - a test image is no secret
    noise = Image.frombytes("RGB", (6, 4), chance.randbytes(72))
    return noise.resize(SIZE, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return *image* as a file of *kind*."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def raw_png(size: tuple[int, int], bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG made by hand, with *extra* chunks before the pixels."""
    header = png_header(*size, bits=bits, colour=colour)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return PNG_SIGNATURE + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images, in grey levels."""
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize(("kind", "loss"), [("JPEG", 4.0), ("PNG", 0.0)])
def test_images_come_out_upright(kind: str, loss: float, orientation: int) -> None:
    """An image stored turned or mirrored is shown, and measured, as a viewer shows it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image().transpose(STORED_AS[orientation]), kind, exif=exif, quality=95)
    assert photo_size(data) == SIZE
    assert difference(load_photo(data).image, image()) <= loss


def test_size_does_not_decode() -> None:
    """The size is read from the header even when the pixels are missing."""
    assert photo_size(saved(image(), "PNG")[:60]) == SIZE


RGB_FILES = {
    "progressive JPEG": lambda: saved(image(), "JPEG", progressive=True, quality=95),
    "CMYK JPEG": lambda: saved(image().convert("CMYK"), "JPEG", quality=95),
    "phone JPEG (MPO)": lambda: saved(
        image(), "MPO", save_all=True, append_images=[image()], quality=95
    ),
    "RGBA, opaque": lambda: saved(image().convert("RGBA"), "PNG"),
    "palette": lambda: saved(image().quantize(256), "PNG"),
    "animated PNG": lambda: saved(
        image(), "PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]
    ),
    "16 bits RGB": lambda: raw_png(
        SIZE, 16, 2, b"".join(b"\0" + row for row in sixteen_bit_rows(image()))
    ),
}


def sixteen_bit_rows(image: Image.Image) -> list[bytes]:
    """Return the rows of *image* with every sample doubled to 16 bits."""
    data = bytes(byte for sample in image.tobytes() for byte in (sample, sample))
    width = 6 * image.width
    return [data[start : start + width] for start in range(0, len(data), width)]


@pytest.mark.parametrize("make", RGB_FILES.values(), ids=RGB_FILES)
def test_every_kind_becomes_rgb(make: Callable[[], bytes]) -> None:
    """Whatever the colour mode, the image comes out as RGB and looks the same."""
    photo = load_photo(make())
    assert photo.image.mode == "RGB"
    assert difference(photo.image, image()) <= 8


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_rgb(mode: str) -> None:
    """Grey and bilevel images become RGB without a change."""
    grey = image().convert(mode)
    photo = load_photo(saved(grey, "PNG"))
    assert photo.image.tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    """What can be seen through is white, not black."""
    clear = Image.new("RGBA", SIZE, (0, 0, 0, 0)).convert(mode)
    data = saved(clear.convert("RGBA") if mode == "PA" else clear, "PNG")
    assert load_photo(data).image.getpixel((1, 1)) == (255, 255, 255)


def test_transparent_palette_entry_is_laid_on_white() -> None:
    """A palette image's transparent colour becomes white."""
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    image = load_photo(saved(palette, "PNG", transparency=0)).image
    assert image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("extra", [(), (chunk(b"tRNS", b"\0\0"),)], ids=["plain", "transparent"])
def test_sixteen_bit_grey(extra: tuple[bytes, ...]) -> None:
    """16-bit grey is scaled to 8 bits, neither clipped nor wrapped."""
    levels = (0, 127, 128, 129, 257, 30000, 32767, 32768, 65407, 65535)
    row = b"\0" + struct.pack(f">{len(levels)}H", *levels)
    image = load_photo(raw_png((len(levels), 1), 16, 0, row, *extra)).image
    expected = bytes((level + 128) // 257 for level in levels)
    assert image.getchannel("R").tobytes() == expected


@pytest.mark.parametrize(
    ("space", "mode", "kept"),
    [(b"RGB ", "RGB", True), (b"CMYK", "CMYK", False), (b"GRAY", "L", False)],
)
def test_only_rgb_profiles_are_kept(space: bytes, mode: str, kept: bool) -> None:
    """A colour profile that doesn't describe RGB is dropped with its colours."""
    profile = bytes(16) + space + bytes(108)
    data = saved(image().convert(mode), "JPEG", icc_profile=profile)
    assert load_photo(data).icc == (profile if kept else None)


JPEG = saved(image(), "JPEG")
PNG = saved(image(), "PNG")
REFUSED = {
    "empty": b"",
    "text": b"no image at all",
    "GIF": saved(image(), "GIF"),
    "BMP": saved(image(), "BMP"),
    "TIFF": saved(image(), "TIFF"),
    "WebP": saved(image(), "WEBP"),
    "JPEG, cut": JPEG[: len(JPEG) // 2],
    "PNG, cut": PNG[: len(PNG) // 2],
    "PNG, a wrong checksum": PNG.replace(b"IDAT", b"IDAT\0", 1),
    "one gigapixel in a small file": raw_png((30_000, 30_000), 1, 0, bytes(3751 * 300)),
    "a header only": raw_png((60_000, 60_000), 8, 2, b""),
    "51 megapixels": raw_png((7_500, 6_801), 8, 2, b""),
    "a bomb of text": raw_png(
        SIZE, 8, 2, b"", chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8_000_000)))
    ),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_others_are_refused(data: bytes) -> None:
    """What is no JPEG or PNG, is damaged, or would fill the memory is refused with a reason."""
    with pytest.raises(PhotoError, match=r"JPEG or PNG|damaged|megapixels"):
        load_photo(data)
