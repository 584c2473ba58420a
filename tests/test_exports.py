"""The facade: every public name is there, says what it is, and costs nothing until used."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import pydoc
import re
import subprocess
import sys
import textwrap
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import attrs
import pytest

import comet_async
from comet_async import events, otel, testing, types

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


# Their constructors are no concern of a program's.
MADE_BY_OTHERS = {types.TaskStream}


def public_classes() -> Iterator[type]:
    """Yield every class that a program can name without reaching into private packages."""
    for module in (comet_async, types, events, otel, testing):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        values = (getattr(module, name) for name in names)
        yield from (
            value
            for value in values
            if inspect.isclass(value) and value.__module__.startswith("comet_async.")
        )


def annotations(cls: type) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the annotations of a class's public fields and methods, each with its namespace."""
    for base in (base for base in cls.__mro__ if base.__module__.startswith("comet_async.")):
        namespace = vars(sys.modules[base.__module__])
        for name, text in vars(base).get("__annotations__", {}).items():
            if not name.startswith("_"):
                yield getattr(text, "__forward_arg__", str(text)), namespace
        for name, member in vars(base).items():
            if name == "__init__" and (base in MADE_BY_OTHERS or attrs.has(base)):
                continue  # attrs makes it from the fields
            if name.startswith("_") and name not in {"__init__", "__call__"}:
                continue
            unbound = getattr(member, "__func__", getattr(member, "fget", member))
            function = inspect.unwrap(unbound) if callable(unbound) else None
            if inspect.isfunction(function):
                yield from ((str(text), namespace) for text in function.__annotations__.values())


def test_whatever_a_signature_names_is_public() -> None:
    """A program that annotates a wrapper imports from `comet_async` or `comet_async.types` only."""
    modules = (comet_async, types, events)
    public = [getattr(comet_async, name) for name in comet_async.__all__]
    public += [value for module in modules for value in vars(module).values()]
    hidden = set()
    for cls in public_classes():
        for text, namespace in annotations(cls):
            for node in ast.walk(ast.parse(text)):
                value = namespace.get(node.id) if isinstance(node, ast.Name) else None
                is_alias = typing.get_origin(value) is not None
                module = getattr(value, "__module__", None) or ""
                ours = is_alias or module.startswith("comet_async.")
                if ours and not any(value is each for each in public):
                    hidden.add(f"{cls.__name__}: {text}")
    assert not hidden


def names_of(module: str) -> set[str]:
    """Return ``__all__`` of a module that may need an extra, without importing it."""
    path = Path(comet_async.__file__).parent / module
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise LookupError(module)


def test_reference_has_every_name_once() -> None:
    """The pages of the reference list each public name by hand: none is forgotten or doubled."""
    folder = Path(__file__).parent.parent / "docs" / "reference"
    pages = "\n".join(page.read_text("utf-8") for page in folder.rglob("*.md"))
    directive = r"^\.\. (?:auto|py:)\w+:: comet_async\.(?:\w+\.)?(\w+)(?:\(\))?$"
    listed = Counter(re.findall(directive, pages, re.MULTILINE))
    public = {*comet_async.__all__, *types.__all__}
    for module in ("fleet.py", "postgres.py", "sandbox/__init__.py"):
        public |= names_of(module)
    assert {name: listed[name] for name in public} == dict.fromkeys(public, 1)


def test_reference_has_every_method_of_a_session() -> None:
    """The page of the session lists them by hand, in groups."""
    page = Path(__file__).parent.parent / "docs" / "reference" / "api" / "session.md"
    listed = re.findall(r"auto\w+:: comet_async\.CometSession\.(\w+)", page.read_text("utf-8"))
    members = [name for name in vars(comet_async.CometSession) if not name.startswith("_")]
    assert sorted(listed) == sorted(members)


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
