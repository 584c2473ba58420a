"""Margins: how far an image grows on each side, and the rules that bound it.

A margin is a share of the source's own height (up, down) or width (left, right). The limits
are those of Kling's "Image expansion" page
(https://klingai.com/document-api/api/image/common/outpainting): each margin within [0, 2],
and the new image at most three times the area of the old one.
"""

from __future__ import annotations

import math
import os
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import ClassVar, Literal, Protocol, runtime_checkable

import attrs

from comet_async.errors import InputError

MAX_MARGIN = 2
"""The largest margin on one side, as a share of the source's height or width."""

_LONGEST_SIDE = 65_535  # of a JPEG
_LEAST_PIXEL = 0.9
_HALF_PIXEL = Decimal("0.5") + Decimal("1e-12")  # 16:9 as a decimal is a hair off
_MOST_DIGITS = 40  # of a canvas that is text; Python reads a few thousand

MAX_AREA = 3
"""The largest area of the new image, as a multiple of the old one's."""

AREA_TOLERANCE = Decimal("1e-6")
"""Slack for the area rule: margins written with few decimals may pass it by a hair."""

Anchor = Literal[
    "center", "top", "bottom", "left", "right",
    "top-left", "top-right", "bottom-left", "bottom-right",
]  # fmt: skip
"""Where the source sits on the new canvas."""

# Shares of the added width that go to the left, and of the added height that go above.
_ANCHORS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top-left": (0.0, 0.0),
    "top-right": (1.0, 0.0),
    "bottom-left": (0.0, 1.0),
    "bottom-right": (1.0, 1.0),
}


@runtime_checkable
class MarginRule(Protocol):
    """Anything that turns an image's size into margins."""

    def resolve(self, width: int, height: int) -> Margins:
        """Return the margins for an image of *width* × *height* pixels.

        Raises:
            InputError: The rule can't be kept for this size.
        """
        ...


@attrs.frozen(kw_only=True)
class Sides:
    """Whole pixels added on each side."""

    up: int
    down: int
    left: int
    right: int


def _check_share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InputError(
            f"{name} must be a number, not {type(value).__name__}",
            field=name,
            value=value,
            limit="a number from 0 to 2",
            hint="give a share: 0.5 adds half of the side",
        )
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a huge whole number; a signalling NaN
        number = math.nan
    if not math.isfinite(number) or not 0 <= number <= MAX_MARGIN:
        raise InputError(
            f"{name}={number} is outside 0 to {MAX_MARGIN}",
            field=name,
            value=number,
            limit=f"0 to {MAX_MARGIN} (a share of the image's own side)",
            hint="give a share: 0.5 adds half of the side",
        )
    return number + 0.0  # -0.0 becomes 0.0


def _exact(share: float) -> Decimal:
    """Return the number a person wrote: 0.1 is one tenth, not its binary neighbour."""
    return Decimal(repr(float(share)))


@attrs.frozen
class Margins:
    """How far the image grows, as shares of its own height (up, down) and width (left, right).

    Each is within [0, 2]; ``(1 + up + down) × (1 + left + right)`` is at most 3.

    Attributes:
        up: Share of the height added above; 0.0 by default.
        down: Share of the height added below; 0.0 by default.
        left: Share of the width added at the left; 0.0 by default.
        right: Share of the width added at the right; 0.0 by default.

    Raises:
        InputError: A share is not a finite number within [0, 2], or the area passes 3.
    """

    up: float = 0.0
    down: float = 0.0
    left: float = 0.0
    right: float = 0.0

    def __attrs_post_init__(self) -> None:
        for name in ("up", "down", "left", "right"):
            object.__setattr__(self, name, _check_share(name, getattr(self, name)))
        if _area(self) > MAX_AREA + AREA_TOLERANCE:
            area = float(_area(self))
            raise InputError(
                f"the new image would have {area:.7g} times the area; at most {MAX_AREA}",
                field="margins",
                value=f"up={self.up} down={self.down} left={self.left} right={self.right}",
                limit=f"(1 + up + down) × (1 + left + right) ≤ {MAX_AREA}",
                hint="make the margins smaller",
            )

    @property
    def area(self) -> float:
        """The new image's area as a multiple of the old one's."""
        return float(_area(self))

    @property
    def empty(self) -> bool:
        """True when nothing is added."""
        return not (self.up or self.down or self.left or self.right)

    def resolve(self, width: int, height: int) -> Margins:  # noqa: ARG002 - the protocol's names
        """Return these margins: they are their own rule."""
        return self

    @classmethod
    def uniform(cls, share: float) -> Margins:
        """Return the same margin on all four sides.

        Args:
            share: 0 to about 0.366, where the area reaches 3.
        """
        return cls(share, share, share, share)

    @staticmethod
    def for_aspect(aspect: str | float, *, anchor: Anchor = "center") -> MarginRule:
        """Return the rule that grows any image to *aspect*, adding as little as possible.

        It only adds: an image that is too wide grows in height, one too tall in width.

        Args:
            aspect: Width to height: ``"16:9"``, ``"3/2"``, ``1.5`` or ``"1.5"``.
            anchor: Where the image sits; in the middle by default.

        Raises:
            InputError: *aspect* or *anchor* can't be read.
        """
        short = isinstance(aspect, str) and len(aspect) <= _MOST_DIGITS
        return AspectRule(
            aspect=parse_aspect(aspect),
            anchor=_check_anchor(anchor),
            named=str(aspect).strip() if short else "",
        )

    @staticmethod
    def for_size(width: int, height: int, *, anchor: Anchor = "center") -> MarginRule:
        """Return the rule that grows an image to a canvas of *width* × *height* pixels.

        The server scales its result, so the *shape* is what this fixes.

        Args:
            width: Canvas width in pixels; at least the image's.
            height: Canvas height in pixels; at least the image's.
            anchor: Where the image sits; in the middle by default.

        Raises:
            InputError: A side is not a positive whole number, or *anchor* can't be read.
        """
        return SizeRule(
            width=_check_pixels("width", width, least=1),
            height=_check_pixels("height", height, least=1),
            anchor=_check_anchor(anchor),
        )

    @staticmethod
    def for_pixels(up: int = 0, down: int = 0, left: int = 0, right: int = 0) -> MarginRule:
        """Return the rule that adds whole pixels on each side, counted in the source's pixels.

        Raises:
            InputError: A number is negative or not whole.
        """
        return PixelRule(
            up=_check_pixels("up", up),
            down=_check_pixels("down", down),
            left=_check_pixels("left", left),
            right=_check_pixels("right", right),
        )


def _area(margins: Margins) -> Decimal:
    # In decimals: (1 + .1 + .1) × (1 + .75 + .75) is 3, in floats it is a hair more.
    return (1 + _exact(margins.up) + _exact(margins.down)) * (
        1 + _exact(margins.left) + _exact(margins.right)
    )


@attrs.frozen(kw_only=True)
class AspectRule:
    """Grow to a shape; made by `Margins.for_aspect`."""

    aspect: Decimal
    anchor: Anchor = "center"
    named: str = attrs.field(default="", eq=False, repr=False)  # as the caller wrote it

    def resolve(self, width: int, height: int) -> Margins:
        """Return the least margins that give the shape; see `MarginRule.resolve`."""
        what = f"aspect {self.named or f'{float(self.aspect):.4g}'}"
        wide, tall = Decimal(height) * self.aspect, Decimal(width) / self.aspect
        # 1024x683 is 3:2 as near as whole pixels can be: one more would be paid for nothing.
        off = abs(tall - height) if self.aspect >= 1 else abs(wide - width)
        if off <= _HALF_PIXEL:
            return Margins()
        if wide > width:
            tall = Decimal(height)
        else:
            wide = Decimal(width)
        return _grow((width, height), (wide, tall), self.anchor, what)


@attrs.frozen(kw_only=True)
class SizeRule:
    """Grow to a canvas; made by `Margins.for_size`."""

    counts_pixels: ClassVar[bool] = True
    width: int
    height: int
    anchor: Anchor = "center"

    def resolve(self, width: int, height: int) -> Margins:
        """Return the margins that give the canvas; see `MarginRule.resolve`."""
        if self.width < width or self.height < height:
            canvas = f"{self.width}x{self.height}"
            raise InputError(
                f"a canvas of {canvas} is smaller than the {width}x{height} image",
                field="size",
                value=canvas,
                limit=f"at least {width}x{height}",
                hint=_scale_instead(Decimal(self.width), Decimal(self.height)),
            )
        what = f"size {self.width}x{self.height}"
        wanted = Decimal(self.width), Decimal(self.height)
        return _grow((width, height), wanted, self.anchor, what)


@attrs.frozen(kw_only=True)
class PixelRule:
    """Add whole pixels; made by `Margins.for_pixels`."""

    counts_pixels: ClassVar[bool] = True
    up: int = 0
    down: int = 0
    left: int = 0
    right: int = 0

    def resolve(self, width: int, height: int) -> Margins:
        """Return the pixels as shares; see `MarginRule.resolve`."""
        return Margins(
            _share(Decimal(self.up) / height),
            _share(Decimal(self.down) / height),
            _share(Decimal(self.left) / width),
            _share(Decimal(self.right) / width),
        )


def _share(value: Decimal) -> float:
    if value > MAX_MARGIN:
        return float(value)  # to be refused with its own figure
    # Six decimals: finer than a hundredth of a pixel of any image that the API takes.
    # Rounded down, so that rounding never passes a limit.
    return float(value.quantize(Decimal("1e-6"), ROUND_DOWN))


def _half_up(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_UP))


def _grow(
    image: tuple[int, int], wanted: tuple[Decimal, Decimal], anchor: Anchor, what: str
) -> Margins:
    """Return the margins that add whole pixels around *image* to reach about *wanted*."""
    width, height = image
    add_x, add_y = _half_up(wanted[0] - width), _half_up(wanted[1] - height)
    # In whole pixels: 9:7 around 300x700 is 900 wide, but a hair more in decimals.
    if (width + add_x) * (height + add_y) > MAX_AREA * width * height:
        raise _too_large(image, wanted, what)
    shift_x, shift_y = _ANCHORS[anchor]
    left, up = math.floor(add_x * shift_x), math.floor(add_y * shift_y)
    return Margins(
        _share(Decimal(up) / height),
        _share(Decimal(add_y - up) / height),
        _share(Decimal(left) / width),
        _share(Decimal(add_x - left) / width),
    )


def _too_large(image: tuple[int, int], wanted: tuple[Decimal, Decimal], what: str) -> InputError:
    width, height = image
    area = float(wanted[0] * wanted[1] / width / height)
    field, _, value = what.partition(" ")
    return InputError(
        f"{what} needs {area:.4g} times the area of the {width}x{height} image; at most {MAX_AREA}",
        field=field,
        value=value,
        limit=f"at most {MAX_AREA} times the area",
        hint=_scale_instead(*wanted) if field == "size" else "choose a shape nearer to the image's",
    )


def _scale_instead(width: Decimal, height: Decimal) -> str:
    """Return what to do about a canvas of an impossible size: expand to its shape, then scale."""
    divisor = math.gcd(int(width), int(height))
    shape = f"{int(width) // divisor}:{int(height) // divisor}"
    return f'expansion only adds: use Margins.for_aspect("{shape}"), and scale the result'


def parse_aspect(aspect: str | float) -> Decimal:
    """Return width ÷ height of ``"16:9"``, ``"3/2"``, ``"1.5"`` or ``1.5``.

    Raises:
        InputError: It is not a positive, finite ratio.
    """
    try:
        if isinstance(aspect, str):
            first, colon, second = aspect.replace("/", ":").partition(":")
            ratio = Decimal(first.strip()) / Decimal(second.strip() if colon else "1")
        else:
            ratio = Decimal(0 if isinstance(aspect, bool) else repr(float(aspect)))
    except (ArithmeticError, ValueError, TypeError):
        ratio = Decimal(0)
    # Far beyond any image's; it keeps the sums that follow from overflowing.
    if not ratio.is_finite() or not Decimal("1e-6") <= ratio <= Decimal("1e6"):
        raise InputError(
            f"aspect {aspect!r} is not a ratio of width to height",
            field="aspect",
            value=aspect,
            limit="two positive numbers",
            hint="write it like 16:9",
        )
    return ratio


def _check_anchor(anchor: str) -> Anchor:
    if anchor not in tuple(_ANCHORS):  # not hashed: it may be anything
        limit = "one of " + ", ".join(_ANCHORS)
        raise InputError(
            f"anchor {anchor!r} is unknown", field="anchor", value=anchor, limit=limit, hint=limit
        )
    return anchor  # type: ignore[return-value]  # the line above is the check


def _check_pixels(name: str, value: object, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"{name}={value!r} must be a whole number of pixels, at least {least}",
            field=name,
            value=value,
            limit=f"a whole number ≥ {least}",
            hint="round it: whether up or down depends on what it is for",
        )
    return value


def as_rule(margins: object) -> MarginRule:
    """Return *margins* as a rule: ``"16:9"`` is a shape, ``"1920x1080"`` a canvas.

    Raises:
        InputError: It is neither `Margins`, nor a rule, nor text that can be read.
    """
    # Plain margins first: the other check takes ten times as long.
    if isinstance(margins, Margins):
        return margins
    if isinstance(margins, MarginRule) and not isinstance(margins, os.PathLike):
        return margins  # a Path has a `resolve`, too
    if not isinstance(margins, str):
        raise InputError(
            f"margins must be Margins, a rule such as Margins.for_aspect, or text such as '16:9', "
            f"not {margins!r}",
            field="margins",
            value=margins,
            limit="Margins, text, or an object with resolve()",
        )
    width, x, height = margins.strip().lower().partition("x")
    short = len(width) + len(height) <= _MOST_DIGITS
    if x and short and width.isdecimal() and height.isdecimal():
        return Margins.for_size(int(width), int(height))
    return Margins.for_aspect(margins)


def counts_pixels(rule: MarginRule) -> bool:
    """Return True for a rule in pixels, which are those of the image as the caller knows it.

    An image that was scaled before it is sent has others.
    """
    return getattr(rule, "counts_pixels", False)


def check_pixels(margins: Margins, width: int | None = None, height: int | None = None) -> None:
    """Refuse margins of less than a pixel: they would be paid for, and add nothing.

    Args:
        margins: The margins.
        width: The image's width, if it is known.
        height: The image's height, if it is known.

    Raises:
        InputError: A margin is above 0, and below a pixel of the image, or of any image.
    """
    known = width is not None and height is not None
    image = f"an image of {width}x{height}" if known else "any image"
    for name, side in (("up", height), ("down", height), ("left", width), ("right", width)):
        share, side = getattr(margins, name), side or _LONGEST_SIDE  # noqa: PLW2901 - its default
        # Rules round their shares down, so that one pixel may be a hair less.
        if 0 < share * side < _LEAST_PIXEL:
            raise InputError(
                f"{name}={share} is less than a pixel of {image}",
                field=name,
                value=share,
                limit=f"0, or at least {1 / side:.2g}",
                hint="make it larger, or leave it out",
            )


def added_pixels(width: int, height: int, margins: Margins) -> Sides:
    """Return the whole pixels that *margins* add to an image of *width* × *height*.

    Each side is rounded on its own, half up, in decimals: ``round()`` would take the even
    neighbour, and binary products are off by a hair.
    """

    def pixels(side: int, share: float) -> int:
        return _half_up(side * _exact(share))

    return Sides(
        up=pixels(height, margins.up),
        down=pixels(height, margins.down),
        left=pixels(width, margins.left),
        right=pixels(width, margins.right),
    )


def canvas_size(width: int, height: int, margins: Margins) -> tuple[int, int]:
    """Return the width and height in pixels of the canvas around an image."""
    sides = added_pixels(width, height, margins)
    return width + sides.left + sides.right, height + sides.up + sides.down
