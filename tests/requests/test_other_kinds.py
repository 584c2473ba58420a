"""Two more kinds on the same rails: "generation" and "try-on"."""

from __future__ import annotations

from typing import Any

import pytest

from comet_async.errors import InputError
from comet_async.requests import (
    ASPECTS,
    GENERATION,
    TRY_ON,
    GenerationRequest,
    TaskRequest,
    TryOnRequest,
)

GENERATE = GenerationRequest(prompt="a dog")
TRY = TryOnRequest(human="me.png", cloth=b"coat")


def test_kinds() -> None:
    """Each kind has a name and a route of its own, and no price that we know."""
    assert (GENERATION.name, GENERATION.path) == ("generation", "images/generations")
    assert (TRY_ON.name, TRY_ON.path) == ("try-on", "images/kolors-virtual-try-on")
    assert (GenerationRequest.kind, TryOnRequest.kind) == (GENERATION, TRY_ON)
    assert GENERATION.price is TRY_ON.price is None


def test_least_generation() -> None:
    """A prompt is enough; the rest has defaults."""
    assert GENERATE.fields({}) == {
        "model_name": "kling-v2-1",
        "prompt": "a dog",
        "aspect_ratio": "16:9",
        "n": 1,
    }


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"negative_prompt": "cats"}, {"negative_prompt": "cats"}),
        ({"negative_prompt": ""}, {}),
        ({"image_reference": "face"}, {"image_reference": "face"}),
        ({"model": "kling-v2", "n": 3}, {"model_name": "kling-v2", "n": 3}),
        *(({"aspect_ratio": aspect}, {"aspect_ratio": aspect}) for aspect in ASPECTS),
    ],
    ids=str,
)
def test_fields_of_a_generation(changes: dict[str, Any], more: dict[str, Any]) -> None:
    """What was set is sent, under the API's names."""
    made = GenerationRequest(prompt="a dog", **changes)
    assert made.fields({}) == GENERATE.fields({}) | more


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 2501}, "prompt"),
        ({"negative_prompt": "x" * 2501}, "negative_prompt"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio"),
        ({"n": 10}, "n"),
        ({"external_task_id": 17}, "external_task_id"),
    ],
    ids=["empty", "none", "long", "long-negative", "aspect", "n", "id"],
)
def test_wrong_generation(changes: dict[str, Any], field: str) -> None:
    """A field that the API would refuse is refused, by name."""
    with pytest.raises(InputError) as caught:
        GenerationRequest(**({"prompt": "a dog"} | changes))
    assert caught.value.field == field


def test_reference_image() -> None:
    """A generation has no image, or one."""
    assert GENERATE.images() == {}
    assert GenerationRequest(prompt="a dog", image="dog.png").images() == {"image": "dog.png"}


def test_try_on() -> None:
    """A try-on has two images, a model, and makes one image."""
    assert TRY.images() == {"human_image": "me.png", "cloth_image": b"coat"}
    assert TRY.fields({}) == {"model_name": "kolors-virtual-try-on-v1-5"}
    assert TRY.n == 1


def test_wrong_try_on() -> None:
    """An id that can't be one is refused."""
    with pytest.raises(InputError, match="external_task_id"):
        TryOnRequest(human="me.png", cloth="coat.png", external_task_id="\n")


@pytest.mark.parametrize("made", [GENERATE, TRY], ids=["generation", "try-on"])
def test_never_satisfied_already(made: TaskRequest) -> None:
    """There is always something to make."""
    assert not made.already_satisfied({})


@pytest.mark.parametrize(
    "made",
    [
        GenerationRequest(prompt="a dog", image=b"canary", callback_url="https://x/canary"),
        TryOnRequest(human=b"canary", cloth=b"canary", callback_url="https://x/canary"),
    ],
    ids=["generation", "try-on"],
)
def test_repr_keeps_secrets(made: TaskRequest) -> None:
    """Neither images nor the callback's address show."""
    assert "canary" not in repr(made)
