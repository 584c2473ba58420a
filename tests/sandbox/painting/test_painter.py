"""The local outpainting: exact geometry, an untouched photo, and images that can be repeated."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageChops, ImageOps, ImageStat

from comet_async.errors import MissingExtraError
from comet_async.geometry import Margins
from comet_async.sandbox._painting.painter import Painting, best_engine, cloudlike_size, paint
from tests.support.images import with_odd_exif

if TYPE_CHECKING:
    from pathlib import Path

    from comet_async.sandbox._painting.painter import Engine, Quality

ENGINES: tuple[Engine, ...] = ("patchmatch", "pillow")
THIRDS = Margins.uniform(0.3)
both_engines = pytest.mark.parametrize("engine", ENGINES)
# Many images: patchmatch takes a tenth of a second for a small one.
MANY_IMAGES = [pytest.param("patchmatch", marks=pytest.mark.slow), "pillow"]


def photo_file(width: int, height: int, seed: int = 1) -> Image.Image:
    """Return soft random colours: structure at several sizes, as in a photo."""
    chance = random.Random(seed)  # noqa: S311 - a test image is no secret
    small = (width // 6 + 2, height // 6 + 2)
    noise = Image.frombytes("RGB", small, chance.randbytes(small[0] * small[1] * 3))
    return noise.resize((width, height), Image.Resampling.BICUBIC)


def as_png(image: Image.Image, **options: Any) -> bytes:
    """Return *image* as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def opened(painting: Painting) -> Image.Image:
    """Return the painted image."""
    return Image.open(io.BytesIO(painting.png))


def assert_exact(painting: Painting, photo: Image.Image, sides: tuple[int, int, int, int]) -> None:
    """Check the canvas's size and every bit of the photo; *sides*: up, down, left, right."""
    up, down, left, right = sides
    image = opened(painting)
    width, height = photo.size
    assert image.size == (painting.width, painting.height)
    assert image.size == (width + left + right, height + up + down)
    inside = image.crop((left, up, left + width, up + height))
    assert inside.tobytes() == photo.tobytes()


@pytest.mark.parametrize("engine", MANY_IMAGES)
@settings(max_examples=15)
@given(
    size=st.tuples(st.integers(20, 150), st.integers(20, 150)),
    # Hundredths, so that the expected pixels are whole-number arithmetic. 1.72² is below 3.
    percents=st.tuples(*[st.integers(0, 36)] * 4),
    variant=st.integers(0, 8),
)
def test_size_and_photo_are_exact(
    engine: Engine, size: tuple[int, int], percents: tuple[int, int, int, int], variant: int
) -> None:
    """The canvas has the promised size and the photo in it is untouched, bit for bit."""
    photo = photo_file(*size)
    margins = Margins(*(percent / 100 for percent in percents))
    painting = paint(as_png(photo), margins, engine=engine, variant=variant, quality="draft")
    lengths = (size[1], size[1], size[0], size[0])
    added = [(2 * n * share + 100) // 200 for n, share in zip(lengths, percents, strict=True)]
    assert painting.engine == engine
    assert_exact(painting, photo, (added[0], added[1], added[2], added[3]))


@both_engines
@pytest.mark.parametrize(
    ("size", "margins", "sides"),
    [
        pytest.param((90, 60), Margins(up=2), (120, 0, 0, 0), id="one side doubled"),
        pytest.param((90, 60), Margins(right=2), (0, 0, 0, 180), id="two widths more"),
        pytest.param((100, 50), Margins(0.02, 0.02, 0.01, 0.01), (1, 1, 1, 1), id="one pixel"),
        pytest.param((400, 200), Margins(down=0.001), (0, 0, 0, 0), id="less than a pixel"),
        pytest.param((331, 217), THIRDS, (65, 65, 99, 99), id="cells only partly photo"),
        pytest.param((400, 9), Margins(1, 1), (9, 9, 0, 0), id="lower than a block"),
        pytest.param((1, 1), Margins(left=2), (0, 0, 2, 0), id="a single pixel"),
    ],
)
def test_unusual_sides(
    engine: Engine, size: tuple[int, int], margins: Margins, sides: tuple[int, int, int, int]
) -> None:
    """Extreme margins and sizes keep the same promise."""
    photo = photo_file(*size)
    painting = paint(as_png(photo), margins, engine=engine, quality="draft")
    assert painting.engine == engine
    assert_exact(painting, photo, sides)


@pytest.mark.parametrize(
    "quality", ["draft", "standard", pytest.param("high", marks=pytest.mark.slow)]
)
def test_qualities(quality: Quality) -> None:
    """Every quality gives an image of the same size with the photo in it."""
    photo = photo_file(290, 290)  # cells of 3, 2 and 1 pixels
    painting = paint(as_png(photo), Margins(left=0.5), engine="patchmatch", quality=quality)
    assert painting.engine == "patchmatch"
    assert_exact(painting, photo, (0, 0, 145, 0))


@pytest.fixture(scope="module", params=MANY_IMAGES)
def nine(request: pytest.FixtureRequest) -> tuple[Engine, list[Painting]]:
    """Return an engine and the nine images of a request with n = 9."""
    engine: Engine = request.param
    return engine, [nth(variant, engine) for variant in range(9)]


def nth(variant: int, engine: Engine) -> Painting:
    """Return one of the nine images."""
    photo = as_png(photo_file(120, 90))
    return paint(photo, THIRDS, engine=engine, variant=variant, quality="draft")


def test_variants_differ(nine: tuple[Engine, list[Painting]]) -> None:
    """The nine images of one request are nine different ones."""
    assert len({painting.png for painting in nine[1]}) == 9


def test_repeatable_in_threads(nine: tuple[Engine, list[Painting]]) -> None:
    """Painted again, two at a time in threads, every image has the same bytes."""
    engine, expected = nine
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(lambda variant: nth(variant, engine), range(9)))
    assert again == expected


@both_engines
@pytest.mark.parametrize("level", [0, 117, 255])
def test_flat_stays_flat(engine: Engine, level: int) -> None:
    """An evenly grey image gets evenly grey surroundings."""
    flat = as_png(Image.new("RGB", (240, 180), (level, level, level)))
    image = opened(paint(flat, THIRDS, engine=engine, quality="draft", variant=3))
    for low, high in ImageStat.Stat(image).extrema:
        assert level - 2 <= low <= high <= level + 2


@both_engines
def test_colours_go_on_over_the_edge(engine: Engine) -> None:
    """The first new pixels look like the photo's last: there is no visible frame."""
    image = opened(paint(as_png(photo_file(300, 200)), Margins(left=0.3), engine=engine))
    last, first = image.crop((90, 0, 91, 200)), image.crop((89, 0, 90, 200))
    assert max(ImageStat.Stat(ImageChops.difference(first, last)).mean) < 12


def test_surroundings_come_from_the_photo() -> None:
    """Around a red and blue photo the new area is red at the left and blue at the right."""
    bright = photo_file(300, 200).convert("L")
    dark = bright.point(lambda value: value // 8)
    photo = Image.merge("RGB", (bright, dark, dark))
    photo.paste(Image.merge("RGB", (dark, dark, bright)).crop((150, 0, 300, 200)), (150, 0))
    image = opened(paint(as_png(photo), Margins(left=0.3, right=0.3), engine="patchmatch"))
    left, right = image.crop((0, 0, 80, 200)), image.crop((400, 0, 480, 200))
    for area, strong, weak in ((left, 0, 2), (right, 2, 0)):
        means = ImageStat.Stat(area).mean
        assert means[strong] > 4 * means[weak]


@pytest.mark.slow
def test_vignette_shows_no_rectangle() -> None:
    """Outside a photo's dark corners the image stays as dark as they are."""
    round_light = ImageOps.invert(Image.radial_gradient("L")).resize((400, 300))
    photo = round_light.point(lambda value: 100 + value // 3)
    painting = paint(as_png(photo), THIRDS, engine="patchmatch", variant=1, quality="draft")
    image = opened(painting).convert("L")  # the photo's corners are at 120 and 520, 90
    for left in (130, 490):
        inside, outside = (
            image.crop((left, 90, left + 30, 94)),
            image.crop((left, 60, left + 30, 75)),
        )
        assert ImageStat.Stat(outside).mean[0] == pytest.approx(
            ImageStat.Stat(inside).mean[0], abs=2
        )


def test_failing_engine_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the better engine raises, the other paints, and the log says so."""

    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("comet_async.sandbox._painting.patchmatch.expand", fail)
    photo = photo_file(60, 60)
    painting = paint(as_png(photo), Margins(up=0.5), engine="patchmatch")
    assert painting.engine == "pillow"
    assert_exact(painting, photo, (30, 0, 0, 0))
    assert "pillow takes over" in caplog.text


def test_best_engine_is_patchmatch() -> None:
    """With the extra installed, `auto` takes the better engine."""
    assert best_engine() == "patchmatch"
    assert paint(as_png(photo_file(40, 40)), Margins(up=0.5)).engine == "patchmatch"


@pytest.fixture(params=["an old release", "no release", "no module", "no native library"])
def without_patchmatch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Make pypatchmatch unusable, in each of the ways that happen."""
    if request.param == "an old release":
        # Its import would fetch a binary; this one's fails the test.
        (tmp_path / "patchmatch.py").write_text("raise SystemExit('1.x was imported')")
        (tmp_path / "pypatchmatch-1.0.2.dist-info").mkdir()
        about = tmp_path / "pypatchmatch-1.0.2.dist-info" / "METADATA"
        about.write_text("Metadata-Version: 2.1\nName: pypatchmatch\nVersion: 1.0.2\n")
        monkeypatch.delitem(sys.modules, "patchmatch", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
    elif request.param == "no release":
        monkeypatch.setattr(sys, "path", [])
    elif request.param == "no module":
        monkeypatch.setitem(sys.modules, "patchmatch", None)
    else:
        monkeypatch.setattr("patchmatch.patchmatch_available", False)


@pytest.mark.usefixtures("without_patchmatch")
def test_works_without_patchmatch() -> None:
    """When pypatchmatch 2 can't be used, `auto` takes Pillow, and a wish for it is refused."""
    photo = as_png(photo_file(40, 40))
    assert best_engine() == "pillow"
    assert paint(photo, Margins(up=0.5)).engine == "pillow"
    with pytest.raises(MissingExtraError) as caught:
        paint(photo, Margins(up=0.5), engine="patchmatch")
    assert caught.value.extra == "sandbox"


def test_import_is_light() -> None:
    """Importing the painter loads neither Pillow nor numpy nor the engine."""
    code = "import sys, comet_async.sandbox._painting.painter; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "numpy", "patchmatch"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("canvas", "size"),
    [
        ((1280, 640), (1664, 832)),
        ((4000, 4000), (1184, 1184)),
        ((1024, 683), (1440, 960)),
        ((300, 900), (672, 2048)),
        ((1_000_000, 1), (1_183_200, 32)),
    ],
)
def test_cloudlike_size(canvas: tuple[int, int], size: tuple[int, int]) -> None:
    """A canvas is scaled to about 1.4 megapixels with sides that are multiples of 32."""
    assert cloudlike_size(*canvas) == size


@given(
    width=st.integers(300, 8000),
    shape=st.floats(1 / 7.5, 7.5),
)
def test_cloudlike_keeps_the_shape(width: int, shape: float) -> None:
    """Whatever the canvas, its shape and the number of pixels stay near."""
    height = max(1, round(width / shape))
    wide, tall = cloudlike_size(width, height)
    assert wide % 32 == tall % 32 == 0
    assert wide * tall == pytest.approx(1_400_000, rel=0.06)
    assert wide / tall == pytest.approx(width / height, rel=0.06)


@both_engines
def test_cloudlike_keeps_the_relative_place(engine: Engine) -> None:
    """In a cloudlike image the photo sits at the same share of the canvas."""
    photo = photo_file(320, 320)
    painting = paint(
        as_png(photo), Margins(left=0.5, right=0.25), engine=engine, output="cloudlike",
        quality="draft",
    )  # fmt: skip
    assert (painting.width, painting.height) == cloudlike_size(560, 320)
    scale = painting.width / 560
    place = (160 * scale, 0, 480 * scale, painting.height)
    inside = opened(painting).resize(photo.size, box=place)
    assert max(ImageStat.Stat(ImageChops.difference(inside, photo)).mean) < 4


def test_watermark_is_in_the_corner() -> None:
    """A watermark changes the lower right corner and nothing else."""
    photo = as_png(photo_file(200, 200))
    plain, marked = (
        opened(paint(photo, Margins(right=0.5), engine="pillow", watermark=mark))
        for mark in (False, True)
    )
    changed = ImageChops.difference(plain, marked).getbbox()
    assert changed is not None
    assert changed[0] > 200
    assert changed[1] > 150


@both_engines
def test_file_says_what_it_is(engine: Engine) -> None:
    """The PNG names its maker and engine, and that no prompt was followed."""
    photo = as_png(photo_file(60, 60))
    image = opened(paint(photo, Margins(up=0.5), engine=engine, quality="draft"))
    assert image.format == "PNG"
    assert image.mode == "RGB"
    notes = {"Software": "comet_async sandbox", "Engine": engine, "Prompt": "ignored"}
    assert image.info == notes


def test_profile_is_kept() -> None:
    """An RGB photo's colour profile goes into the result."""
    profile = bytes(16) + b"RGB " + bytes(108)
    photo = as_png(photo_file(60, 60), icc_profile=profile)
    image = opened(paint(photo, Margins(up=0.5), engine="pillow"))
    assert image.info["icc_profile"] == profile


def test_exif_that_can_not_be_written_back() -> None:
    """A value that only readers put up with makes no photo damaged."""
    photo = photo_file(60, 40)
    file = io.BytesIO()
    photo.save(file, "JPEG")
    painting = paint(with_odd_exif(file.getvalue()), Margins(), engine="pillow")
    assert (painting.width, painting.height) == (40, 60)


def test_painting_hides_its_bytes() -> None:
    """A painting's text is short: the file's bytes are not in it."""
    image = photo_file(3, 2)
    painting = Painting(png=b"secret", image=image, width=3, height=2, engine="pillow")
    assert repr(painting) == "Painting(width=3, height=2, engine='pillow')"
