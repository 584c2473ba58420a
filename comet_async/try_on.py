"""The kind "try-on": a garment on a person.

Fields and limits: Kling, "Virtual try-on",
https://klingai.com/document-api/api/image/common/virtual-try-on, as its gateways repeat it
(https://github.com/timerring/dmx-docs-test, docs/zh/models/kling/api/virtual-try-on.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from comet_async.images import ImageInput, Picture
from comet_async.keys import JSON
from comet_async.kinds import TaskKind, check_own_id, checked

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

    human: ImageInput = attrs.field(repr=False)
    cloth: ImageInput = attrs.field(repr=False)
    model: str = "kolors-virtual-try-on-v1-5"
    callback_url: str | None = attrs.field(default=None, repr=False)
    external_task_id: str | None = attrs.field(default=None, validator=checked(check_own_id))

    kind: ClassVar[TaskKind] = TRY_ON

    @property
    def n(self) -> int:
        """Always 1, since a try-on makes one picture and holds one place."""
        return 1

    def images(self) -> Mapping[str, ImageInput]:
        """Return both pictures, by JSON field."""
        return {"human_image": self.human, "cloth_image": self.cloth}

    def needless(self, pictures: Mapping[str, Picture]) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: there is always something to try on."""
        return False

    def fields(self, pictures: Mapping[str, Picture]) -> dict[str, JSON]:  # noqa: ARG002 - as above
        """Return the JSON fields that decide the result; see `TaskRequest.fields`."""
        return {"model_name": self.model}
