"""The kind "expand": its fields, its rules, and the margins that need an image's size."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest

from comet_async._images.source import SourceImage
from comet_async.errors import InputError
from comet_async.geometry import MarginRule, Margins
from comet_async.models import JSON
from comet_async.requests import EXPAND, ExpandRequest

IMAGE = SourceImage(source="dog.png", sha256="ab", width=400, height=300, format="png")
URL = SourceImage(source="https://example.com/x", sha256="cd", url="https://example.com/x")
UP = Margins(up=0.5)


def request(**changes: Any) -> ExpandRequest:
    """Return a request with *changes*."""
    given: dict[str, Any] = {"image": "dog.png", "margins": UP}
    return ExpandRequest(**(given | changes))


def fields(made: ExpandRequest, image: SourceImage = IMAGE) -> dict[str, JSON]:
    """Return the JSON fields of a request for one image."""
    return made.fields({"image": image})


def test_kind() -> None:
    """The route and the published price of one image."""
    assert ExpandRequest.kind is EXPAND
    assert (EXPAND.name, EXPAND.path) == ("expand", "images/editing/expand")
    assert EXPAND.price == Decimal("0.028")


def test_least_request() -> None:
    """All four margins are sent as numbers, and n as a whole number; nothing else is needed."""
    assert fields(request()) == {
        "up_expansion_ratio": 0.5,
        "down_expansion_ratio": 0.0,
        "left_expansion_ratio": 0.0,
        "right_expansion_ratio": 0.0,
        "n": 1,
    }


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"prompt": "white sun"}, {"prompt": "white sun"}),
        ({"prompt": ""}, {}),
        ({"watermark": True}, {"watermark_info": {"enabled": True}}),
        ({"watermark": False}, {}),
        ({"callback_url": "https://me.example/cb", "external_task_id": "order-17"}, {}),
    ],
    ids=str,
)
def test_optional_fields(changes: dict[str, Any], more: dict[str, JSON]) -> None:
    """What decides the result is among the fields when it is set; ids and callbacks are not."""
    assert fields(request(**changes)) == fields(request()) | more


def test_margins_keep_their_sides() -> None:
    """Each margin goes out under its own name."""
    sent = fields(request(margins=Margins(up=0.1, down=0.2, left=0.3, right=0.4)))
    ratios = {name.partition("_")[0]: sent[name] for name in sent if name.endswith("_ratio")}
    assert ratios == {"up": 0.1, "down": 0.2, "left": 0.3, "right": 0.4}


def test_rule_is_resolved_against_the_image() -> None:
    """A rule becomes numbers once the image's size is known."""
    sent = fields(request(margins=Margins.for_size(800, 300, anchor="left")))
    assert (sent["left_expansion_ratio"], sent["right_expansion_ratio"]) == (0.0, 1.0)


def test_rule_of_ones_own() -> None:
    """Any object with ``resolve`` is a rule."""

    class Wider:
        def resolve(self, width: int, height: int) -> Margins:
            return Margins(right=height / width)

    assert fields(request(margins=Wider()))["right_expansion_ratio"] == 0.75


def test_numbers_need_no_size() -> None:
    """A URL's size is unknown, and plain margins do without it."""
    assert fields(request(), URL)["up_expansion_ratio"] == 0.5


@pytest.mark.parametrize(
    "image", [URL, attrs.evolve(IMAGE, width=None), attrs.evolve(IMAGE, height=None)]
)
def test_rule_needs_a_size(image: SourceImage) -> None:
    """A rule for an image of unknown size is refused, with what to give instead."""
    with pytest.raises(InputError, match="size is not known") as caught:
        fields(request(margins=Margins.for_aspect("16:9")), image)
    assert caught.value.field == "margins"


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        (Margins.for_size(300, 300), Margins(0.5, 0.5, 0.25, 0.25)),
        ("300x300", Margins(0.5, 0.5, 0.25, 0.25)),
        (Margins.for_pixels(up=150, left=100), Margins(up=1, left=0.5)),
        (Margins.for_aspect("1:1"), Margins(up=0.166666, down=0.166666)),
        (UP, UP),
    ],
)
def test_pixels_are_those_of_the_image_before_it_was_scaled(
    margins: MarginRule | str, expected: Margins
) -> None:
    """A canvas around a small image is not that around its enlarged copy."""
    scaled = attrs.evolve(IMAGE, width=400, height=300, scaled_from=(200, 150))
    assert request(margins=margins).resolve(scaled) == expected


@pytest.mark.parametrize("answer", [None, "16:9", (0.5, 0, 0, 0)])
def test_rule_of_ones_own_that_returns_something_else(answer: object) -> None:
    """It is named, instead of an error from deep inside."""

    class Rule:
        def resolve(self, width: int, height: int) -> object:  # noqa: ARG002 - the protocol's names
            """Return what is no margins."""
            return answer

    with pytest.raises(InputError, match=r"margins=.* is not Margins") as caught:
        fields(request(margins=Rule()))
    assert caught.value.field == "margins"


@pytest.mark.parametrize(
    ("margins", "satisfied"),
    [
        (Margins.for_aspect("4:3"), True),
        (Margins.for_aspect("16:9"), False),
        (Margins.for_pixels(), True),
        (UP, False),
        (Margins(), False),  # numbers that add nothing are a mistake, not a wish come true
    ],
    ids=str,
)
def test_already_satisfied(margins: MarginRule, satisfied: bool) -> None:
    """An image that has the wanted shape already need not be paid for."""
    assert request(margins=margins).already_satisfied({"image": IMAGE}) is satisfied


@pytest.mark.parametrize("margins", [Margins(), Margins.for_aspect("4:3")], ids=str)
def test_nothing_to_add_is_refused(margins: MarginRule) -> None:
    """A request that would add nothing is refused before it is paid."""
    with pytest.raises(InputError, match="nothing would be added"):
        fields(request(margins=margins))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"margins": 0.5}, "margins"),
        ({"margins": None}, "margins"),
        ({"margins": (1, 0, 0, 0)}, "margins"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"prompt": "x" * 2501}, "prompt"),
        ({"external_task_id": "a\nb"}, "external_task_id"),
    ],
    ids=["number", "none", "tuple", "no-image", "text", "prompt", "id"],
)
def test_wrong_field(changes: dict[str, Any], field: str) -> None:
    """A field that the API would refuse is refused when the request is made."""
    with pytest.raises(InputError) as caught:
        request(**changes)
    assert caught.value.field == field
    assert caught.value.sent is False


def test_images() -> None:
    """The one image stands under its JSON field."""
    assert request(image=b"png").images() == {"image": b"png"}


def test_repr_is_short_and_keeps_secrets() -> None:
    """Neither image bytes nor the callback's address show."""
    shown = repr(request(image=b"\x89PNG", callback_url="https://me.example/cb/token"))
    assert "<bytes>" in shown
    assert "PNG" not in shown
    assert "token" not in shown


@pytest.mark.parametrize("prompt", ["sky \ud83d", "\udcff", "a\udc80b"])
def test_prompts_that_are_not_unicode(prompt: str) -> None:
    """Half of a surrogate pair can't be sent: no text holds it."""
    with pytest.raises(InputError, match="not valid Unicode") as caught:
        request(prompt=prompt)
    assert caught.value.field == "prompt"
    str(caught.value.value).encode()


def test_margins_may_be_text() -> None:
    """A shape is enough, and is resolved like a rule."""
    made = request(margins="2:1")
    assert made.resolve(IMAGE) == Margins.for_aspect("2:1").resolve(IMAGE.width, IMAGE.height)
    assert not made.already_satisfied({"image": IMAGE})


def test_margins_below_a_pixel() -> None:
    """They are refused once the image's size is known."""
    with pytest.raises(InputError, match="less than a pixel of an image"):
        request(margins=Margins(up=0.0005)).fields({"image": IMAGE})
    url = SourceImage(source="https://example.com/x", url="https://example.com/x", sha256="cd")
    with pytest.raises(InputError, match="less than a pixel of any image"):
        request(margins=Margins(up=1e-320)).fields({"image": url})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("watermark", "yes"),
        ("watermark", 1),
        ("callback_url", 5),
        ("callback_url", "example.com/hook"),
        ("callback_url", "ftp://example.com"),
        ("callback_url", "https://example.com/\ud800"),
        ("callback_url", "https://"),
        ("callback_url", "https:///hook"),
        ("callback_url", "https://example.com:99999/hook"),
        ("callback_url", "https://example.com/my hook"),
        ("callback_url", "https://xn--/hook"),
    ],
)
def test_fields_of_the_wrong_kind(field: str, value: object) -> None:
    """They are refused when the request is made."""
    with pytest.raises(InputError) as caught:
        request(**{field: value})
    assert caught.value.field == field
