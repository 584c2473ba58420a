"""The table of faults in the documentation: complete, and each row held by a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "failures.md").read_text("utf-8")


def test_every_fault_has_a_row() -> None:
    """No number of F01 to F68 is missing."""
    found: set[int] = set()
    for cell in re.findall(r"^\| (F[^|]*) \|", TABLE, re.MULTILINE):
        first, *rest = (int(number) for number in re.findall(r"F(\d+)", cell))
        found |= set(range(first, rest[-1] + 1)) if "–" in cell else {first, *rest}
    assert found == set(range(1, 69))


def test_every_row_names_a_test_that_exists() -> None:
    """A row whose test was renamed or removed is a promise that nothing holds."""
    for line in TABLE.splitlines():
        if not line.startswith("| ") or line.startswith("| |"):
            continue
        named = re.search(r"`(tests/[\w/]+\.py)::(\w+)` \|$", line)
        assert named is not None, line
        path, name = named.groups()
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        assert name in {node.name for node in tree.body if isinstance(node, functions)}, line
