"""The kind "generation": a picture from words, and from a reference picture if there is one.

Fields and limits: Kling, "Image generation",
https://klingai.com/document-api/api/image/common/image-generation, as its gateways repeat it
(https://docs.kkiai.com/Other-Model-APIs/kling-platform-api/image-generation/image-generation.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from comet_async.errors import InputError
from comet_async.images import ImageInput, Picture
from comet_async.keys import JSON
from comet_async.kinds import TaskKind, check_n, check_own_id, check_prompt, checked

GENERATION = TaskKind(name="generation", path="images/generations")
"""The kind that `GenerationRequest` belongs to. Its price depends on the model."""

ASPECTS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
"""The shapes that the API makes."""


def _check_aspect(aspect: object) -> None:
    if aspect not in ASPECTS:
        limit = "one of " + ", ".join(ASPECTS)
        msg = f"aspect_ratio {aspect!r} is not made by the API"
        raise InputError(msg, field="aspect_ratio", value=aspect, limit=limit, hint=limit)


def _check_negative(prompt: object) -> None:
    check_prompt(prompt, field="negative_prompt")


def _required_prompt(prompt: object) -> None:
    if check_prompt(prompt) is None:
        msg = "a picture can't be generated without a prompt"
        raise InputError(msg, field="prompt", limit="1 to 2500 characters", hint="describe it")


@attrs.frozen(kw_only=True)
class GenerationRequest:
    """One picture to generate.

    Attributes:
        prompt: What to draw; 1 to 2500 characters.
        model: The model's name; ``kling-v2-1`` by default.
        negative_prompt: What not to draw; none by default.
        image: A reference picture; none by default.
        image_reference: What to take from it: its ``subject`` or its ``face``.
        aspect_ratio: The shape; ``16:9`` by default.
        n: How many variants, 1 to 9; each is paid. 1 by default.
        callback_url: Where the server reports changes; none by default.
        external_task_id: Your own id; by default the library makes one.

    Raises:
        InputError: A field breaks a rule of the API; nothing was sent.
    """

    prompt: str = attrs.field(validator=checked(_required_prompt))
    model: str = "kling-v2-1"
    negative_prompt: str | None = attrs.field(default=None, validator=checked(_check_negative))
    image: ImageInput | None = attrs.field(default=None, repr=False)
    image_reference: Literal["subject", "face"] | None = None
    aspect_ratio: str = attrs.field(default="16:9", validator=checked(_check_aspect))
    n: int = attrs.field(default=1, validator=checked(check_n))
    callback_url: str | None = attrs.field(default=None, repr=False)
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = GENERATION

    def images(self) -> Mapping[str, ImageInput]:
        """Return the reference picture, if there is one."""
        return {} if self.image is None else {"image": self.image}

    def needless(self, pictures: Mapping[str, Picture]) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: there is always something to generate."""
        return False

    def fields(self, pictures: Mapping[str, Picture]) -> dict[str, JSON]:  # noqa: ARG002 - as above
        """Return the JSON fields that decide the result; see `TaskRequest.fields`."""
        fields: dict[str, JSON] = {
            "model_name": self.model,
            "prompt": self.prompt,
            "aspect_ratio": self.aspect_ratio,
            "n": self.n,
        }
        if self.negative_prompt:
            fields["negative_prompt"] = self.negative_prompt
        if self.image_reference is not None:
            fields["image_reference"] = self.image_reference
        return fields
