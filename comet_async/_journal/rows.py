"""A job's record as the row of a table, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from comet_async._journal.records import JobRecord, StoredImage
from comet_async._journal.states import JobState
from comet_async.errors import JournalCorruptError

RECOVER = "keep the file; comet_async.journal.recover(path) copies what is readable"

# The columns of a job are the fields of `JobRecord`, by the same names.
FIELDS = tuple(field.name for field in attrs.fields(JobRecord))

Row: TypeAlias = tuple[Any, ...]


def _encode_images(images: tuple[StoredImage, ...]) -> str:
    return json.dumps([attrs.astuple(image) for image in images]) if images else "[]"


def _decode_images(text: str) -> tuple[StoredImage, ...]:
    return tuple(
        StoredImage(index=index, url=url, watermark_url=watermark_url)
        for index, url, watermark_url in json.loads(text)
    )


_ENCODERS: Mapping[str, Callable[[Any], object]] = {
    "params": lambda params: json.dumps(dict(params)),
    "images": _encode_images,
}


def encoded(record: JobRecord, names: Sequence[str]) -> list[object]:
    """Return the values of the columns *names*."""
    values = [getattr(record, name) for name in names]
    for position, name in enumerate(names):
        if name in _ENCODERS:
            values[position] = _ENCODERS[name](values[position])
    return values


def decoded(row: Row) -> JobRecord:
    """Return the record of a row that holds `FIELDS`.

    Raises:
        JournalCorruptError: No version wrote such a row.
    """
    values = dict(zip(FIELDS, row, strict=True))
    try:
        values["state"] = JobState(values["state"])
        values["params"] = MappingProxyType(json.loads(values["params"]))
        values["images"] = _decode_images(values["images"])
    except (TypeError, ValueError) as error:
        raise JournalCorruptError(
            f"job {values['key']} can't be read: {error}", hint=RECOVER
        ) from None
    return JobRecord(**values)
