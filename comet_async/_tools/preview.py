"""An image of the canvas before anything is paid: the photo in its place, the new area hatched.

Rule of this file: Pillow is imported inside functions only, because it is an extra.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

import attrs

from comet_async._images.prepare import eight_bits, on_white, upright
from comet_async._images.rules import ImageRules, show
from comet_async.errors import InputError, MissingExtraError
from comet_async.geometry import MAX_AREA, MarginRule, Margins, added_pixels, canvas_size
from comet_async.requests import resolve_for

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from comet_async._images.source import SourceImage


_PAPER, _INK, _FAINT = "#ffffff", "#1f2933", "#7b8794"
_NEW, _HATCH, _EDGE = "#e8eef6", "#c5d3e6", "#2f6fde"
_PAD = 40
_TITLE, _TEXT = 26, 19
_LEAST_WIDE = 1000  # or the words meet
_MOST_TALL = 1.1  # of the width: a tall canvas still fits on a screen
_STEP = 14
# Fonts with the letters of East Asia, as Linux, macOS and Windows call them.
_WIDE_FONTS = (
    "NotoSansCJK-Bold.ttc",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "unifont.otf",
)
_NO_LETTER = "\U0010ffff"  # Unicode promises that it never is one: fonts draw a box for it
_FINE = 3  # lines are drawn larger and scaled down, or diagonals show steps


@attrs.frozen(kw_only=True)
class _Layout:
    """Where things are, in pixels of the preview.

    Attributes:
        width: Of the whole preview.
        height: Of the whole preview.
        canvas: Left, top, right and bottom of the canvas.
        photo: The same of the photo.
    """

    width: int
    height: int
    canvas: tuple[int, int, int, int]
    photo: tuple[int, int, int, int]

    @classmethod
    def of(cls, size: tuple[int, int], margins: Margins, width: int) -> _Layout:
        """Return the layout for a photo of *size*."""
        canvas, sides = canvas_size(*size, margins), added_pixels(*size, margins)
        left, top = _PAD + 2 * _TEXT, _PAD + 5 * _TEXT
        room = width - left - _PAD
        scale = min(room / canvas[0], _MOST_TALL * room / canvas[1])
        wide, tall = round(canvas[0] * scale), round(canvas[1] * scale)
        left += (room - wide) // 2
        x, y = left + round(sides.left * scale), top + round(sides.up * scale)
        return cls(
            width=width,
            height=top + tall + 3 * _TEXT + _PAD,
            canvas=(left, top, left + wide, top + tall),
            photo=(x, y, x + round(size[0] * scale), y + round(size[1] * scale)),
        )


def render(image: SourceImage, margins: MarginRule, *, width: int = 1200) -> bytes:
    """Return a PNG that shows *image* on the canvas that *margins* ask for. Takes its time.

    Args:
        image: A loaded image; not one that is a URL.
        margins: `Margins`, or a rule such as ``Margins.for_aspect("16:9")``.
        width: Width of the PNG in pixels; 1200 by default, and at least 1000.

    Raises:
        InputError: The rule can't be kept for this image, or it can't be decoded.
        MissingExtraError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("a preview needs Pillow", extra="images")
    from PIL import Image, ImageDraw  # noqa: PLC0415 - an extra

    if image.width is None or image.height is None:
        what, hint = "is a URL, whose size is not known here", "download it, and name the file"
        raise ImageRules(source=image.source).refuse(what, limit="a file", hint=hint)
    size = image.width, image.height
    resolved = resolve_for(margins, image, *size)
    layout = _Layout.of(size, resolved, max(width, _LEAST_WIDE))
    page = Image.new("RGB", (layout.width, layout.height), _PAPER)
    _draw_canvas(page, layout, _photo(image, layout.width))
    _draw_sizes(page, layout, canvas_size(*size, resolved))
    _draw_words(page, layout, _name(image), size, resolved)
    _draw_margins(ImageDraw.Draw(page), layout, size, resolved)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _name(image: SourceImage) -> str:
    return show(PurePath(image.source).name if image.path else image.source)


def _photo(source: SourceImage, enough: int) -> Image:
    from PIL import Image  # noqa: PLC0415 - an extra

    try:
        with source.open() as file, Image.open(file) as image:
            image.draft("RGB", (enough, enough))  # a large JPEG is decoded smaller, and faster
            turned = upright(image)
    except InputError:
        raise
    except Exception as exc:  # decoders raise whatever damaged bytes lead them to
        check = ImageRules(source=source.source)
        what = f"can't be decoded: {type(exc).__name__}: {exc}"
        raise check.refuse(what, limit="an undamaged image", hint="save it again") from exc
    plain, _ = eight_bits(turned, turned.info.get("icc_profile"), [])
    return on_white(plain.convert("RGBA"))


# ---------------------------------------------------------------------------- images


def _hatched(width: int, height: int) -> Image:
    from PIL import Image, ImageDraw  # noqa: PLC0415 - an extra

    fine = Image.new("RGB", (width * _FINE, height * _FINE), _NEW)
    draw = ImageDraw.Draw(fine)
    for at in range(-fine.height, fine.width, _STEP * _FINE):
        draw.line((at, fine.height, at + fine.height, 0), fill=_HATCH, width=2 * _FINE)
    return fine.resize((width, height), Image.Resampling.LANCZOS)


def _draw_canvas(page: Image, layout: _Layout, photo: Image) -> None:
    from PIL import Image, ImageDraw  # noqa: PLC0415 - an extra

    left, top, right, bottom = layout.canvas
    page.paste(_hatched(right - left, bottom - top), (left, top))
    left, top, right, bottom = layout.photo
    page.paste(photo.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(page)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_PAPER, width=2)
    left, top, right, bottom = layout.canvas
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_EDGE, width=2)


# ---------------------------------------------------------------------------- words


def _font(size: int, *, bold: bool = False) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont  # noqa: PLC0415 - an extra

    try:
        # On most Linux machines, with letters for most languages' file names.
        return ImageFont.truetype(f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)
    except OSError:
        return ImageFont.load_default(size)  # Latin letters only


def _font_for(text: str, size: int) -> FreeTypeFont | ImageFont:
    """Return the first bold font that has all of *text*, or the usual one if none has."""
    from PIL import ImageFont  # noqa: PLC0415 - an extra

    usual = _font(size, bold=True)
    if _drawable(text, usual) == text:
        return usual
    for name in _WIDE_FONTS:
        with contextlib.suppress(OSError):
            font = ImageFont.truetype(name, size)
            if _drawable(text, font) == text:
                return font
    return usual


def _drawable(text: str, font: FreeTypeFont | ImageFont) -> str:
    """Return *text* with escapes for letters that *font* lacks: they would be boxes."""

    def drawn(letter: str) -> bytes:
        # A core image has the buffer protocol at run time, though Pillow's types don't say so.
        return bytes(cast("bytes", font.getmask(letter)))

    try:
        box = drawn(_NO_LETTER)
        lacks = {letter for letter in set(text) if drawn(letter) == box}
    except UnicodeError:  # Pillow without FreeType: Latin letters only
        lacks = {letter for letter in set(text) if not letter.isascii()}
    return "".join(ascii(letter)[1:-1] if letter in lacks else letter for letter in text)


def _draw_words(
    page: Image, layout: _Layout, name: str, size: tuple[int, int], margins: Margins
) -> None:
    from PIL import ImageDraw  # noqa: PLC0415 - an extra

    draw, faint = ImageDraw.Draw(page), _font(_TEXT)
    line = _PAD + 2 * _TEXT
    room = layout.width - 2 * _PAD
    font = _font_for(name, _TITLE)
    title = _drawable(name, font)
    fitting = min(_TITLE, int(_TITLE * room / draw.textlength(title, font)))
    draw.text((_PAD, _PAD), title, _INK, _font_for(name, fitting), anchor="ls")
    shapes = f"{_shape(size)}  becomes  {_shape(canvas_size(*size, margins))}"
    draw.text((_PAD, line), shapes, _FAINT, faint, anchor="ls")
    area = f"{margins.area:.2f} times the area (at most {MAX_AREA})"
    draw.text((layout.width - _PAD, line), area, _FAINT, faint, anchor="rs")
    line = layout.height - _PAD
    page.paste(_hatched(2 * _TEXT, _TEXT), (_PAD, line - _TEXT))
    draw.rectangle((_PAD, line - _TEXT, _PAD + 2 * _TEXT, line), outline=_EDGE, width=2)
    note = "will be painted. The server scales its result; the shape is as shown here."
    draw.text((_PAD + 3 * _TEXT, line - 3), note, _FAINT, faint, anchor="ls")


def _shape(size: tuple[int, int]) -> str:
    width, height = size
    ratio = f"{width / height:.2f}:1" if width >= height else f"1:{height / width:.2f}"
    return f"{width} x {height} px ({ratio})"


def _draw_sizes(page: Image, layout: _Layout, canvas: tuple[int, int]) -> None:
    """Draw the canvas's width above it, and its height at its left, as on a plan."""
    left, top, right, bottom = layout.canvas
    across, down = _measure(right - left, canvas[0]), _measure(bottom - top, canvas[1])
    page.paste(across, (left, top - _TEXT - across.height // 2))
    down = down.rotate(90, expand=True)
    page.paste(down, (left - _TEXT - down.width // 2, top))


def _measure(length: int, pixels: int) -> Image:
    """Return a dimension line of *length* that says *pixels*."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - an extra

    line = Image.new("RGB", (length, _TEXT + 6), _PAPER)
    draw, middle = ImageDraw.Draw(line), line.height // 2
    font, text = _font(_TEXT), f"{pixels} px"
    gap = draw.textlength(text, font) / 2 + 10
    draw.line((0, middle, length / 2 - gap, middle), _FAINT, 2)
    draw.line((length / 2 + gap, middle, length, middle), _FAINT, 2)
    for end in (1, length - 2):
        draw.line((end, middle - 6, end, middle + 6), _FAINT, 2)
    draw.text((length / 2, middle), text, _INK, font, anchor="mm")
    return line


def _draw_margins(
    draw: ImageDraw, layout: _Layout, size: tuple[int, int], margins: Margins
) -> None:
    """Write in the middle of each new strip how wide it is."""
    left, top, right, bottom = layout.canvas
    inner = layout.photo
    middle_x, middle_y = (inner[0] + inner[2]) // 2, (inner[1] + inner[3]) // 2
    sides = added_pixels(*size, margins)
    for side, share, pixels, place in (
        ("up", margins.up, sides.up, (middle_x, (top + inner[1]) // 2)),
        ("down", margins.down, sides.down, (middle_x, (bottom + inner[3]) // 2)),
        ("left", margins.left, sides.left, ((left + inner[0]) // 2, middle_y)),
        ("right", margins.right, sides.right, ((right + inner[2]) // 2, middle_y)),
    ):
        if share:
            _plate(draw, layout, place, f"{side} {_percent(share)}\n+{pixels} px")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def _plate(draw: ImageDraw, layout: _Layout, centre: tuple[int, int], text: str) -> None:
    """Write *text* on a plate, as near to *centre* as the canvas allows."""
    font = _font(_TEXT)
    box = draw.multiline_textbbox((0, 0), text, font, anchor="mm", align="center", spacing=6)
    wide, tall = (box[2] - box[0]) / 2 + 12, (box[3] - box[1]) / 2 + 9
    left, top, right, bottom = layout.canvas
    x = min(max(centre[0], left + wide + 6), right - wide - 6)
    y = min(max(centre[1], top + tall + 6), bottom - tall - 6)
    draw.rounded_rectangle((x - wide, y - tall, x + wide, y + tall), 9, _PAPER, _EDGE, 2)
    draw.multiline_text((x, y), text, _INK, font, anchor="mm", align="center", spacing=6)
