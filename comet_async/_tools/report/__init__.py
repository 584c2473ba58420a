"""A page with all images of a folder: before and after, what they cost, and what went wrong.

`entries` reads the facts from the journal, `cards` adds small copies of the images, and `pages`
renders them. A page loads nothing: styles, script and previews are part of the file.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from comet_async._journal.records import Journal
from comet_async._tools.report.cards import CardMaker
from comet_async._tools.report.entries import read_entries
from comet_async._tools.report.pages import write_pages
from comet_async.errors import MissingExtraError


def check_requirements() -> None:
    """Check that a report can be written, before anything is paid.

    Raises:
        MissingExtraError: Jinja2 or Pillow is not installed.
    """
    for module, name in (("jinja2", "Jinja2"), ("PIL", "Pillow")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"a report needs {name}", extra="report")


async def write_report(
    folder: Path, journal: Journal, *, link: bool = False, words: Callable[[str], str] = str
) -> Path:
    """Write the report of *folder* and return its path; an earlier report is replaced.

    Args:
        folder: The output folder. Sources with a relative path are looked for from the working
            folder, then from the folder's parent.
        journal: The folder's journal.
        link: True to refer to the images where they are, False (the default) to embed small
            copies, so that the file can be sent and moved.
        words: Gives reasons and remedies in the words of the reader's program.

    Raises:
        MissingExtraError: Jinja2 or Pillow is not installed.
        InputError: A file of that name is there and is not a report.
        ConfigError: It can't be written.
    """
    check_requirements()
    entries = await read_entries(journal)
    maker = CardMaker(
        folder=folder,
        root=_common_root([entry.source for entry in entries]),
        link=link,
        simulated=await journal.read_meta("sandbox") is True,
        words=words,
    )
    write = functools.partial(write_pages, maker, entries)
    return await asyncio.get_running_loop().run_in_executor(None, write)


def _common_root(sources: Sequence[str]) -> str:
    """Return the folders that all sources are in, with a "/" at the end, or nothing."""
    folders = [os.path.dirname(source) for source in sources if "://" not in source]  # noqa: PTH120 - text
    if not folders or len({os.path.isabs(each) for each in folders}) > 1:  # noqa: PTH117 - text
        return ""
    common = os.path.commonpath(folders)
    return f"{common}{os.sep}" if common else ""
