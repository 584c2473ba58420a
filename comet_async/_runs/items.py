"""The images of a run, before and after their jobs are planned."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from comet_async._images.source import FileIdentity, SourceImage
from comet_async._journal.records import JobRecord, SavedJob
from comet_async.errors import CometError, InputError
from comet_async.models import JSON
from comet_async.outcomes import Outcome
from comet_async.requests import TaskRequest
from comet_async.secret import repr_redacted


@attrs.frozen(kw_only=True)
class Item:
    """One image of a run, before anything is sent: `comet_async.Run.plan` yields it.

    Programs read *source*, *request*, *dest* and *error*; the other fields are what the run found
    out in passing, so that it need not look twice.

    Attributes:
        source: The image as the caller named it; its outcome has the same name.
        request: What would be asked for. None when it can't be worked on, and for a job that an
            earlier run left unfinished.
        dest: Where the result would be saved, without extension: relative to the output folder
            if the journal is that folder's own, otherwise in full; None when no file is wanted.
        others: Other names that its result may have from an earlier run.
        error: Why it can't be worked on, found while the sources were read.
        record: The journal's record, for a job that is resumed instead of planned.
        images: Its loaded images by JSON field, for a job that is resumed.
        identity: What its file may be recognised by when it is unchanged.
        planned: What it was planned as, if that is known without reading its file.
        outcome: Its outcome, if there is nothing left to do.
    """

    source: str = attrs.field(repr=repr_redacted)
    request: TaskRequest | None = None
    dest: str | None = None
    others: tuple[str, ...] = ()
    error: CometError | None = None
    record: JobRecord | None = None
    images: Mapping[str, SourceImage] | None = None
    identity: FileIdentity | None = None
    planned: Planned | None = None
    outcome: Outcome | None = None

    @property
    def wanted(self) -> TaskRequest:
        """The request.

        Raises:
            CometError: The item's error.
        """
        if self.request is None:
            raise self.error or InputError("there is nothing to do", field="request")
        return self.request


@attrs.frozen(kw_only=True)
class Planned:
    """The job that an image of a run would become: `comet_async.Run.plan` yields it.

    A run would send it, and have it billed, unless it is *already_satisfied* or its *record* is in
    another state than ``planned`` and ``rejected``.

    Attributes:
        item: The image.
        images: Its loaded and checked images, by JSON field.
        fields: The request's other fields that decide the result, as JSON.
        key: The content key, which is sent as ``external_task_id``: the same image with the same
            fields has the same one. Empty when nothing would be sent.
        record: What the journal knows of the job, or None when it is new.
        already_satisfied: True when the image already has the wanted shape: it would be copied.
        saved: The job with its destinations, if it is known to be done.
    """

    item: Item
    images: Mapping[str, SourceImage]
    fields: Mapping[str, JSON]
    key: str
    record: JobRecord | None
    already_satisfied: bool = False
    saved: SavedJob | None = None
