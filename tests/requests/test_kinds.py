"""What all kinds share: the body that streams its images, and the rules of common fields."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from comet_async._http.body import Body
from comet_async._images.source import SourceImage
from comet_async.errors import InputError
from comet_async.requests import check_n, check_own_id, check_prompt

URL = "https://example.com/dog.png?a=1&b=2"


def image(data: bytes) -> SourceImage:
    """Return an image of *data*, unchecked."""
    return SourceImage(source="bytes", sha256="", data=data, size=len(data))


def sent(body: Body) -> bytes:
    """Return the body's text as it would be sent."""
    return b"".join(
        part if isinstance(part, bytes) else base64.b64encode(part.open().read())
        for part in body.parts
    )


NAMES = st.text(max_size=8)
FIELDS = st.dictionaries(
    NAMES.map("f{}".format), st.text() | st.integers() | st.booleans() | st.none(), max_size=4
)
IMAGES = st.dictionaries(NAMES.map("p{}".format), st.binary(max_size=40), max_size=3)


@given(fields=FIELDS, images=IMAGES, urls=st.dictionaries(NAMES.map("u{}".format), st.just(URL)))
def test_body_is_json_of_the_announced_length(
    fields: dict[str, Any], images: dict[str, bytes], urls: dict[str, str]
) -> None:
    """Any fields and images make one JSON object whose length is known beforehand."""
    loaded = {name: image(data) for name, data in images.items()}
    loaded |= {name: SourceImage(source=url, sha256="", url=url) for name, url in urls.items()}
    body = Body.build(fields, loaded)
    text = sent(body)
    assert len(text) == body.length
    encoded = {name: base64.b64encode(data).decode() for name, data in images.items()}
    assert json.loads(text) == {**encoded, **urls, **fields}


@pytest.mark.parametrize(
    ("fields", "images", "parts"),
    [
        ({"n": 1}, {}, 1),
        ({"n": 1}, {"image": image(b"abc")}, 3),
        ({}, {"image": image(b"abc")}, 3),
        ({"n": 1}, {"a": image(b"abc"), "b": image(b"")}, 5),
        ({"n": 1}, {"image": SourceImage(source=URL, sha256="", url=URL)}, 1),
    ],
    ids=["none", "one", "only", "two", "url"],
)
def test_images_are_left_open(
    fields: Mapping[str, Any], images: dict[str, SourceImage], parts: int
) -> None:
    """Each image stays what it is until it is sent; a URL is text like any other."""
    body = Body.build(fields, images)
    assert len(body.parts) == parts
    wanted = [image for image in images.values() if image.url is None]
    assert [part for part in body.parts if isinstance(part, SourceImage)] == wanted


def test_file_is_not_read_before_it_is_sent(tmp_path: Path) -> None:
    """A body knows its length from the image's size, without opening the file."""
    absent = SourceImage(source="x", sha256="", path=tmp_path / "absent", size=10)
    assert Body.build({}, {"image": absent}).length == len('{"image":""}') + 16


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_body_refuses_what_json_can_not_hold(number: float) -> None:
    """NaN would make a body that is not JSON."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        Body.build({"up": number}, {})


def test_body_does_not_show_itself() -> None:
    """A body's text holds neither fields nor images."""
    assert "secret" not in repr(Body.build({"prompt": "secret"}, {"image": image(b"secret")}))


@pytest.mark.parametrize("n", [1, 5, 9])
def test_number_of_images(n: int) -> None:
    """1 to 9 images may be asked for."""
    assert check_n(n) == n


@pytest.mark.parametrize("n", [0, -1, 10, 1.0, 2.5, "2", True, None, float("nan")], ids=repr)
def test_wrong_number_of_images(n: object) -> None:
    """Anything else is refused, with the rule."""
    with pytest.raises(InputError) as caught:
        check_n(n)
    assert (caught.value.field, caught.value.limit) == ("n", "1 to 9")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, None),
        ("", None),
        ("white sun", "white sun"),
        ("日" * 2500, "日" * 2500),
    ],
    ids=["none", "empty", "text", "longest"],
)
def test_prompt(prompt: str | None, expected: str | None) -> None:
    """Up to 2500 characters are taken, of any script; an empty prompt counts as none."""
    assert check_prompt(prompt) == expected


@pytest.mark.parametrize(
    "prompt", ["x" * 2501, 7, b"bytes", ["x"]], ids=["long", *map(repr, (7, b"b", ["x"]))]
)
def test_wrong_prompt(prompt: object) -> None:
    """A longer prompt, or no text, is refused under the field's name."""
    with pytest.raises(InputError) as caught:
        check_prompt(prompt, field="negative_prompt")
    assert caught.value.field == "negative_prompt"
    assert len(caught.value.value or "") <= 80


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("", None), ("order 17/é", "order 17/é"), ("x" * 255, "x" * 255)],
    ids=["none", "empty", "text", "longest"],
)
def test_own_id(value: str | None, expected: str | None) -> None:
    """Printable text of up to 255 characters can be an id; an empty one counts as none."""
    assert check_own_id(value) == expected


@pytest.mark.parametrize(
    "value", ["x" * 256, "a\nb", "a\0b", "\ufeff", 17, b"id"], ids=lambda value: repr(value)[:8]
)
def test_wrong_own_id(value: object) -> None:
    """Line breaks, other invisible characters, and what is not text are refused."""
    with pytest.raises(InputError, match="printable text of at most 255"):
        check_own_id(value)
