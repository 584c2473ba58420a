"""The kind "expand": grow a picture beyond its borders (outpainting).

Fields and limits: Kling, "Image expansion",
https://klingai.com/document-api/api/image/common/outpainting. CometAPI's copy of that page
names the lower margin ``bottom_…`` in its table and ``down_…`` in its example; ``down_`` is
what Kling itself reads. `comet_async.gateways.Gateway.down_field` switches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar

import attrs

from comet_async.errors import InputError
from comet_async.geometry import MarginRule, Margins
from comet_async.images import ImageInput, Picture
from comet_async.keys import JSON
from comet_async.kinds import TaskKind, check_n, check_own_id, check_prompt, checked

# Kling's price list: image expansion, 8 units of USD 0.0035 a picture
# (https://kling.ai/document-api/pricing/base/image). Gateways charge prices of their own.
EXPAND = TaskKind(name="expand", path="images/editing/expand", price=Decimal("0.028"))
"""The kind that `ExpandRequest` belongs to."""


def _check_margins(margins: object) -> None:
    # Plain margins first: the other question takes ten times as long.
    if not isinstance(margins, (Margins, MarginRule)):
        msg = f"margins must be Margins or a rule such as Margins.for_aspect, not {margins!r}"
        raise InputError(
            msg, field="margins", value=margins, limit="Margins, or an object with resolve()"
        )


@attrs.frozen(kw_only=True)
class ExpandRequest:
    """One picture to expand.

    Attributes:
        image: A path, bytes, a public URL, or a loaded `Picture`.
        margins: `Margins`, or a rule that makes them from the picture's size.
        prompt: What to draw in the new area; at most 2500 characters, none by default.
        n: How many variants to make, 1 to 9; each is paid. 1 by default.
        watermark: True to get a watermarked version of each variant as well.
        callback_url: Where the server reports changes; none by default.
        external_task_id: Your own id, unique within the account; by default the library
            makes one, which lets it find the task again whatever happens.

    Raises:
        InputError: A field breaks a rule of the API; nothing was sent.
    """

    image: ImageInput = attrs.field(repr=lambda image: f"<{type(image).__name__}>")
    margins: MarginRule = attrs.field(validator=checked(_check_margins))
    prompt: str | None = attrs.field(default=None, validator=checked(check_prompt))
    n: int = attrs.field(default=1, validator=checked(check_n))
    watermark: bool = False
    callback_url: str | None = attrs.field(default=None, repr=False)
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = EXPAND

    def images(self) -> Mapping[str, ImageInput]:
        """Return the one picture, by its JSON field."""
        return {"image": self.image}

    def resolve(self, picture: Picture) -> Margins:
        """Return the margins for *picture*.

        Raises:
            InputError: The rule can't be kept, or it needs a size that a URL doesn't tell.
        """
        if isinstance(self.margins, Margins):
            return self.margins
        if picture.width is None or picture.height is None:
            msg = "the picture's size is unknown (it is a URL), so this rule can't be resolved"
            raise InputError(
                msg,
                field="margins",
                value=self.margins,
                limit="Margins with numbers, for a URL",
                hint="give shares, like Margins(up=0.5) or --up 0.5; or download the picture first",
            )
        return self.margins.resolve(picture.width, picture.height)

    def needless(self, pictures: Mapping[str, Picture]) -> bool:
        """True when a rule adds nothing: the picture has the wanted shape already."""
        return not isinstance(self.margins, Margins) and self.resolve(pictures["image"]).empty

    def fields(self, pictures: Mapping[str, Picture]) -> dict[str, JSON]:
        """Return the JSON fields that decide the result; see `TaskRequest.fields`."""
        margins = self.resolve(pictures["image"])
        if margins.empty:
            msg = "nothing would be added: all four margins are 0"
            raise InputError(
                msg,
                field="margins",
                value=0,
                limit="at least one margin above 0",
                hint="the picture already has this shape, or the margins are missing",
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
