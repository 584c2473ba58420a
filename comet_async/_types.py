"""Types shared by several modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
"""What JSON can hold. (Bytes are refused when they come.)"""

Place: TypeAlias = Path | str
"""Where a result is: a file of this machine, or the address of an object in a store."""


def files_of(places: Collection[Place]) -> tuple[Path, ...]:
    """Return those of *places* that are files of this machine."""
    return tuple(place for place in places if isinstance(place, Path))


def addresses_of(places: Collection[Place]) -> tuple[str, ...]:
    """Return those of *places* that are addresses in a store."""
    return tuple(place for place in places if isinstance(place, str))
