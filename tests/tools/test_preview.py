"""The image of the canvas that is shown before anything is paid."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from comet_async._images.load import load
from comet_async._images.source import SourceImage
from comet_async._tools import preview
from comet_async._tools.preview import render
from comet_async.errors import InputError
from comet_async.geometry import Margins
from tests.support.images import with_odd_exif

if TYPE_CHECKING:
    from pathlib import Path

Image = pytest.importorskip("PIL.Image")


async def red(width: int = 600, height: int = 400, mode: str = "RGB") -> SourceImage:
    """Return a red image."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), "red").save(buffer, "PNG")
    return await load(buffer.getvalue())


def opened(data: bytes) -> Any:  # noqa: ANN401 - Pillow is optional
    """Return the preview as an image, after a look at its format."""
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


def red_box(image: Any) -> tuple[int, int, int, int]:  # noqa: ANN401 - Pillow is optional
    """Return where the red photo lies: left, top, right and bottom."""
    from PIL import ImageChops  # noqa: PLC0415 - optional

    reds, *others = image.convert("RGB").split()
    mask = reds.point(lambda value: 255 * (value > 250))
    for band in others:
        mask = ImageChops.multiply(mask, band.point(lambda value: 255 * (value < 5)))
    box: tuple[int, int, int, int] = mask.getbbox()
    return box


@pytest.mark.parametrize(
    ("margins", "across", "down"),
    [
        (Margins.uniform(0.3), (0.3, 0.3), (0.3, 0.3)),
        (Margins(left=1.0), (1.0, 0.0), (0.0, 0.0)),
        (Margins(up=0.5, right=0.5), (0.0, 0.5), (0.5, 0.0)),
        (Margins.for_aspect("21:9"), (0.278, 0.278), (0.0, 0.0)),
        (Margins.for_pixels(down=200), (0.0, 0.0), (0.0, 0.5)),
    ],
    ids=str,
)
async def test_photo_lies_where_it_will(
    margins: Any,  # noqa: ANN401 - margins and rules
    across: tuple[float, float],
    down: tuple[float, float],
) -> None:
    """The strips around the photo have the widths that were asked for."""
    loaded = await red()
    image = opened(render(loaded, margins))
    assert image.width == 1200
    left, top, right, bottom = red_box(image)
    assert (right - left) / (bottom - top) == pytest.approx(1.5, rel=0.02)
    layout = preview._Layout.of((600, 400), margins.resolve(600, 400), 1200)
    frame = layout.canvas
    wide, tall = right - left, bottom - top
    strips = (left - frame[0], frame[2] - right), (top - frame[1], frame[3] - bottom)
    assert [strip / wide for strip in strips[0]] == pytest.approx(across, abs=0.02)
    assert [strip / tall for strip in strips[1]] == pytest.approx(down, abs=0.02)


async def test_new_area_is_hatched() -> None:
    """What will be painted does not look like a part of the photo, nor of the page."""
    image = opened(render(await red(), Margins.uniform(0.3))).convert("RGB")
    left, top, _, _ = red_box(image)
    corner = image.crop((left - 100, top - 60, left - 50, top - 20))
    assert len(corner.getcolors(10_000)) > 2
    assert all(min(colour) > 150 for _, colour in corner.getcolors(10_000))


@pytest.mark.parametrize("size", [(750, 300), (300, 750), (300, 300), (2000, 1500)])
@pytest.mark.parametrize(
    "margins", [Margins(up=2.0), Margins(left=2.0), Margins(down=0.01), Margins()]
)
async def test_any_shape_fits(size: tuple[int, int], margins: Margins) -> None:
    """No canvas is so slim, and no strip so narrow, that the preview falls apart."""
    image = opened(render(await red(*size), margins, width=500))
    assert image.width == 1000
    assert 200 < image.height < 1400


async def test_photo_is_shown_upright(tmp_path: Path) -> None:
    """The margins are those of the image as a viewer shows it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / ("a very long name " * 10 + ".jpg")
    Image.new("RGB", (4000, 3000), "red").save(path, exif=exif)
    left, top, right, bottom = red_box(opened(render(await load(path), Margins())))
    assert (right - left) / (bottom - top) == pytest.approx(0.75, rel=0.02)


async def test_exif_that_can_not_be_written_back() -> None:
    """A value that only readers put up with is no reason to show nothing."""
    buffer = io.BytesIO()
    Image.new("RGB", (600, 400), "red").save(buffer, "JPEG")
    loaded = await load(with_odd_exif(buffer.getvalue()))
    left, top, right, bottom = red_box(opened(render(loaded, Margins())))
    assert (right - left) / (bottom - top) == pytest.approx(2 / 3, rel=0.02)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P", "LA", "CMYK"])
async def test_any_kind_of_pixels(mode: str) -> None:
    """Every image that the API takes can be shown."""
    buffer = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new("L", (400, 300)).convert(mode).save(buffer, kind)
    data = render(await load(buffer.getvalue()), Margins(left=0.5))
    assert opened(data).getpixel((900, 400)) == (0, 0, 0)


async def test_transparency_is_laid_on_white() -> None:
    """What the photo leaves open is not black."""
    buffer = io.BytesIO()
    Image.new("RGBA", (400, 400)).save(buffer, "PNG")
    image = opened(render(await load(buffer.getvalue()), Margins())).convert("RGB")
    assert image.getpixel((600, 600)) == (255, 255, 255)


async def test_url_has_no_preview() -> None:
    """Its size is not known here, and it is not fetched."""
    with pytest.raises(InputError, match="is a URL, whose size is not known here") as caught:
        render(await load("https://example.com/dog.png"), Margins.uniform(0.1))
    assert caught.value.hint


async def test_rule_that_can_not_be_kept() -> None:
    """A preview refuses what the API would."""
    with pytest.raises(InputError, match="times the area"):
        render(await red(), Margins.for_aspect("9:1"))


async def test_damaged_image(photo: bytes) -> None:
    """An image that was damaged since it was loaded fails here."""
    loaded = await load(photo)
    loaded = attrs.evolve(loaded, data=photo[:100] + bytes(100) + photo[200:])
    with pytest.raises(InputError, match="the data can't be decoded"):
        render(loaded, Margins.uniform(0.1))


async def test_changed_image(tmp_path: Path, photo: bytes) -> None:
    """The reason of an error of ours is kept."""
    path = tmp_path / "dog.png"
    path.write_bytes(photo)
    loaded = await load(path)
    path.write_bytes(photo + b"more")
    with pytest.raises(InputError, match="changed while it was read"):
        render(loaded, Margins.uniform(0.1))


async def test_machine_without_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own font will do."""
    from PIL import ImageFont  # noqa: PLC0415 - optional

    real = ImageFont.truetype

    def by_name(font: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401 - Pillow is optional
        if isinstance(font, str):
            raise OSError
        return real(font, *rest, **more)

    monkeypatch.setattr(ImageFont, "truetype", by_name)
    assert opened(render(await red(), Margins.uniform(0.1))).width == 1200


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("été.jpg", "été.jpg"),
        ("a 海.jpg", "a \\u6d77.jpg"),
        ("🌊.jpg", "\\U0001f30a.jpg"),
    ],
)
def test_letters_without_a_shape(text: str, drawn: str) -> None:
    """Letters that the font lacks are written as escapes, not as boxes."""
    from PIL import ImageFont  # noqa: PLC0415 - optional

    try:
        font = ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("DejaVu is not installed")
    assert preview._drawable(text, font) == drawn


async def test_a_font_that_has_all_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other fonts of the machine are tried before a name is escaped."""
    asked: list[str] = []
    has = preview._drawable

    def drawable(text: str, font: Any) -> str:  # noqa: ANN401 - Pillow is optional
        asked.append(text)
        return "" if len(asked) == 1 else has(text, font)

    monkeypatch.setattr(preview, "_drawable", drawable)
    monkeypatch.setattr(preview, "_WIDE_FONTS", ("none.ttf", "DejaVuSans.ttf"))
    preview._font_for("dog", 20)
    assert len(asked) in {1, 2}  # without DejaVu there is nothing else to try


async def test_margins_are_in_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed from a shape is rounded for people."""
    texts: list[str] = []
    monkeypatch.setattr(preview, "_plate", lambda _draw, _layout, _at, text: texts.append(text))
    render(await red(), Margins(left=0.09167, right=0.5))
    assert texts == ["left 9.2%\n+55 px", "right 50%\n+300 px"]
