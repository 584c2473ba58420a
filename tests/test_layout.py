"""The order of the house: who may import whom, and what only one room may import."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import comet_async

# From the ground up. A module imports only from lower floors and, on its own floor, from modules
# that stand to its left. `sandbox` and `cli` are packages: inside, their files are free.
FLOORS = (
    "errors clock secret addresses parallel turns",
    "geometry models",
    "formats codes envelope snapshots wire hazards schedule webhooks states keys",
    "checks originals prepare images kinds expand generation try_on catalog auth gateways settings",
    "network mishaps upload transport retrying persistence files",
    "records rules memory schema statements journalfile salvage writer journal",
    "api",
    "account events agenda patience pacing sources crew polling folding streams waiter download",
    "quota desk recovery resolving purchase reading jobs outcomes",
    "folder shelf delivery batch runs engine",
    "session",
    "callbacks report preview doctor trial testing sandbox cli __main__",
)
ORDER = [(floor, name) for floor, names in enumerate(FLOORS) for name in names.split()]
ROOMS = [name for _floor, name in ORDER]

# Otherwise one mistake would hide on both sides of the wire.
SANDBOX_KNOWS = {"geometry", "models", "formats", "errors", "clock"}

# Who imports it when the program runs; type checkers may see it elsewhere. aiohttp stands for its
# client (servers are made of aiohttp.web, see `foreign_imports`); the sandbox is a program of its
# own, which fetches pictures by address and sends callbacks.
OWNERS = {
    "aiohttp": {"transport", "sandbox"},
    "tenacity": {"retrying"},
    "sqlite3": {"journal"},
}

LONGEST_FILE = 400  # lines; a longer one is two rooms

PACKAGE = Path(comet_async.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
REPOSITORY = Path(__file__).parent.parent


def room_of(path: Path) -> str:
    """Return the room that the file *path* belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


class WithoutTypes(ast.NodeTransformer):
    """Cut out what only type checkers see."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Drop the node if it is `if TYPE_CHECKING:`."""
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


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


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms that the file imports from."""
    names = imported_modules(ast.parse(path.read_text("utf-8")))
    ours = {name for name in names if f"{name}.".startswith("comet_async.")}
    ours.discard("comet_async.__version__")  # a word, not a room
    return {name.split(".")[1] if "." in name else "the root" for name in ours}


def foreign_imports(path: Path) -> set[str]:
    """Return the other packages that the file loads, without aiohttp's server side."""
    names = imported_modules(WithoutTypes().visit(ast.parse(path.read_text("utf-8"))))
    return {name.split(".")[0] for name in names if not f"{name}.".startswith("aiohttp.web.")}


def by_room(path: Path) -> str:
    """Return a short name for a file, to tell the cases apart."""
    return path.relative_to(PACKAGE).as_posix()


def test_the_plan_names_every_room() -> None:
    """No module is missing from the table, and none stands in it that isn't there."""
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=by_room)
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower floors, or from its left on the same floor."""
    room = room_of(path)
    allowed = SANDBOX_KNOWS if room == "sandbox" else set(ROOMS[: ROOMS.index(room)])
    assert imported_rooms(path) - {room} <= allowed


@pytest.mark.parametrize(("package", "owners"), OWNERS.items(), ids=OWNERS)
def test_one_module_imports(package: str, owners: set[str]) -> None:
    """Each of the foreign libraries with a room of its own is imported there and nowhere else."""
    assert {room_of(path) for path in FILES if package in foreign_imports(path)} == owners


@pytest.mark.parametrize("path", FILES, ids=by_room)
def test_files_stay_short(path: Path) -> None:
    """A file that one can't read in a sitting is cut in two."""
    lines = path.read_text("utf-8").count("\n")
    assert lines <= LONGEST_FILE


def test_lowest_versions_are_the_lower_bounds() -> None:
    """What `nox -s lowest` installs is what pyproject.toml promises."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    promised = {line.partition(",")[0] for line in sum(extras, project["dependencies"])}
    lines = (REPOSITORY / "constraints" / "lowest.txt").read_text("utf-8").splitlines()
    tested = {line.replace("==", ">=") for line in lines if not line.startswith("#")}
    assert promised == tested
