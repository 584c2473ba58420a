"""What can be asked for: the kinds of tasks, and a request class for each.

A kind is a path and a price; its request class holds the fields and their rules. All other
modules know only "a task of some kind".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal, Protocol

import attrs

from comet_async._addresses import parse_web_url
from comet_async._images.source import ImageInput, SourceImage, check_input
from comet_async._validation import DOTS, Field, check_choice, check_instance, flag, text
from comet_async.errors import InputError
from comet_async.geometry import MarginRule, Margins, as_rule, check_pixels, counts_pixels
from comet_async.models import JSON, TaskKind

MAX_PROMPT = 2500
"""The longest prompt, in characters."""

MAX_N = 9
"""The most images that one task makes."""

_LONGEST_ID = 255


class TaskRequest(Protocol):
    """What a request of any kind offers to the modules that send it."""

    kind: ClassVar[TaskKind]

    @property
    def n(self) -> int:
        """How many images are asked for (and held in flight)."""
        ...

    @property
    def external_task_id(self) -> str | None:
        """The caller's own id, or None to let the library choose."""
        ...

    @property
    def callback_url(self) -> str | None:
        """Where the server reports changes, or None."""
        ...

    def images(self) -> Mapping[str, ImageInput]:
        """Return the images to send, by JSON field."""
        ...

    def already_satisfied(self, images: Mapping[str, SourceImage]) -> bool:
        """Return True if an image already is what is asked for, so that nothing need be paid."""
        ...

    def fields(self, images: Mapping[str, SourceImage]) -> dict[str, JSON]:
        """Return all other fields that decide the result, checked.

        Args:
            images: The images of `images`, loaded, by JSON field.

        Raises:
            InputError: A field breaks a rule of the API.
        """
        ...


def checked(check: Callable[[object], object]) -> Callable[[Any, Any, Any], None]:
    """Return *check* as a validator of an attrs field.

    Validators, not converters: with a converter type checkers no longer see a plain field.
    """

    def validate(_request: object, _field: object, value: object) -> None:
        check(value)

    return validate


def _is_image(_request: object, field: Field, value: Any) -> None:  # noqa: ANN401 - as above
    check_input(value, field.name)


def check_n(n: object) -> int:
    """Return *n* if it is a whole number from 1 to 9.

    Raises:
        InputError: It is not.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_N:
        raise InputError(
            f"n={n!r} must be a whole number from 1 to {MAX_N}",
            field="n",
            value=n,
            limit=f"1 to {MAX_N}",
            hint=f"ask for 1 to {MAX_N} images",
        )
    return n


def check_prompt(prompt: object, *, field: str = "prompt") -> str | None:
    """Return *prompt* if the API takes it; an empty one counts as none.

    Raises:
        InputError: It is not text, not valid Unicode, or longer than 2500 characters.
    """
    if prompt is None or prompt == "":
        return None
    if not isinstance(prompt, str):
        msg = f"{field} must be text, not {type(prompt).__name__}"
        raise InputError(msg, field=field, value=prompt, limit="text")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise InputError(
            f"{field} is not valid Unicode: it holds half of a surrogate pair",
            field=field,
            value=prompt.encode("ascii", "backslashreplace").decode(),
            limit="valid Unicode",
            hint="decode it with the right encoding",
        )
    if len(prompt) > MAX_PROMPT:
        raise InputError(
            f"{field} has {len(prompt)} characters; at most {MAX_PROMPT}",
            field=field,
            value=prompt,
            limit=f"{MAX_PROMPT} characters",
            hint="shorten it",
        )
    return prompt


def check_callback_url(value: object) -> str | None:
    """Return *value* if notifications can be sent there; None stays None.

    Raises:
        InputError: It is not an http or https URL.
    """
    if value is None:
        return None
    if not isinstance(value, str) or parse_web_url(value) is None:
        raise InputError(
            "callback_url must be an http or https URL",
            field="callback_url",
            value=type(value).__name__,  # the URL itself may hold a token
            limit="an http or https URL",
        )
    return check_prompt(value, field="callback_url")


def check_own_id(value: object) -> str | None:
    """Return *value* if it can be an ``external_task_id``; empty counts as none.

    Raises:
        InputError: It is not printable text of at most 255 characters, or could not be looked up.
    """
    if value is None or value == "":
        return None
    refuse = functools.partial(InputError, field="external_task_id", value=value)
    if not isinstance(value, str) or len(value) > _LONGEST_ID or not value.isprintable():
        limit = f"printable text of at most {_LONGEST_ID} characters"
        raise refuse(f"external_task_id must be {limit}", limit=limit)
    if value in DOTS:
        what = f"the task could not be looked up by external_task_id={value!r}"
        raise refuse(what, limit="more than one or two dots")
    return value


def resolve_for(rule: MarginRule, image: SourceImage, width: int, height: int) -> Margins:
    """Return what *rule* means for *image*, which is sent with *width* × *height* pixels.

    Raises:
        InputError: The rule can't be kept for this size.
    """
    known = image.scaled_from if counts_pixels(rule) else None
    return rule.resolve(*(known or (width, height)))


# Kling's price list: image expansion, 8 units of USD 0.0035 an image
# (https://kling.ai/document-api/pricing/base/image). Gateways charge prices of their own.
EXPAND = TaskKind(name="expand", path="images/editing/expand", price=Decimal("0.028"))
"""The kind that `ExpandRequest` belongs to."""


@attrs.frozen(kw_only=True)
class ExpandRequest:
    """One image to expand.

    Attributes:
        image: A path, bytes, an open file, a public URL, or a `SourceImage`, which says which of
            them it is.
        margins: `Margins`, a rule that makes them from the image's size, or text: a shape such as
            ``"16:9"``, or a canvas such as ``"1920x1080"``.
        prompt: What to draw in the new area; at most 2500 characters, none by default.
        n: How many variants to make, 1 to 9; each is paid. 1 by default.
        watermark: True to get a watermarked version of each variant as well.
        callback_url: Where the server reports changes; none by default.
        external_task_id: Your own id, unique within the account; by default the library
            makes one, which lets it find the task again whatever happens.

    Raises:
        InputError: A field breaks a rule of the API; nothing was sent.
    """

    image: ImageInput = attrs.field(
        repr=lambda image: f"<{type(image).__name__}>", validator=_is_image
    )
    margins: MarginRule | str = attrs.field(validator=checked(as_rule))
    prompt: str | None = attrs.field(default=None, validator=checked(check_prompt))
    n: int = attrs.field(default=1, validator=checked(check_n))
    watermark: bool = attrs.field(default=False, validator=flag)
    callback_url: str | None = attrs.field(
        default=None, repr=False, validator=checked(check_callback_url)
    )
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = EXPAND

    def images(self) -> Mapping[str, ImageInput]:
        """Return the one image, by its JSON field."""
        return {"image": self.image}

    def resolve(self, image: SourceImage) -> Margins:
        """Return the margins for *image*.

        Raises:
            InputError: The rule can't be kept, it needs a size that is not known (that of a URL),
                or a margin is less than a pixel.
        """
        rule = as_rule(self.margins)
        if image.width is not None and image.height is not None:
            margins = resolve_for(rule, image, image.width, image.height)
            check_instance(
                "margins", margins, Margins, "Margins, which the resolve() of a rule returns"
            )
            check_pixels(margins, image.width, image.height)
            return margins
        if isinstance(rule, Margins):
            check_pixels(rule)
            return rule
        raise InputError(
            "the image's size is not known (it is a URL), so this rule can't be resolved",
            field="margins",
            value=self.margins,
            limit="Margins with numbers, for a URL",
            hint="give shares, like Margins(up=0.5); or use CometSession.measure()",
        )

    def already_satisfied(self, images: Mapping[str, SourceImage]) -> bool:
        """True when a rule adds nothing: the image has the wanted shape already."""
        return (
            not isinstance(as_rule(self.margins), Margins) and self.resolve(images["image"]).empty
        )

    def fields(self, images: Mapping[str, SourceImage]) -> dict[str, JSON]:
        """Return the JSON fields that decide the result; see `TaskRequest.fields`."""
        margins = self.resolve(images["image"])
        if margins.empty:
            raise InputError(
                "nothing would be added: all four margins are 0",
                field="margins",
                value=0,
                limit="at least one margin above 0",
                hint="the image already has this shape, or the margins are missing",
            )
        # All four, always: Kling's newer page gives them no default.
        fields: dict[str, JSON] = {
            "up_expansion_ratio": margins.up,
            "down_expansion_ratio": margins.down,
            "left_expansion_ratio": margins.left,
            "right_expansion_ratio": margins.right,
            "n": self.n,
        }
        if self.prompt:
            fields["prompt"] = self.prompt
        if self.watermark:
            fields["watermark_info"] = {"enabled": True}
        return fields


GENERATION = TaskKind(name="generation", path="images/generations")
"""The kind that `GenerationRequest` belongs to. Its price depends on the model."""

ASPECTS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
"""The shapes that the API makes."""


def _check_aspect(aspect: object) -> None:
    if aspect not in ASPECTS:
        limit = "one of " + ", ".join(ASPECTS)
        what = f"aspect_ratio {aspect!r} is not supported by the API"
        raise InputError(what, field="aspect_ratio", value=aspect, limit=limit, hint=limit)


def _check_reference(value: object) -> None:
    if value is not None:
        check_choice("image_reference", value, ("subject", "face"))


def _check_negative(prompt: object) -> None:
    check_prompt(prompt, field="negative_prompt")


def _required_prompt(prompt: object) -> None:
    if check_prompt(prompt) is None:
        raise InputError(
            "an image can't be generated without a prompt",
            field="prompt",
            limit="1 to 2500 characters",
            hint="describe it",
        )


@attrs.frozen(kw_only=True)
class GenerationRequest:
    """One image to generate.

    Attributes:
        prompt: What to draw; 1 to 2500 characters.
        model: The model's name; ``kling-v2-1`` by default.
        negative_prompt: What not to draw; none by default.
        image: A reference image; none by default.
        image_reference: What to take from it: its ``subject`` or its ``face``.
        aspect_ratio: The shape; ``16:9`` by default.
        n: How many variants, 1 to 9; each is paid. 1 by default.
        callback_url: Where the server reports changes; none by default.
        external_task_id: Your own id; by default the library makes one.

    Raises:
        InputError: A field breaks a rule of the API; nothing was sent.
    """

    prompt: str = attrs.field(validator=checked(_required_prompt))
    model: str = attrs.field(default="kling-v2-1", validator=text)
    negative_prompt: str | None = attrs.field(default=None, validator=checked(_check_negative))
    image: ImageInput | None = attrs.field(
        default=None, repr=False, validator=attrs.validators.optional(_is_image)
    )
    image_reference: Literal["subject", "face"] | None = attrs.field(
        default=None, validator=checked(_check_reference)
    )
    aspect_ratio: str = attrs.field(default="16:9", validator=checked(_check_aspect))
    n: int = attrs.field(default=1, validator=checked(check_n))
    callback_url: str | None = attrs.field(
        default=None, repr=False, validator=checked(check_callback_url)
    )
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = GENERATION

    def images(self) -> Mapping[str, ImageInput]:
        """Return the reference image, if there is one."""
        return {} if self.image is None else {"image": self.image}

    def already_satisfied(self, images: Mapping[str, SourceImage]) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: there is always something to generate."""
        return False

    def fields(self, images: Mapping[str, SourceImage]) -> dict[str, JSON]:  # noqa: ARG002 - as above
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


TRY_ON = TaskKind(name="try-on", path="images/kolors-virtual-try-on")
"""The kind that `TryOnRequest` belongs to."""


@attrs.frozen(kw_only=True)
class TryOnRequest:
    """One garment to try on.

    Attributes:
        human: The person: a path, bytes, or a public URL.
        cloth: The garment, likewise.
        model: The model's name; ``kolors-virtual-try-on-v1-5`` by default.
        callback_url: Where the server reports changes; none by default.
        external_task_id: Your own id; by default the library makes one.

    Raises:
        InputError: A field breaks a rule of the API; nothing was sent.
    """

    human: ImageInput = attrs.field(repr=False, validator=_is_image)
    cloth: ImageInput = attrs.field(repr=False, validator=_is_image)
    model: str = attrs.field(default="kolors-virtual-try-on-v1-5", validator=text)
    callback_url: str | None = attrs.field(
        default=None, repr=False, validator=checked(check_callback_url)
    )
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = TRY_ON

    @property
    def n(self) -> int:
        """Always 1, since a try-on makes one image and holds one slot."""
        return 1

    def images(self) -> Mapping[str, ImageInput]:
        """Return both images, by JSON field."""
        return {"human_image": self.human, "cloth_image": self.cloth}

    def already_satisfied(self, images: Mapping[str, SourceImage]) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: there is always something to try on."""
        return False

    def fields(self, images: Mapping[str, SourceImage]) -> dict[str, JSON]:  # noqa: ARG002 - as above
        """Return the JSON fields that decide the result; see `TaskRequest.fields`."""
        return {"model_name": self.model}


KINDS: Mapping[str, TaskKind] = {kind.name: kind for kind in (EXPAND, GENERATION, TRY_ON)}
"""The kinds of tasks, by name."""

_ONE_OF = "one of " + ", ".join(KINDS)


def kind_named(name: str) -> TaskKind:
    """Return the kind called *name*.

    Raises:
        InputError: There is no such kind.
    """
    check_instance("kind", name, str, _ONE_OF)
    kind = KINDS.get(name)
    if kind is None:
        what = f"there is no kind of task {name!r}"
        raise InputError(what, field="kind", value=name, limit=_ONE_OF, hint=_ONE_OF)
    return kind
