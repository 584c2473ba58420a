"""How the documentation is built: Sphinx, Furo, MyST; without a network, warnings are errors."""

from __future__ import annotations

import tomllib
import zlib
from pathlib import Path

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
]
exclude_patterns = ["_build", "_inventories", "examples"]
html_theme = "furo"
html_title = f"comet_async {release}"
html_show_sourcelink = False

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
nitpick_ignore = [
    ("py:class", "JSON"),  # an alias that names itself; Sphinx can't follow it
    # Protocols and facts of inner rooms: named by signatures, explained in the text.
    *(
        ("py:class", name)
        for name in (
            "Clock",
            "Credentials",
            "Event",
            "NotificationSource",
            "ScheduleLike",
            "TaskSource",
            "TracerProvider",
            "MeterProvider",
            "EngineChoice",
            "collections.Counter",
            "comet_async._backoff.Backoff",
            "comet_async._images.load.FileIdentity",
            "comet_async._images.streams.AsyncReadableFile",
            "comet_async._images.streams.PillowImage",
            "comet_async._images.streams.ReadableFile",
            "URL",
            "comet_async.clock.Clock",
            "comet_async._journal.records.Changes",
            "comet_async._journal.records.Destination",
            "comet_async._journal.records.JobRecord",
            "comet_async._journal.records.Limits",
            "comet_async._journal.records.Refusal",
            "comet_async._journal.states.JobState",
            "comet_async.waiter._Unset",
            "comet_async._wire.decode.Notification",
        )
    ),
]


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


_folder = HERE / "_build" / "inventories"
_folder.mkdir(parents=True, exist_ok=True)
intersphinx_mapping = {
    table.stem: _pack_inventory(table, _folder)
    for table in sorted((HERE / "_inventories").glob("*.txt"))
}
