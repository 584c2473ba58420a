"""Records as rows of tables, and back: what the journals in SQLite and PostgreSQL share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from operator import attrgetter, is_not
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from comet_async._journal.records import (
    Destination,
    JobRecord,
    KnownSource,
    SavedFile,
    SourceOutcome,
    StoredImage,
)
from comet_async._journal.states import JobState
from comet_async.errors import JournalCorruptError

RECOVER = "keep the file; comet_async.journal.recover(path) copies what is readable"

# The columns of a job are the fields of `JobRecord`, by the same names.
FIELDS = tuple(field.name for field in attrs.fields(JobRecord))
_values = attrgetter(*FIELDS)

SOURCE = tuple(field.name for field in attrs.fields(KnownSource))
source_values = attrgetter(*SOURCE)

# Without the source, which is the key of the table, and the time.
OUTCOME = ("outcome", "key", "files", "reason", "hint", "notes", "copied", "billed")

Row: TypeAlias = tuple[Any, ...]


def _encode_images(images: tuple[StoredImage, ...]) -> str:
    return json.dumps([attrs.astuple(image) for image in images]) if images else "[]"


def _decode_images(text: str) -> tuple[StoredImage, ...]:
    return tuple(
        StoredImage(index=index, url=url, watermark_url=watermark_url)
        for index, url, watermark_url in json.loads(text)
    )


_ENCODERS: Mapping[str, Callable[[Any], object]] = {
    "state": attrgetter("value"),
    "params": lambda params: json.dumps(dict(params)),
    "images": _encode_images,
}


def changed_fields(before: JobRecord, after: JobRecord) -> tuple[str, ...]:
    """Return the names of the columns in which *after* differs."""
    return tuple(compress(FIELDS, map(is_not, _values(before), _values(after))))


def encoded(record: JobRecord, names: Sequence[str]) -> list[object]:
    """Return the values of the columns *names*."""
    return [
        _ENCODERS[name](getattr(record, name)) if name in _ENCODERS else getattr(record, name)
        for name in names
    ]


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


def decoded_source(row: Row) -> KnownSource:
    """Return what a row that holds `SOURCE` says."""
    return KnownSource(**dict(zip(SOURCE, row, strict=True)))


def encoded_outcome(outcome: SourceOutcome) -> Row:
    """Return the source, the values of `OUTCOME`, and the time."""
    return (
        outcome.source,
        outcome.outcome,
        outcome.key,
        json.dumps(outcome.files),
        outcome.reason,
        outcome.hint,
        json.dumps(outcome.notes) if outcome.notes else "[]",
        outcome.copied,
        outcome.billed,
        outcome.at,
    )


def decoded_outcome(row: Row) -> SourceOutcome:
    """Return the outcome that `encoded_outcome` wrote."""
    source, outcome, key, files, reason, hint, notes, copied, billed, at = row
    return SourceOutcome(
        source=source,
        outcome=outcome,
        key=key,
        files=tuple(json.loads(files)),
        reason=reason,
        hint=hint,
        notes=tuple(json.loads(notes)),
        copied=bool(copied),
        billed=bool(billed),
        at=at,
    )


def decoded_destinations(rows: Iterable[Row]) -> dict[str, tuple[Destination, ...]]:
    """Return the destinations of jobs, by key.

    Args:
        rows: Key, source, destination, and one of its files: number, name, hash, size and whether
            it is kept; None for each of these without a file. In order.
    """
    jobs: dict[str, dict[tuple[str, str], list[SavedFile]]] = {}
    for key, source, dest, number, name, sha256, size, kept in rows:
        files = jobs.setdefault(key, {}).setdefault((source, dest), [])
        if name is not None:
            files.append(
                SavedFile(index=number, name=name, sha256=sha256, size=size, kept=bool(kept))
            )
    return {
        key: tuple(
            Destination(source=source, dest=dest, files=tuple(files))
            for (source, dest), files in places.items()
        )
        for key, places in jobs.items()
    }
