"""All kinds of tasks, by name. A new kind is a room of its own and a name here."""

from __future__ import annotations

from collections.abc import Mapping

from comet_async.errors import InputError
from comet_async.expand import EXPAND
from comet_async.generation import GENERATION
from comet_async.kinds import TaskKind
from comet_async.try_on import TRY_ON

KINDS: Mapping[str, TaskKind] = {kind.name: kind for kind in (EXPAND, GENERATION, TRY_ON)}
"""The kinds of tasks, by name."""


def kind_named(name: str) -> TaskKind:
    """Return the kind called *name*.

    Raises:
        InputError: There is none.
    """
    kind = KINDS.get(name)
    if kind is None:
        limit = "one of " + ", ".join(KINDS)
        msg = f"there is no kind of task {name!r}"
        raise InputError(msg, field="kind", value=name, limit=limit, hint=limit)
    return kind
