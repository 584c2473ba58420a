"""Margins, the rules that bound them, and the canvas that they make."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from comet_async.errors import InputError
from comet_async.geometry import (
    Anchor,
    MarginRule,
    Margins,
    Sides,
    added_pixels,
    as_rule,
    canvas_size,
    check_pixels,
    parse_aspect,
)

SIDES = ("up", "down", "left", "right")
ANCHORS: tuple[Anchor, ...] = (
    "center", "top", "bottom", "left", "right",
    "top-left", "top-right", "bottom-left", "bottom-right",
)  # fmt: skip
LENGTHS = st.integers(300, 20_000)
SHARES = st.floats(0, 2)


@st.composite
def images(draw: st.DrawFn) -> tuple[int, int]:
    """Draw the width and height of an image that the API takes."""
    short = draw(st.integers(300, 8000))
    long = draw(st.integers(short, short * 5 // 2))
    return (short, long) if draw(st.booleans()) else (long, short)


def values(margins: Margins) -> list[float]:
    """Return up, down, left and right."""
    return [getattr(margins, side) for side in SIDES]


def refused(make: Any, *args: Any, **options: Any) -> InputError:  # noqa: ANN401 - wrong types are a subject here
    """Return the error of a call; it names field, value and limit, on one line."""
    with pytest.raises(InputError) as caught:
        make(*args, **options)
    error = caught.value
    assert error.field
    assert error.value
    assert error.limit
    assert "\n" not in str(error)
    return error


# ---------------------------------------------------------------------------- margins


@given(SHARES, SHARES, SHARES, SHARES)
def test_area_decides(up: float, down: float, left: float, right: float) -> None:
    """Four legal shares are taken if, and only if, the area stays within 3."""
    exact = (1 + Fraction(up) + Fraction(down)) * (1 + Fraction(left) + Fraction(right))
    assume(abs(exact - 3) > Fraction(1, 10**5))  # at the limit: see below
    if exact < 3:
        margins = Margins(up, down, left, right)
        assert values(margins) == [up, down, left, right]
        assert margins.area == pytest.approx(float(exact))
    else:
        assert refused(Margins, up, down, left, right).field == "margins"


@pytest.mark.parametrize(
    "shares",
    [
        (2.0, 0, 0, 0),
        (0, 0, 0, 2.0),
        (0.1, 0.1, 0.75, 0.75),  # in floats 3.0000000000000004
        (0.1495, 0.1495, 0.6547, 0.6547),  # the provider's own example
        (0.5, 0.5, 0.25, 0.25),
        (Decimal("0.1"), Decimal("0.1"), Decimal("0.75"), Decimal("0.75")),
        (2, 0, 0, 0),
    ],
)
def test_the_limit_is_inclusive(shares: tuple[float, float, float, float]) -> None:
    """Exactly three times the area is not too much, however it is written."""
    assert Margins(*shares).area <= 3.000001


def test_a_hair_of_rounding_is_forgiven() -> None:
    """Margins with few decimals may pass the limit by less than a millionth."""
    assert Margins.uniform(0.366025404).area > 3
    assert "at most 3" in str(refused(Margins, 1.0, 0.0, 0.25, 0.25001))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "value",
    [-0.0001, 2.0001, math.nan, math.inf, -math.inf, "0.3", None, True, 1j, [], 10**400]
    + [Decimal(word) for word in ("NaN", "sNaN", "Infinity", "1e999")],
    ids=repr,
)
def test_shares_that_are_none(side: str, value: Any) -> None:  # noqa: ANN401 - wrong types are the subject
    """A share is a finite number from 0 to 2; the error names the side."""
    with pytest.raises(InputError) as caught:
        Margins(**{side: value})
    assert caught.value.field == side
    assert side in caught.value.message
    assert caught.value.limit
    assert caught.value.hint
    assert caught.value.sent is False


def test_shares_are_floats() -> None:
    """Whole numbers and decimals become floats, and no zero is negative."""
    margins = Margins(up=1, down=Decimal("0.25"), left=-0.0, right=0)  # type: ignore[arg-type]  # a Decimal is taken
    assert [type(value) for value in values(margins)] == [float] * 4
    assert math.copysign(1, margins.left) == 1


def test_margins_are_a_fact() -> None:
    """They compare, hash and pickle by value, and do not change."""
    margins = Margins(0.1, 0.2, 0.3, 0.4)
    assert margins == pickle.loads(pickle.dumps(margins))  # noqa: S301 - our own bytes
    assert len({margins, Margins(0.1, 0.2, 0.3, 0.4), Margins()}) == 2
    with pytest.raises(AttributeError):
        margins.up = 0.5  # type: ignore[misc]  # what is tested


def test_empty() -> None:
    """Nothing added is distinguished from a little."""
    assert Margins().empty
    assert not Margins(right=0.001).empty


@given(images())
def test_margins_are_their_own_rule(size: tuple[int, int]) -> None:
    """Wherever a rule is taken, margins are taken."""
    margins = Margins.uniform(0.3)
    assert margins.resolve(*size) is margins
    assert isinstance(margins, MarginRule)
    assert values(margins) == [0.3] * 4


# ---------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("size", "shares", "sides", "canvas"),
    [
        ((640, 427), (0.3, 0.3, 0.3, 0.3), (128, 128, 192, 192), (1024, 683)),
        ((1024, 683), (0.1495, 0.1495, 0.6547, 0.6547), (102, 102, 670, 670), (2364, 887)),
        ((1024, 683), (0, 0, 0.5, 0.5), (0, 0, 512, 512), (2048, 683)),
        ((1025, 685), (0.5, 0.5, 0.25, 0.25), (343, 343, 256, 256), (1537, 1371)),
        ((300, 300), (2, 0, 0, 0), (600, 0, 0, 0), (300, 900)),
        ((300, 300), (0.001, 0, 0, 0), (0, 0, 0, 0), (300, 300)),
    ],
)
def test_known_canvases(
    size: tuple[int, int],
    shares: tuple[float, float, float, float],
    sides: tuple[int, int, int, int],
    canvas: tuple[int, int],
) -> None:
    """Each side is rounded on its own, halves upward."""
    margins = Margins(*shares)
    found = added_pixels(*size, margins)
    assert (found.up, found.down, found.left, found.right) == sides
    assert canvas_size(*size, margins) == canvas


@given(LENGTHS, st.integers(0, 20_000))
def test_rounding_is_half_up_in_decimals(length: int, digits: int) -> None:
    """The number that a person writes counts, not its binary neighbour."""
    written = Decimal(digits) / 10_000
    expected = math.floor(Fraction(length) * Fraction(written) + Fraction(1, 2))
    assert added_pixels(300, length, Margins(up=float(written))).up == expected
    assert added_pixels(length, 300, Margins(right=float(written))).right == expected


# ---------------------------------------------------------------------------- rules

ASPECTS = st.one_of(
    st.tuples(st.integers(1, 32), st.integers(1, 32)).map("{0[0]}:{0[1]}".format),
    st.floats(0.2, 5).map(lambda value: round(value, 3)),
)


def resolved(rule: MarginRule, size: tuple[int, int]) -> Margins | None:
    """Return the margins, or None where the rule needs more than three times the area."""
    try:
        margins = rule.resolve(*size)
    except InputError as exc:
        if exc.limit == "at most 3 times the area" and exc.hint:
            return None
        raise
    assert all(0 <= share <= 2 for share in values(margins))
    assert margins.area <= 3.000001
    return margins


@given(ASPECTS, images(), st.sampled_from(ANCHORS))
def test_aspect_is_reached_by_adding(
    aspect: str | float, size: tuple[int, int], anchor: Anchor
) -> None:
    """One direction grows, to the pixel; the other stays as it is."""
    margins = resolved(Margins.for_aspect(aspect, anchor=anchor), size)
    wanted = float(parse_aspect(aspect))
    growth = max(wanted * size[1] / size[0], size[0] / wanted / size[1])
    assert (margins is not None) == (growth <= 3) or growth == pytest.approx(3, abs=0.002)
    assume(margins is not None)
    assert margins is not None
    width, height = canvas_size(*size, margins)
    assert width == size[0] or height == size[1]
    assert abs(width - wanted * height) <= max(1, wanted) / 2 + 1e-6


@given(images(), st.data(), st.sampled_from(ANCHORS))
def test_canvas_of_a_size_is_exact(
    size: tuple[int, int], data: st.DataObject, anchor: Anchor
) -> None:
    """A canvas in pixels is met to the pixel."""
    width = data.draw(st.integers(size[0], 3 * size[0]))
    height = data.draw(st.integers(size[1], 3 * size[1]))
    margins = resolved(Margins.for_size(width, height, anchor=anchor), size)
    assert (margins is not None) == (width * height <= 3 * size[0] * size[1])
    if margins is not None:
        assert canvas_size(*size, margins) == (width, height)


@given(images(), st.data())
def test_pixels_are_exact(size: tuple[int, int], data: st.DataObject) -> None:
    """Pixels become shares that become the same pixels."""
    across, down = st.integers(0, size[0] // 3), st.integers(0, size[1] // 3)
    up, below = data.draw(down), data.draw(down)
    left, right = data.draw(across), data.draw(across)
    margins = Margins.for_pixels(up, below, left, right).resolve(*size)
    assert added_pixels(*size, margins) == Sides(up=up, down=below, left=left, right=right)


@given(images(), st.integers(0, 300), st.integers(0, 300))
def test_anchors_place_the_image(size: tuple[int, int], more_x: int, more_y: int) -> None:
    """The anchor says at which edge nothing is added; the middle is exact to a pixel."""
    for anchor in ANCHORS:
        rule = Margins.for_size(size[0] + more_x, size[1] + more_y, anchor=anchor)
        margins = resolved(rule, size)
        if margins is None:
            continue
        sides = added_pixels(*size, margins)
        for word, none, all_, more in (
            ("top", sides.up, sides.down, more_y),
            ("bottom", sides.down, sides.up, more_y),
            ("left", sides.left, sides.right, more_x),
            ("right", sides.right, sides.left, more_x),
        ):
            if word in anchor.split("-"):
                assert (none, all_) == (0, more)
        if anchor == "center":
            assert abs(sides.up - sides.down) <= 1
            assert abs(sides.left - sides.right) <= 1


def test_the_limit_of_a_rule_is_inclusive() -> None:
    """Three times the area can be asked for by shape, by size and by pixels."""
    for rule in (
        Margins.for_aspect("9:7"),
        Margins.for_size(900, 700),
        Margins.for_pixels(left=600),
    ):
        assert canvas_size(300, 700, rule.resolve(300, 700)) == (900, 700)


def test_no_growth_is_no_margin() -> None:
    """An image that has the shape already stays as it is."""
    assert Margins.for_aspect("4:3").resolve(400, 300).empty
    assert Margins.for_size(400, 300).resolve(400, 300).empty


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        *(("3:2", size) for size in ((1024, 683), (1000, 667), (640, 427), (1600, 1067))),
        *(("16:9", size) for size in ((1000, 563), (1000, 562), (600, 338), (1366, 768))),
        *(("2:3", size) for size in ((683, 1024), (667, 1000))),
        ("9:16", (563, 1000)),
    ],
)
def test_a_shape_is_reached_to_the_nearest_pixel(aspect: str, size: tuple[int, int]) -> None:
    """Sizes are whole pixels, so a rounded side is no reason to pay for one more."""
    assert Margins.for_aspect(aspect).resolve(*size).empty


def test_a_shape_that_is_missed_by_more_than_rounding() -> None:
    """The image grows, be it by a single pixel."""
    rule = Margins.for_aspect("3:2")
    for size, canvas in (((1024, 682), (1024, 683)), ((1022, 683), (1025, 683))):
        assert canvas_size(*size, rule.resolve(*size)) == canvas


@pytest.mark.parametrize(
    ("rule", "field", "message"),
    [
        (Margins.for_aspect("9:1"), "aspect", "aspect 9:1 needs 6.75 times the area"),
        (Margins.for_aspect(0.2), "aspect", "times the area of the 400x300 image"),
        (Margins.for_aspect(1e6), "aspect", "times the area"),
        (Margins.for_aspect(1e-6), "aspect", "times the area"),
        (Margins.for_size(2000, 2000), "size", "size 2000x2000 needs 33.33 times the area"),
        (Margins.for_size(10**200, 10**200), "size", "times the area"),
        (Margins.for_size(399, 900), "size", "is smaller than the 400x300 image"),
        (Margins.for_size(900, 299), "size", "is smaller than the 400x300 image"),
        (Margins.for_pixels(left=801), "left", "left=2.0025 is outside 0 to 2"),
        (Margins.for_pixels(up=300, left=300), "margins", "3.5 times the area; at most 3"),
        (Margins.for_pixels(right=10**400), "right", "outside 0 to 2"),
    ],
)
def test_rules_that_an_image_can_not_keep(rule: MarginRule, field: str, message: str) -> None:
    """The error names what was asked for, and the image."""
    error = refused(rule.resolve, 400, 300)
    assert error.field == field
    assert message in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("16:9", Fraction(16, 9)),
        ("3/2", Fraction(3, 2)),
        (" 21 : 9 ", Fraction(21, 9)),
        ("1.5", Fraction(3, 2)),
        ("2.39:1", Fraction(239, 100)),
        (1.5, Fraction(3, 2)),
        (2, Fraction(2)),
    ],
)
def test_aspects_that_can_be_read(text: str | float, ratio: Fraction) -> None:
    """Shapes are written in several ways."""
    assert float(parse_aspect(text)) == pytest.approx(float(ratio))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "16:", ":9", "16:9:4", "a:b", "16x9", "0:1", "1:0", "-16:9", "16:-9"),
        *("nan", "sNaN", "inf", "1:inf", "1e999999:1", "1:1e999999"),
        *(0, -1.5, math.nan, math.inf, None, [], 10**400, True),
    ],
    ids=repr,
)
def test_aspects_that_can_not_be_read(text: Any) -> None:  # noqa: ANN401 - wrong types are the subject
    """The error shows how to write one."""
    with pytest.raises(InputError, match="is not a ratio of width to height") as caught:
        Margins.for_aspect(text)
    assert caught.value.field == "aspect"
    assert caught.value.hint == "write it like 16:9"


@pytest.mark.parametrize("value", [-1, 1.5, "300", True], ids=repr)
def test_pixels_that_are_none(value: Any) -> None:  # noqa: ANN401 - wrong types are the subject
    """Pixels are whole and not negative; a canvas has at least one."""
    assert refused(Margins.for_pixels, up=value).field == "up"
    assert refused(Margins.for_size, value, 300).field == "width"
    assert refused(Margins.for_size, 300, 0).field == "height"


@pytest.mark.parametrize("anchor", ["middle", "", "TOP", None, "top-center"])
def test_anchors_that_are_unknown(anchor: Any) -> None:  # noqa: ANN401 - wrong types are the subject
    """The error lists the words that there are."""
    makers: Any = ((Margins.for_aspect, ("16:9",)), (Margins.for_size, (900, 900)))
    for make, args in makers:
        with pytest.raises(InputError, match="bottom-right") as caught:
            make(*args, anchor=anchor)
        assert caught.value.field == "anchor"


@pytest.mark.parametrize("share", [1e-320, 5e-324, 1e-9, 9.9e-7])
def test_margins_below_any_pixel_are_refused(share: float) -> None:
    """They would be paid for, and add nothing."""
    with pytest.raises(InputError, match="less than a pixel of any image") as caught:
        check_pixels(Margins(up=share))
    assert caught.value.field == "up"


def test_margins_below_a_pixel_of_the_image_are_refused() -> None:
    """How much a pixel is depends on the image; a pixel that a rule rounded down is one."""
    for name in ("up", "down"):
        with pytest.raises(InputError, match=f"{name}=0.001 is less than a pixel") as caught:
            check_pixels(Margins(**{name: 0.001}), 4000, 320)
        assert caught.value.limit == "0, or at least 0.0031"
    check_pixels(Margins(up=0.001), 320, 4000)
    for side in (301, 333, 4097, 65535):
        check_pixels(Margins.for_pixels(1, 0, 0, 1).resolve(side, side), side, side)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("16:9", Margins.for_aspect("16:9")),
        ("1.5", Margins.for_aspect(1.5)),
        ("3/2", Margins.for_aspect("3:2")),
        (" 1920x1080 ", Margins.for_size(1920, 1080)),
        ("800X600", Margins.for_size(800, 600)),
    ],
)
def test_margins_as_text(text: str, rule: MarginRule) -> None:
    """A shape or a canvas may be written as people say it."""
    assert as_rule(text) == rule
    assert as_rule(rule) is rule


@pytest.mark.parametrize(
    "wrong",
    [
        "wide",
        "",
        "16:0",
        "0x5",
        pytest.param("9" * 5000 + "x9", id="long"),
        16 / 9,
        None,
        ("16", "9"),
    ],
)
def test_margins_that_are_none(wrong: object) -> None:
    """What can't be read says how it is written."""
    with pytest.raises(InputError):
        as_rule(wrong)


def test_a_size_that_can_not_be_had_names_its_shape() -> None:
    """The shape is fine, the size is not: scaling comes after."""
    hint = 'use Margins.for_aspect("16:9"), and scale the result'
    for size in ((4032, 3024), (451, 300)):
        with pytest.raises(InputError) as caught:
            Margins.for_size(1920, 1080).resolve(*size)
        assert hint in str(caught.value.hint)
        assert caught.value.field == "size"
