"""The layers: which unit may import which, and what only one unit may import."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import comet_async

# From the bottom up. A unit is a public module or a private package of `comet_async`; it imports
# only from units on lower layers, or from its left on the same layer. Inside a package, modules
# may import each other freely, without cycles.
LAYERS = (
    "errors clock _addresses _cancellation _fs _backoff _assets",
    "_validation models geometry secret _wire",
    "stores _images requests",
    "auth gateways config _http",
    "_journal journal _postgres postgres",
    "events schedules _polling waiter callbacks",
    "_results",
    "outcomes _jobs",
    "_runs runs session _fleet fleet types",
    "_tools testing otel sandbox pytest_plugin cli __main__",
)
UNITS = [name for layer in LAYERS for name in layer.split()]

# Otherwise one mistake would hide on both sides of the wire.
SANDBOX_KNOWS = {"geometry", "models", "_images", "errors", "clock", "_assets"}

# What only type checkers see of a higher layer: an error holds the task that it is about.
TYPED = {"errors": {"models"}}

# Who imports it when the program runs; type checkers may see it elsewhere. aiohttp stands for its
# client (servers are made of aiohttp.web, see `foreign_imports`); the sandbox is a program of its
# own, which fetches images by address and sends callbacks.
OWNERS = {
    "aiohttp": {"_http", "sandbox"},
    "tenacity": {"_backoff"},
    "sqlite3": {"_journal"},
    "psycopg": {"_postgres"},
    "pgqueuer": {"_fleet"},
    "obstore": {"stores"},
}

LONGEST_FILE = 1000  # lines; a reason to look, not to cut

PACKAGE = Path(comet_async.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
REPOSITORY = Path(__file__).parent.parent


def unit_of(path: Path) -> str:
    """Return the unit that the file *path* belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


class WithoutTypes(ast.NodeTransformer):
    """Cut out what only type checkers see."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Drop the node if it is `if TYPE_CHECKING:`."""
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@functools.cache
def parsed(path: Path, *, typed: bool = True) -> ast.Module:
    """Return the tree of a file; without *typed*, only what is run."""
    tree = ast.parse(path.read_text("utf-8"))
    return tree if typed else WithoutTypes().visit(tree)


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_units(path: Path, *, typed: bool = True) -> set[str]:
    """Return the units that the file imports from; without *typed*, only when it runs."""
    names = imported_modules(parsed(path, typed=typed))
    ours = {name for name in names if f"{name}.".startswith("comet_async.")}
    ours.discard("comet_async.__version__")  # a value, not a unit
    return {name.split(".")[1] if "." in name else "the root" for name in ours}


@functools.cache
def foreign_imports(path: Path) -> set[str]:
    """Return the other packages that the file loads, without aiohttp's server side."""
    names = imported_modules(parsed(path, typed=False))
    return {name.split(".")[0] for name in names if not f"{name}.".startswith("aiohttp.web.")}


def by_path(path: Path) -> str:
    """Return a short name for a file, to tell the cases apart."""
    return path.relative_to(PACKAGE).as_posix()


def test_layers_name_every_unit() -> None:
    """No module is missing from the table, and none stands in it that isn't there."""
    assert {unit_of(path) for path in FILES} == set(UNITS)


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower layers, or from its left on the same layer."""
    unit = unit_of(path)
    allowed = SANDBOX_KNOWS if unit == "sandbox" else set(UNITS[: UNITS.index(unit)])
    assert imported_units(path) - {unit} <= allowed | TYPED.get(unit, set())
    assert imported_units(path, typed=False) - {unit} <= allowed


@pytest.mark.parametrize(("package", "owners"), OWNERS.items(), ids=OWNERS)
def test_one_module_imports(package: str, owners: set[str]) -> None:
    """A library with a place of its own is imported there and nowhere else."""
    assert {unit_of(path) for path in FILES if package in foreign_imports(path)} == owners


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_only_the_command_line_names_options(path: Path) -> None:
    """The library speaks of arguments; `cli/hints.py` turns them into options."""
    if unit_of(path) == "cli":
        return
    strings = [
        node.value
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
    ]
    assert [text for text in strings if re.search(r"(^|[\s(])--[a-z]{2,}", text)] == []


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_files_stay_short(path: Path) -> None:
    """A file this long deserves a look: it may hold two concepts."""
    lines = path.read_text("utf-8").count("\n")
    assert lines <= LONGEST_FILE


def test_lowest_versions_are_the_lower_bounds() -> None:
    """What `nox -s lowest` installs is what pyproject.toml promises."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [re.sub(r"\[.*?\]", "", line) for line in chain(project["dependencies"], *extras)]
    promised = {re.split("[,;]", line)[0] for line in lines}
    lines = (REPOSITORY / "constraints" / "lowest.txt").read_text("utf-8").splitlines()
    tested = {line.replace("==", ">=") for line in lines if not line.startswith("#")}
    assert promised == tested
