"""How the documentation is built: Sphinx, Furo, MyST; without a network, warnings are errors."""

from __future__ import annotations

import enum
import inspect
import re
import tomllib
import typing
import zlib
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry, PyClasslike, PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import comet_async
from comet_async import types

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]

project = "comet_async"
author = PROJECT["authors"][0]["name"]
project_copyright = f"2026, {author}"
release = comet_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_inventories", "examples"]
html_theme = "furo"
html_title = f"comet_async {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# Where the pages install from: a copy of the repository, until there is a release on PyPI.
PACKAGE = "."

copybutton_line_continuation_character = "\\"
copybutton_prompt_text = "$ "  # what a command prints is not copied with it

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

ALIASES = {name for name in types.__all__ if not inspect.isclass(getattr(types, name))}

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_type_aliases = {name: f"~comet_async.types.{name}" for name in ALIASES}
autodoc_type_aliases["EngineChoice"] = "~comet_async.sandbox.EngineChoice"
autodoc_type_aliases["web.Application"] = "aiohttp.web.Application"  # imported late
maximum_signature_line_length = 120  # a longer one has a line for each parameter
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" sections describe fields; they are not listed twice

default_role = "py:name"  # see `Name`
nitpicky = True
nitpick_ignore = [("py:class", "comet_async.postgres.T")]  # a type variable


def _pack_inventory(table: Path, folder: Path) -> tuple[str, str]:
    """Make Sphinx's inventory file of *table*; return the site's address and the file.

    Sphinx would fetch inventories from the sites, but a build must not need a network. The
    tables hold the few names that our pages link to: one ``name role page`` a line below a line
    with the site's address.
    """
    address, *names = table.read_text("utf-8").splitlines()
    entries = "".join(f"{name} {role} 1 {page} -\n" for name, role, page in map(str.split, names))
    header = (
        "# Sphinx inventory version 2\n"
        f"# Project: {table.stem}\n"
        "# Version:\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    packed = folder / f"{table.stem}.inv"
    packed.write_bytes(header.encode() + zlib.compress(entries.encode()))
    return address.removeprefix("# "), str(packed)


LONG_CODE = re.compile(r'(?<=<span class="pre">)[^<]{15,}')


def let_code_wrap(cell: re.Match[str]) -> str:
    """Return a cell of a table in which long code may be broken behind punctuation."""
    return LONG_CODE.sub(lambda code: re.sub(r"(?<=[/._(,=-])(?=\w)", "<wbr>", code[0]), cell[0])


def signature_without_list(signature: re.Match[str]) -> str:
    """Return a signature whose parameters have lines of their own (see pages.css) and no list."""
    text = re.sub(r"</?dl>", "", signature[0])
    return text.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def make_accessible(app: Sphinx, failed: Exception | None) -> None:
    """Complete what Sphinx and Furo leave out for screen readers and keyboards."""
    if failed is not None or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text("utf-8")
        # Captions of the table of contents are headings without a level.
        page = page.replace('role="heading">', 'role="heading" aria-level="2">')
        # What scrolls must be reachable with the keyboard.
        page = page.replace("<pre>", '<pre tabindex="0">')
        page = page.replace('<div class="table-wrapper ', '<div tabindex="0" class="table-wrapper ')
        # Two parts of the page have the same role: name them.
        page = page.replace(
            '<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Pages">'
        )
        page = re.sub(
            r'<aside class="toc-drawer([^"]*)">',
            r'<aside class="toc-drawer\1" aria-label="On this page">',
            page,
        )
        # Each parameter of a long signature is an item of a list that defines nothing.
        page = re.sub(r'<dt class="sig .*?</dt>', signature_without_list, page, flags=re.DOTALL)
        # A corner of a table without a word is no heading.
        page = page.replace('<th class="head"><p></p></th>', "<td></td>")
        page = re.sub(r"<td>.*?</td>", let_code_wrap, page, flags=re.DOTALL)
        path.write_text(page, "utf-8")


MODULES = [
    "comet_async",
    *(f"comet_async.{name}" for name in ("types", "events", "fleet", "postgres", "sandbox")),
]
"""Where the names that pages use without a module are looked for."""


def find_name(app: Sphinx, text: str) -> ObjectEntry | None:
    """Return what *text* names: a class, a method of the session ``comet``, or any full name."""
    objects = app.env.domains.python_domain.objects
    name = re.sub(r"^comet\.(\w+)(\(.*\))?$", r"CometSession.\1", text)
    places = [f"{module}.{name}" for module in MODULES if name[:1].isupper()]
    places += [name] if name.startswith("comet_async.") else []
    return next((objects[place] for place in places if place in objects), None)


def link_first_use(app: Sphinx, doctree: Any, page: str) -> None:  # noqa: ANN401 - docutils has no types
    """Make the first use of each name in a page a link to its description."""
    linked = set[str]()
    for code in list(doctree.findall(lambda node: node.tagname == "literal")):
        found = find_name(app, code.astext())
        above, inside = code.parent, set()
        while above is not None:
            inside.add(above.tagname)
            above = above.parent
        if found is None or inside & {"reference", "title", "desc_signature"}:
            continue
        where = f"{found.docname}#{found.node_id}"
        if where not in linked and found.docname != page:
            linked.add(where)
            args = app.builder, page, found.docname, found.node_id
            code.replace_self(make_refnode(*args, code.deepcopy()))


class Name(PyXRefRole):
    """`words` in a docstring: code, and a link where they name something of ours."""


def link_name(
    app: Sphinx,
    _env: BuildEnvironment,
    node: pending_xref,
    text: Any,  # noqa: ANN401 - a node of docutils, which has no types
) -> Any:  # noqa: ANN401 - the same
    """Return the link of a `Name` that its own module does not have, or else its text."""
    if node["reftype"] != "name":
        return None
    if found := find_name(app, node["reftarget"]):
        return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, text)
    return text


# The code of all functions that `asynccontextmanager` makes is the same.
CONTEXT_MANAGER = comet_async.CometSession.stream.__code__


def without_internals(
    _app: Sphinx, what: str, _name: str, value: object, _options: object, text: str, result: str
) -> tuple[str | None, str | None]:
    """Return a signature as a caller needs it: none of what only the library creates."""
    if (what == "exception" and value is not comet_async.CometError) or (
        inspect.isclass(value)
        and (issubclass(value, enum.Enum) or typing.is_typeddict(value) or is_protocol(value))
    ):
        return "", None
    # Defaults that are objects have no useful text.
    text = text and re.sub(r"=\s*(<[^>]*>|NOTHING)", "=...", text)
    result = result and by_alias(result)
    if result and getattr(value, "__code__", None) is CONTEXT_MANAGER:
        generator = r"collections\.abc\.AsyncGenerator\[(.*), None\]"
        result = re.sub(generator, r"contextlib.AbstractAsyncContextManager[\1]", result)
    return text and by_alias(text), result


def by_alias(text: str) -> str:
    """Return a signature with the names of aliases inside of other types."""
    return re.sub(r"TypeAliasForwardRef\('([^']*)'\)", r"\1", text)


def without_private_bases(
    _app: Sphinx, _name: str, _cls: type, _options: object, bases: list[type]
) -> None:
    """Show only the bases that a program can name."""
    bases[:] = [base for base in bases if not base.__name__.startswith("_")]


def is_protocol(cls: type) -> bool:
    """Return True if *cls* is a protocol itself, and not a class that fulfils one."""
    return bool(vars(cls).get("_is_protocol"))


# What some modules import late, so that their annotations name what they do not have.
NAMES = {name: getattr(comet_async, name) for name in cast("list[str]", comet_async.__all__)}
NAMES["aiohttp"] = aiohttp
MODE: Final = "fully-qualified-except-typing"
MODULE = re.compile(r"(?<![.\w])(?=[a-z_]\w*\.\w)")  # where a name with its module begins


def with_short_types(
    _app: Sphinx, _what: str, _name: str, value: object, _options: object, lines: list[str]
) -> None:
    """Show the types of fields as signatures show theirs: without modules, by their aliases."""
    hints: dict[str, object] = {}
    if inspect.isclass(value):
        hints = typing.get_type_hints(value, localns=NAMES)
    for number, line in enumerate(lines):
        if field := re.match(r":vartype (\w+): ", line):
            kind = stringify_annotation(hints[field[1]], MODE)
            for alias, text in expanded_aliases():
                kind = kind.replace(text, f"comet_async.types.{alias}")
            lines[number] = field[0] + MODULE.sub("~", kind)


def expanded_aliases() -> list[tuple[str, str]]:
    """Return the aliases with what Sphinx writes in their place, the longest first."""
    values = {name: getattr(types, name) for name in ALIASES}
    # An alias that contains itself (JSON) is written out once more where a field has it.
    holder = type("Holder", (), {"__annotations__": values, "__module__": types.__name__})
    hints = typing.get_type_hints(holder)
    both = [*values.items(), *hints.items()]
    texts = [(name, stringify_annotation(value, MODE)) for name, value in both]
    return sorted(texts, key=lambda each: len(each[1]), reverse=True)


def install_from(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Give all install lines of a page the name in `PACKAGE`."""
    source[0] = source[0].replace("pip install '.[", f"pip install '{PACKAGE}[")


def setup(app: Sphinx) -> None:
    """Register them."""
    for field in PyClasslike.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.add_role_to_domain("py", "name", Name())
    app.connect("missing-reference", link_name, priority=100)  # before other sites' names
    app.connect("autodoc-process-signature", without_internals)
    app.connect("autodoc-process-bases", without_private_bases)
    app.connect("autodoc-process-docstring", with_short_types, priority=900)  # after napoleon
    app.connect("doctree-resolved", link_first_use)
    app.connect("source-read", install_from)
    app.connect("build-finished", make_accessible)


_folder = HERE / "_build" / "inventories"
_folder.mkdir(parents=True, exist_ok=True)
intersphinx_mapping = {
    table.stem: _pack_inventory(table, _folder)
    for table in sorted((HERE / "_inventories").glob("*.txt"))
}
