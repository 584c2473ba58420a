"""The table of faults in the documentation: complete, and each row held by a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "explanation" / "failures.md").read_text("utf-8")


def test_every_fault_has_a_row() -> None:
    """No number of F01 to F68 and of F70 to F75 is missing."""
    assert numbers() == {*range(1, 69), *range(70, 76)}


def test_every_row_has_a_test() -> None:
    """A row without a test is a promise that nothing holds."""
    assert marked() >= numbers()


def test_no_test_names_a_row_that_is_not_there() -> None:
    """A mark with a wrong number would hold nothing."""
    assert marked() <= numbers()


def numbers() -> set[int]:
    """Return the numbers of the table's rows."""
    found: set[int] = set()
    for cell in re.findall(r"^\| (F[^|]*) \|", TABLE, re.MULTILINE):
        first, *rest = (int(number) for number in re.findall(r"F(\d+)", cell))
        found |= set(range(first, rest[-1] + 1)) if "–" in cell else {first, *rest}
    return found


def marked() -> set[int]:
    """Return the numbers that tests are marked with."""
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.failure":
                rows = eval(f"[{', '.join(map(ast.unparse, node.args))}]")  # noqa: S307 - our own
                found |= {int(row.removeprefix("F")) for row in rows}
    return found
