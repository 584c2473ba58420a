"""Images of jobs, loaded by one session's rules."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from comet_async._images.load import load
from comet_async._images.rules import UNNAMED, show
from comet_async._images.source import MISSING, ImageInput, SourceImage
from comet_async._images.stored import load_stored
from comet_async._jobs.calls import SAME_IMAGE
from comet_async._journal.records import JobRecord
from comet_async.errors import InputError
from comet_async.stores import Stores


@attrs.frozen(kw_only=True)
class Loader:
    """Loads images by one session's rules.

    Attributes:
        prepare: Convert what the API would refuse.
        private: Accept URLs of this machine and of private networks.
        stores: The stores that images may be in.
    """

    prepare: bool
    private: bool
    stores: Stores = attrs.field(factory=Stores)

    async def load(self, image: ImageInput, field: str, *, hashed: bool = True) -> SourceImage:
        """Load *image*; see `comet_async._images.load.load`."""
        if isinstance(image, SourceImage) and image.address is not None and self.prepare:
            again = not image.notes and not image.remembered  # if it was loaded without `prepare`
            image = image.address if again else image
        if isinstance(image, str) and self.stores.knows(image):
            store, name = self.stores.at(image)
            return await load_stored(
                image, store, name, field=field, prepare=self.prepare, hashed=hashed
            )
        return await load(
            image,
            field=field,
            prepare=self.prepare,
            allow_private=self.private,
            hashed=hashed,
        )

    async def reload(self, record: JobRecord) -> Mapping[str, SourceImage]:
        """Load the image of a job from where its record says it is.

        Raises:
            InputError: It is not there any more, or it is another image.
        """
        if not record.image_sha:
            return {}
        if record.source.startswith("<") or ":" in record.image_sha:
            what = "in-memory bytes" if record.source.startswith("<") else "several images"
            raise _not_kept(record, f"job {record.key} was created from {what}")
        try:
            image = await self.load(record.source, "image")
        except InputError as error:
            if error.limit != MISSING:
                raise
            what = f"job {record.key} was created from {show(record.source)}, which is no file here"
            if record.source in UNNAMED:
                what = f"job {record.key} was created from in-memory bytes"
            raise _not_kept(record, what) from error
        if image.sha256 != record.image_sha:
            raise _not_kept(record, f"{record.source} is not the image that was planned")
        return {"image": image}


def _not_kept(record: JobRecord, what: str) -> InputError:
    return InputError(
        f"{what}; the journal keeps no images",
        field="image",
        value=record.source,
        limit=SAME_IMAGE,
        hint="nothing was paid; make the same request again with the image itself",
        external_task_id=record.key,
    )
