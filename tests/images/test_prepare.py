"""Converting images that the API would refuse, or might read in another way than viewers."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from comet_async._images import load as loading, prepare
from comet_async._images.load import load
from comet_async._images.rules import ImageRules
from comet_async._images.source import SourceImage
from comet_async.errors import InputError, MissingExtraError
from comet_async.stores import spool
from tests.support.images import PNG_SIGNATURE, png_chunk, png_header

Image = pytest.importorskip("PIL.Image")
Image.init()
ORIENTATION = 0x0112
# What a viewer must do with a stored image of each orientation, as Pillow's transposition;
# to *store* an image that way is the opposite.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width: int = 400, height: int = 320, mode: str = "RGB") -> Any:  # noqa: ANN401 - Pillow is optional
    """Return an image whose four corners differ in colour."""
    image = Image.new("RGB", (width, height), "white")
    colours = ("red", "green", "blue", "yellow")
    boxes = ((0, 0), (width // 2, 0), (0, height // 2), (width // 2, height // 2))
    for colour, box in zip(colours, boxes, strict=True):
        image.paste(colour, (*box, box[0] + width // 2, box[1] + height // 2))
    return image.convert(mode)


def noise(width: int, height: int, mode: str = "RGB") -> Any:  # noqa: ANN401 - Pillow is optional
    """Return an image that does not compress."""
    data = random.Random(1).randbytes(width * height * len(mode))  # noqa: S311 - no secret
    return Image.frombytes(mode, (width, height), data)


def save(image: Any, format: str, **options: Any) -> bytes:  # noqa: A002, ANN401 - Pillow's word and types
    """Return *image* as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corners(loaded: SourceImage) -> list[str]:
    """Return the names of the colours in the four corners of a prepared image."""
    names = {(255, 0, 0): "red", (0, 128, 0): "green", (0, 0, 255): "blue"}
    with loaded.open() as file, Image.open(file) as image:
        size = image.size
        assert size == (loaded.width, loaded.height)
        assert image.format.lower() == loaded.format
        rgb = image.convert("RGB")
    places = [(9, 9), (size[0] - 9, 9), (9, size[1] - 9), (size[0] - 9, size[1] - 9)]
    return [
        next(
            (name for colour, name in names.items() if near(rgb.getpixel(place), colour)), "yellow"
        )
        for place in places
    ]


def near(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return True if two colours look the same."""
    return all(abs(a - b) < 40 for a, b in zip(found, wanted, strict=True))


UPRIGHT = ["red", "green", "blue", "yellow"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_what_is_fine_is_not_touched(kind: str, tmp_path: Path) -> None:
    """No loss, no new name, and no Pillow needed."""
    path = tmp_path / "dog"
    path.write_bytes(save(scene(), kind))
    assert await load(path, prepare=True) == await load(path)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_rotation_of_the_camera_is_applied(orientation: int, kind: str) -> None:
    """All eight orientations come out upright, and say so no more."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = scene().transpose(STORED[orientation])
    loaded = await load(save(stored, kind, exif=exif), prepare=True)
    assert corners(loaded) == UPRIGHT
    assert f"rotated upright (orientation {orientation})" in loaded.notes
    assert f"saved again as {kind}" in loaded.notes
    with loaded.open() as file, Image.open(file) as image:
        assert not image.getexif()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("WEBP", {"quality": 80}, "jpeg"),
        ("WEBP", {"lossless": True}, "png"),
        ("GIF", {}, "png"),
        ("BMP", {}, "png"),
        ("TIFF", {}, "png"),
        ("TIFF", {"compression": "tiff_lzw"}, "png"),
        pytest.param(
            *("AVIF", {}, "jpeg"),
            marks=pytest.mark.skipif("AVIF" not in Image.SAVE, reason="this Pillow is too old"),
        ),
    ],
)
async def test_other_formats_are_converted(
    kind: str, options: dict[str, Any], expected: str
) -> None:
    """Photos become JPEG, all else PNG."""
    loaded = await load(save(scene(), kind, **options), prepare=True)
    assert loaded.format == expected
    assert corners(loaded) == UPRIGHT
    name = "WebP" if kind == "WEBP" else kind
    assert loaded.notes == (f"converted from {name} to {expected.upper()}",)


async def test_heic_is_converted() -> None:
    """What telephones write becomes what the API takes."""
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(scene()).save(buffer, quality=90)
    loaded = await load(buffer.getvalue(), prepare=True)
    assert corners(loaded) == UPRIGHT
    assert loaded.notes == ("converted from HEIC to JPEG",)
    assert "HEIF" not in Image.OPEN


async def test_first_image_of_an_animation() -> None:
    """Only one image can be expanded; the note says that there were more."""
    data = save(scene(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 320))])
    loaded = await load(data, prepare=True)
    assert corners(loaded) == UPRIGHT
    assert "only the first image of several kept" in loaded.notes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "LAB", "CMYK"])
async def test_every_mode_becomes_plain(mode: str) -> None:
    """However pixels are stored, gray, RGB or RGBA with 8 bits comes out."""
    kind = "PNG" if mode in {"1", "LA", "P", "RGBA"} else "TIFF"
    loaded = await load(save(scene(250, 200, mode), kind), prepare=True)
    with loaded.open() as file, Image.open(file) as result:
        assert result.mode in {"L", "RGB"}
        assert result.size == (375, 300)


@pytest.mark.parametrize("profile", [None, b"not a profile"])
async def test_cmyk_becomes_rgb(profile: bytes | None) -> None:
    """Print colours become screen colours, even if their profile is broken."""
    data = save(scene(mode="CMYK"), "JPEG", icc_profile=profile)
    loaded = await load(data, prepare=True)
    assert loaded.notes == ("converted from CMYK to RGB", "saved again as JPEG")
    assert corners(loaded) == UPRIGHT


async def test_cmyk_follows_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that can be read decides what the colours are."""
    cms = pytest.importorskip("PIL.ImageCms")
    monkeypatch.setattr(cms, "ImageCmsProfile", lambda file: file.read())
    monkeypatch.setattr(cms, "profileToProfile", lambda *_, **__: scene())
    data = save(noise(400, 320, "CMYK"), "JPEG", icc_profile=b"the printer's")
    assert corners(await load(data, prepare=True)) == UPRIGHT


def deep_png(colour: int, sample: bytes) -> bytes:
    """Return a PNG of 320 x 300 pixels with 16 bits a channel, each pixel being *sample*."""
    header = png_header(320, 300, bits=16, colour=colour)
    rows = zlib.compress((b"\0" + sample * 320) * 300)
    return PNG_SIGNATURE + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (65535, 255)])
async def test_sixteen_bits_are_rounded(value: int, expected: int) -> None:
    """Gray values are scaled to 8 bits, not clipped."""
    loaded = await load(deep_png(0, struct.pack(">H", value)), prepare=True)
    with loaded.open() as file, Image.open(file) as image:
        assert image.getpixel((9, 9)) == expected
    assert loaded.notes == ("reduced to 8 bits a channel", "saved again as PNG")


async def test_sixteen_bits_in_colour() -> None:
    """Colours keep their higher half."""
    loaded = await load(deep_png(2, struct.pack(">HHH", 0xFF00, 0x8000, 0)), prepare=True)
    with loaded.open() as file, Image.open(file) as image:
        assert near(image.getpixel((9, 9)), (255, 128, 0))
    assert "reduced to 8 bits a channel" in loaded.notes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((299, 400), (300, 401)),
        ((100, 100), (300, 300)),
        ((250, 100), (750, 300)),
        ((101, 252), (300, 749)),
        ((133, 332), (300, 749)),
        ((1, 1), (300, 300)),
    ],
)
async def test_small_images_are_scaled_up(old: tuple[int, int], new: tuple[int, int]) -> None:
    """The shorter side reaches 300 pixels, in the same shape."""
    loaded = await load(save(Image.new("RGB", old), "PNG"), prepare=True)
    assert (loaded.width, loaded.height) == new
    assert f"scaled up from {old[0]}x{old[1]} to {new[0]}x{new[1]}" in loaded.notes
    assert loaded.scaled_from == old


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let files be too large at *size* bytes, so that tests need no large ones."""
    monkeypatch.setattr(prepare, "MAX_BYTES", size)


async def test_large_png_becomes_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo as PNG is several times as large as it need be."""
    data = save(noise(400, 300), "PNG")
    limit(monkeypatch, len(data) // 2)
    loaded = await load(data, prepare=True)
    assert loaded.notes == ("converted from PNG to JPEG",)
    assert (loaded.width, loaded.height) == (400, 300)
    assert loaded.size <= len(data) // 2


async def test_large_jpeg_loses_quality_before_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little compression saves more than it shows."""
    image = noise(400, 300)
    limit(monkeypatch, len(save(image, "JPEG", quality=90)))
    loaded = await load(save(image, "JPEG", quality=100), prepare=True)
    assert loaded.notes[0].startswith("quality lowered to 90 to fit")
    assert loaded.width == 400


@pytest.mark.parametrize("size", [(600, 400), (1000, 400), (1001, 401), (503, 1257)])
async def test_very_large_jpeg_is_scaled_down(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """What compression can't do, fewer pixels do, and the shape stays legal."""
    data = save(noise(*size), "JPEG", quality=95)
    limit(monkeypatch, len(data) // 4)
    loaded = await load(data, prepare=True)
    assert loaded.size <= len(data) // 4
    assert any(note.startswith(f"scaled down from {size[0]}x{size[1]}") for note in loaded.notes)
    assert loaded.scaled_from == size
    assert loaded.width is not None
    assert loaded.height is not None
    shape = sorted((loaded.width, loaded.height))
    assert shape[1] <= 2.5 * shape[0]


async def test_huge_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred megapixels are never unpacked in full."""
    monkeypatch.setattr(prepare, "_MAX_DECODED", 500_000)
    data = save(scene(1200, 1000, "CMYK"), "JPEG")
    loaded = await load(data, prepare=True)
    assert corners(loaded) == UPRIGHT
    assert "scaled down from 1200x1000 to 600x500" in loaded.notes


async def test_transparency_is_kept_if_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG holds it; JPEG, for what is too large, can't."""
    image = noise(320, 300, "RGBA")
    data = save(image, "WEBP", lossless=True)
    kept = await load(data, prepare=True)
    assert (kept.format, kept.notes) == ("png", ("converted from WebP to PNG",))
    limit(monkeypatch, kept.size - 1)
    laid = await load(data, prepare=True)
    assert (laid.format, laid.notes[0]) == ("jpeg", "transparency laid on white")


async def test_opaque_transparency_is_dropped() -> None:
    """A fourth channel that says nothing costs a quarter of the file."""
    loaded = await load(save(scene(mode="RGBA"), "TIFF"), prepare=True)
    with loaded.open() as file, Image.open(file) as image:
        assert image.mode == "RGB"


async def test_colour_profile_stays_if_it_fits() -> None:
    """Colours keep their meaning, unless the profile is for another kind of image."""
    for space, mode, expected in ((b"RGB ", "RGB", True), (b"GRAY", "RGB", False)):
        profile = bytes(16) + space + bytes(108)
        data = save(scene(250, 250, mode), "PNG", icc_profile=profile)
        with (await load(data, prepare=True)).open() as file, Image.open(file) as image:
            assert ("icc_profile" in image.info) is expected


@pytest.mark.parametrize("alpha", [False, True])
async def test_lossless_webp_stays_lossless(alpha: bool) -> None:
    """A profile, metadata or transparency puts a header before the image; every pixel is kept."""
    image = noise(320, 300, "RGBA" if alpha else "RGB")
    profile = bytes(16) + b"RGB " + bytes(108)
    data = save(image, "WEBP", lossless=True, exact=True, icc_profile=profile)
    assert data[12:16] == b"VP8X"
    loaded = await load(data, prepare=True)
    assert loaded.format == "png"
    with loaded.open() as file, Image.open(file) as result:
        assert result.tobytes() == image.tobytes()


@pytest.mark.parametrize(("lossless", "expected"), [(True, "png"), (False, "jpeg")])
async def test_animated_webp_is_judged_by_its_frames(lossless: bool, expected: str) -> None:
    """The image data of an animation is inside its frames."""
    frames = [noise(320, 300), scene(320, 300)]
    data = save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless)
    assert (await load(data, prepare=True)).format == expected


def large_profile(start: bytes) -> bytes:
    """Return a colour profile of 1.3 MB."""
    return start + bytes(1_300_000)


async def test_large_profile_is_applied_and_left_out() -> None:
    """Decoders refuse profiles of a megabyte: colours become sRGB, and the file opens."""
    cms = pytest.importorskip("PIL.ImageCms")
    profile = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "RGBA"):
        image = noise(320, 300, mode)
        data = save(image, "TIFF", icc_profile=large_profile(profile))
        loaded = await load(data, prepare=True)
        assert loaded.notes[0] == "converted to sRGB: its colour profile has 1,300 kB"
        with loaded.open() as file, Image.open(file) as result:
            result.load()
            assert "icc_profile" not in result.info
            assert result.mode == mode


async def test_large_profile_of_nonsense_is_left_out() -> None:
    """What can't be read changes no colours."""
    data = save(scene(), "TIFF", icc_profile=large_profile(bytes(16) + b"RGB " + bytes(108)))
    loaded = await load(data, prepare=True)
    assert loaded.notes[0] == "its colour profile of 1,300 kB left out: it can't be read"
    assert corners(loaded) == UPRIGHT


# ---------------------------------------------------------------------------- what TIFF files hold


def pages(*images: Any, kinds: tuple[int, ...] = ()) -> bytes:
    """Return a TIFF of several pages, which call themselves *kinds* (NewSubfileType)."""
    tiff = pytest.importorskip("PIL.TiffImagePlugin")
    buffer = io.BytesIO()
    with tiff.AppendingTiffWriter(buffer, new=True) as file:
        for number, image in enumerate(images):
            tags = tiff.ImageFileDirectory_v2()
            if kinds:
                tags[254] = kinds[number]
            image.save(file, "TIFF", tiffinfo=tags)
            file.newFrame()
    return buffer.getvalue()


SMALL, OTHER = scene(160, 128).convert("L").convert("RGB"), Image.new("RGB", (400, 320), "black")


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (pages(SMALL, scene(), kinds=(1, 0)), "image 2 of the file taken"),
        (pages(SMALL, SMALL, scene()), "image 3 of the file taken"),
        (pages(scene(), SMALL), "only the first image of several kept"),
        (pages(scene(), SMALL, kinds=(0, 1)), "converted from TIFF to PNG"),
        (pages(scene(), OTHER), "only the first image of several kept"),
        (pages(OTHER, scene(), kinds=(4, 0)), "image 2 of the file taken"),
    ],
    ids=["reduced first", "small first", "small last", "reduced last", "equal", "mask first"],
)
async def test_the_page_that_is_the_image(data: bytes, note: str) -> None:
    """No thumbnail is sent for the image, wherever it stands."""
    loaded = await load(data, prepare=True)
    assert (loaded.width, loaded.height) == (400, 320)
    assert corners(loaded) == UPRIGHT
    assert any(line.startswith(note) for line in loaded.notes)


async def test_nothing_but_reduced_pages_is_refused() -> None:
    """A file may hold thumbnails of an image that is elsewhere."""
    with pytest.raises(InputError, match="nothing but a reduced version"):
        await load(pages(SMALL, SMALL, kinds=(1, 1)), prepare=True)


@pytest.mark.parametrize(
    "tags", [{254: 1, 330: 8}, {50706: b"\1\4\0\0"}], ids=["thumbnail first", "DNG"]
)
@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_camera_raw_is_named(tags: dict[int, Any], prepare: bool, late: bool) -> None:
    """Its first image is a preview; the tags may stand at the start of the file or at its end."""
    tiff = pytest.importorskip("PIL.TiffImagePlugin")
    directory = tiff.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = 1 if isinstance(value, bytes) else 4
        directory[tag] = value
    data = save(scene(), "TIFF", tiffinfo=directory)
    if late:  # the directory behind everything else, as most programs write it
        (at,) = struct.unpack_from("<I", data, 4)
        rest = data[at:]
        data = data[:4] + struct.pack("<I", len(data) + 8192) + data[8:].ljust(8192, b"\0")
        data = data[:8] + bytes(0) + data[8:]
        data = data.ljust(struct.unpack_from("<I", data, 4)[0], b"\0") + rest
        if not prepare:
            return  # known once the file is decoded
    with pytest.raises(InputError, match="is a camera raw file"):
        await load(data, prepare=prepare)


@pytest.mark.parametrize("mode", ["I", "F"])
async def test_pixels_without_fixed_white_are_refused(mode: str) -> None:
    """Nobody can know which of their values is white, and most guesses give black."""
    image = scene().convert("L").convert(mode)
    with pytest.raises(InputError, match=r"floating-point|32-bit"):
        await load(save(image, "TIFF"), prepare=True)
    with pytest.raises(InputError, match="floating-point or 32-bit pixels need an image program"):
        await load(save(image, "TIFF"))  # or the advice would lead to the next refusal


@pytest.mark.parametrize(
    ("bits", "white", "expected"),
    [(16, 1, (0, 127, 255)), (16, 0, (255, 128, 0)), (12, 1, (0, 127, 255))],
)
async def test_gray_has_the_white_that_the_file_means(
    bits: int, white: int, expected: tuple[int, ...]
) -> None:
    """Scanners write negatives whose white is zero, and cameras pack 12 bits."""
    most = 2**bits - 1
    values = [most * x // 319 for x in range(320)]
    if bits == 12:
        pairs = zip(values[::2], values[1::2], strict=True)
        row = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    else:
        row = struct.pack("<320H", *values)
    fields = {256: 320, 257: 300, 258: bits, 259: 1, 262: white, 273: 8, 277: 1, 278: 300}
    entries = [*sorted({**fields, 279: 300 * len(row)}.items())]
    pixels = row * 300
    data = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    data += struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    loaded = await load(data, prepare=True)
    with loaded.open() as file, Image.open(file) as image:
        assert near(tuple(image.getpixel((x, 9)) for x in (0, 160, 319)), expected)


async def test_separate_planes_of_sixteen_bits_are_refused() -> None:
    """Pillow reads them as noise."""
    tiff = pytest.importorskip("PIL.TiffImagePlugin")
    directory = tiff.ImageFileDirectory_v2()
    directory[258], directory[284] = (16, 16, 16), 2
    data = bytearray(save(scene(), "TIFF", tiffinfo={284: 2}))
    bits = struct.pack("<HHH", 8, 8, 8)
    at = data.index(bits)
    data[at : at + 6] = struct.pack("<HHH", 16, 16, 16)
    with pytest.raises(InputError, match="16-bit channels in separate planes"):
        await load(bytes(data), prepare=True)


async def test_palette_of_eight_bits_is_read_as_such() -> None:
    """Some programs write 0 to 255 where 0 to 65535 is meant, which would be black."""
    palette = scene(mode="P")
    data = bytearray(save(palette, "TIFF"))
    with Image.open(io.BytesIO(bytes(data))) as image:
        colours = image.tag_v2[320]
    at = data.index(struct.pack(f"<{len(colours)}H", *colours))
    data[at : at + 2 * len(colours)] = struct.pack(
        f"<{len(colours)}H", *(colour >> 8 for colour in colours)
    )
    assert corners(await load(bytes(data), prepare=True)) == UPRIGHT


async def test_nothing_becomes_a_single_colour() -> None:
    """Values that all round to black are not an image any more."""
    rows = struct.pack("<320H", *range(3, 83), *[90] * 240)
    dark = Image.frombytes("I;16", (320, 300), rows * 300)
    with pytest.raises(InputError, match="would become a single colour"):
        await load(save(dark, "TIFF"), prepare=True)
    with pytest.raises(InputError, match="would become a single colour"):
        await load(dark.convert("I").convert("I;16B"))
    flat = await load(save(Image.new("RGB", (320, 300), "red"), "BMP"), prepare=True)
    assert flat.format == "png"


async def test_output_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made is looked at like any other file before it is sent."""
    real = prepare._save
    monkeypatch.setattr(prepare, "_save", lambda *args, **options: real(*args, **options)[:-500])
    with pytest.raises(InputError, match="the result can't be opened again"):
        await load(save(scene(), "BMP"), prepare=True)
    monkeypatch.setattr(prepare, "_save", lambda *_, **__: save(scene(333, 333), "PNG"))
    with pytest.raises(InputError, match="it has another size"):
        await load(save(scene(), "BMP"), prepare=True)


async def test_no_object_of_a_library_is_shown() -> None:
    """What a decoder says is for its programmers."""
    for data in (b"II*\0" + bytes(100), save(scene(), "GIF")[:30] + b"\0" * 30):
        with pytest.raises(InputError, match="can't be decoded") as caught:
            await load(data, prepare=True)
        assert "<" not in caught.value.message
        assert "0x" not in caught.value.message


# -------------------------------------------------------------------------- what can't be converted


def damaged() -> bytes:
    """Return a small PNG with nonsense in the middle."""
    data = bytearray(save(noise(200, 200), "PNG"))
    data[1000:2000] = bytes(1000)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (save(Image.new("RGB", (751, 300)), "PNG"), "an aspect ratio from 1:2.5 to 2.5:1"),
        (save(Image.new("RGB", (3000, 300)), "TIFF"), "an aspect ratio from 1:2.5 to 2.5:1"),
        (save(Image.new("1", (13400, 13400)), "PNG"), "megapixels"),
        (save(Image.new("1", (13400, 13400)), "TIFF", compression="group4"), "can't be decoded"),
        (save(scene(), "TIFF")[:5000], "can't be decoded"),
        (save(scene(), "WEBP")[:-50], "is cut short"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "can't be decoded"),
        (b"no image", "is text, not a PNG or JPEG"),
        (damaged(), "the checksum of its IDAT chunk is wrong"),
    ],
    ids=["slim", "slim TIFF", "bomb", "TIFF bomb", "TIFF", "WebP", "HEIC", "text", "damaged"],
)
async def test_what_can_not_be_converted(data: bytes, message: str) -> None:
    """Cropping is for a person to decide, and what is lost is lost."""
    with pytest.raises(InputError, match=message) as caught:
        await load(data, prepare=True)
    assert caught.value.hint


async def test_too_large_even_to_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what is read into memory."""
    monkeypatch.setattr("comet_async._images.rules.MAX_PREPARE_BYTES", 1 << 20)
    path = tmp_path / "film.tif"
    path.write_bytes(b"II*\0" + bytes(1 << 20))
    with pytest.raises(InputError, match="at most 1 MB"):
        await load(path, prepare=True)


async def test_missing_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; without need of Pillow there is no error."""
    small, fine = save(scene(200, 200), "PNG"), save(scene(), "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"comet-async\[images\]"):
        await load(small, prepare=True)
    assert (await load(fine, prepare=True)).notes == ()


async def test_old_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """AVIF came to Pillow late."""
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(InputError, match="is AVIF, which this Pillow can't read"):
        await load(b"\0\0\0\x1cftypavif" + bytes(100), prepare=True)


# ---------------------------------------------------------------------------- identity


async def test_same_bytes_in_same_bytes_out() -> None:
    """A later run finds the image that an earlier one paid for."""
    data = save(scene(), "WEBP")
    first, second = await load(data, prepare=True), await load(data, prepare=True)
    assert first.data == second.data
    assert first.sha256 == second.sha256


async def test_identity_comes_from_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of Pillow writes other bytes, and must not cost another purchase."""
    data = save(scene(), "WEBP")
    first = await load(data, prepare=True)
    monkeypatch.setattr(prepare, "_QUALITIES", (50,))
    second = await load(data, prepare=True)
    assert first.data != second.data
    assert first.sha256 == second.sha256 != hashlib.sha256(data).hexdigest()


async def test_prepared_file_does_not_depend_on_the_original(tmp_path: Path) -> None:
    """What was converted is kept; the original may change or go."""
    path = tmp_path / "dog.webp"
    path.write_bytes(save(scene(), "WEBP"))
    loaded = await load(str(path), prepare=True)
    path.unlink()
    assert (loaded.source, loaded.path) == (str(path), path)
    assert corners(loaded) == UPRIGHT


async def test_loaded_image_can_still_be_prepared(tmp_path: Path) -> None:
    """An image that lies on its side is accepted as it is, and turned if asked."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "dog.jpg"
    path.write_bytes(save(scene().transpose(STORED[6]), "JPEG", exif=exif))
    plain = await load(path)
    assert (plain.width, plain.height, plain.notes) == (400, 320, ())
    turned = await load(plain, prepare=True)
    assert corners(turned) == UPRIGHT
    assert turned.source == plain.source
    assert await load(turned, prepare=True) is turned


def test_a_large_copy_waits_in_a_file() -> None:
    """Many images may wait to be sent; the file goes with the image, or with the process."""
    data, check = save(noise(700, 500), "TIFF"), ImageRules(source="photo.tiff", prepare=True)
    # Without the threads of `load`, which may hold the image a moment longer.
    loaded = loading.examine(io.BytesIO(data), len(data), check)
    assert loaded.data is None
    assert loaded.held
    (kept,) = spool().iterdir()
    with loaded.open() as file:
        assert Image.open(file).size == (700, 500)
    assert kept.stat().st_size == loaded.size > 256 * 1024
    del loaded
    assert list(spool().iterdir()) == []


async def test_without_room_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the copy stays in memory."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loading, "spool", full)
    loaded = await load(save(noise(700, 500), "TIFF"), prepare=True)
    assert loaded.data is not None
    assert len(loaded.data) == loaded.size


KILLED = """
import sys, time
from comet_async.stores import spool
(spool() / "copy").write_bytes(b"left")
print(spool(), flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    """The folder of a process that lives is not touched."""

    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    lives, kept = start()
    killed, left = start()
    killed.kill()
    killed.communicate()
    assert left.is_dir()
    third, made = start()
    for process in (lives, third):
        process.kill()
        process.communicate()
    assert sorted(tmp_path.iterdir()) == sorted([kept, made])
