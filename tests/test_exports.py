"""The facade: every public name is there, says what it is, and costs nothing until used."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import pydoc
import subprocess
import sys
import textwrap
import typing

import aiohttp
import pytest

import comet_async

# What `import comet_async` must not load: each is imported when it is first needed.
HEAVY = {"aiohttp", "tenacity", "attr", "attrs", "yarl", "sqlite3", "PIL", "numpy"}


def test_star_import_brings_every_name() -> None:
    """`__all__` is complete, though it is written nowhere."""
    code = "from comet_async import *; import json; print(json.dumps(dir()))"
    assert set(comet_async.__all__) <= set(json.loads(in_new_python(code)))


@pytest.mark.parametrize("name", comet_async.__all__)
def test_annotations_can_be_resolved(name: str) -> None:
    """Programs that read annotations (cattrs, pydantic, FastAPI) find every name in them."""
    value = getattr(comet_async, name)
    if inspect.isclass(value):
        typing.get_type_hints(value, localns={"aiohttp": aiohttp})  # imported late on purpose


def test_dir_shows_every_name() -> None:
    """`dir()` shows the public names before they are first used."""
    code = "import comet_async, json; print(json.dumps(dir(comet_async)))"
    assert set(comet_async.__all__) <= set(json.loads(in_new_python(code)))


def test_version_is_the_packages() -> None:
    """`__version__` is what the installed distribution says."""
    assert comet_async.__version__ == importlib.metadata.version("comet-async")


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
