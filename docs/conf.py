"""How the documentation is built: Sphinx, Furo, MyST; without a network, warnings are errors."""

from __future__ import annotations

import re
import tomllib
import zlib
from pathlib import Path

from sphinx.application import Sphinx

import comet_async

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

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" sections describe fields; they are not listed twice

default_role = "code"  # `words` in a docstring are code; a link is written as a role
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
        # A corner of a table without a word is no heading.
        page = page.replace('<th class="head"><p></p></th>', "<td></td>")
        page = re.sub(r"<td>.*?</td>", let_code_wrap, page, flags=re.DOTALL)
        path.write_text(page, "utf-8")


def install_from(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Give all install lines of a page the name in `PACKAGE`."""
    source[0] = source[0].replace("pip install '.[", f"pip install '{PACKAGE}[")


def setup(app: Sphinx) -> None:
    """Register them."""
    app.connect("source-read", install_from)
    app.connect("build-finished", make_accessible)


_folder = HERE / "_build" / "inventories"
_folder.mkdir(parents=True, exist_ok=True)
intersphinx_mapping = {
    table.stem: _pack_inventory(table, _folder)
    for table in sorted((HERE / "_inventories").glob("*.txt"))
}
