"""The front gateway: every public name is there, says what it is, and costs nothing until used."""

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import comet_async

SOURCE = ast.parse(Path(comet_async.__file__).read_text("utf-8"))

# What `import comet_async` must not load: each is imported when it is first needed.
HEAVY = {"aiohttp", "tenacity", "attr", "attrs", "yarl", "sqlite3", "PIL", "numpy"}


def names_for_type_checkers() -> set[str]:
    """Return the names that the package imports under `if TYPE_CHECKING:`."""
    blocks = [
        node
        for node in SOURCE.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.asname or alias.name
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_what_is_there() -> None:
    """`__all__` and the imports for type checkers are the same list."""
    assert len(comet_async.__all__) == len(set(comet_async.__all__))
    assert names_for_type_checkers() == set(comet_async.__all__) - {"__version__"}


def test_dir_shows_every_name() -> None:
    """`dir()` shows the public names before they are first used."""
    code = "import comet_async, json; print(json.dumps(dir(comet_async)))"
    assert set(comet_async.__all__) <= set(json.loads(in_new_python(code)))


def test_version_is_the_packages() -> None:
    """`__version__` and pyproject.toml agree."""
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
    assert comet_async.__version__ == tomllib.loads(text)["project"]["version"]


@pytest.mark.parametrize("name", comet_async.__all__)
def test_each_name_explains_itself(name: str) -> None:
    """`help(comet_async.X)` is not empty, and classes and functions say what they are for."""
    value = getattr(comet_async, name)
    assert pydoc.plain(pydoc.render_doc(value)).strip()
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "the docstring that attrs makes is no help"


def test_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module, so that `hasattr` works."""
    with pytest.raises(AttributeError, match=r"comet_async.*CometSesion"):
        _ = comet_async.CometSesion


def test_import_is_light() -> None:
    """Importing the package loads no dependency and no heavy part of the standard library."""
    # The difference, because a tool that watches the run (coverage) has modules of its own.
    code = """
        import json, sys
        before = set(sys.modules)
        import comet_async
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    loaded = {name.partition(".")[0] for name in json.loads(in_new_python(code))}
    assert "comet_async" in loaded
    assert not loaded & HEAVY


def in_new_python(code: str) -> str:
    """Return what *code* prints in a Python of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
