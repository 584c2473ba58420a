"""The published JSON Schema is true of what `--json` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from comet_async.outcomes import OutcomeStatus
from comet_async.sandbox import Fault, Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

REPOSITORY = Path(__file__).parent.parent.parent.parent
SCHEMA = json.loads((REPOSITORY / "docs/_static/expand-output.schema.json").read_text("utf-8"))

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def violations(value: object, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Yield what is wrong with *value*, by the few words that our schema uses."""
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(type(value) is TYPES[name] for name in names):
        yield f"{path}: {value!r} is not {names}"
    if "pattern" in schema and not re.search(schema["pattern"], str(value)):
        yield f"{path}: {value!r} does not match"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema["items"], f"{path}[{index}]")
    if isinstance(value, dict):
        yield from (
            f"{path}: {name} is missing" for name in schema["required"] if name not in value
        )
        for name, part in value.items():
            if name not in schema["properties"]:
                yield f"{path}: {name} is not described"
            else:
                yield from violations(part, schema["properties"][name], f"{path}.{name}")


def test_the_schema_knows_each_outcome() -> None:
    """A new outcome must be published."""
    assert SCHEMA["properties"]["outcome"]["enum"] == [str(each) for each in OutcomeStatus]


async def test_lines_are_as_the_schema_says(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Of plans and of runs, whatever becomes of an image."""
    (photos / "bad.png").write_bytes(b"no image")
    (photos / "copy.png").write_bytes((photos / "dog.png").read_bytes())
    sandbox.faults.add(Fault("1201", on="create", times=1))
    words = ("expand", photos, "--out", photos.parent / "w", "--to", "16:9", "--json")
    lines = []
    for more in (("--dry-run",), (), ("--dry-run",), ("--max-jobs", "0")):
        lines += (await comet(*words, *more)).lines
    assert len(lines) == 20
    assert [wrong for line in lines for wrong in violations(line, SCHEMA)] == []
    assert {line["outcome"] for line in lines} >= {"done", "invalid", "pending", "rejected"}


def test_the_schema_can_be_violated() -> None:
    """The check itself finds what is wrong."""
    assert list(violations({"source": 1, "odd": 2}, SCHEMA))
