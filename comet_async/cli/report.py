"""``comet-async report``: a page of all images of a folder, before and after."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli import journal_files
from comet_async.cli.console import DONE
from comet_async.cli.hints import in_options
from comet_async.cli.options import USUAL, General
from comet_async.cli.runtime import CURRENT
from comet_async.errors import InputError


async def report(
    folder: Annotated[Path, Parameter(name="DIR", help="The folder that was given as --out.")],
    /,
    *,
    link: Annotated[
        bool,
        Parameter(help="Refer to the images where they are, instead of embedding small copies."),
    ] = False,
    open: Annotated[bool, Parameter(help="Open the page in the browser.")] = False,  # noqa: A002 - the option's name
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Write the page."""
    from comet_async._tools.report import write_report

    _check_folder(folder)
    path = journal_files.path_of(folder)
    async with journal_files.reading(path) as (journal, _busy):
        written = await write_report(folder, journal, link=link, words=in_options)
    screen, address = CURRENT.get().screen, written.absolute().as_uri()
    # Terminals open addresses with a click; programs want the path.
    screen.tell(address if screen.output.isatty() else str(written))
    if open:
        import webbrowser

        await asyncio.get_running_loop().run_in_executor(None, webbrowser.open, address)
    return DONE


def _check_folder(folder: Path) -> None:
    """Refuse an address.

    Raises:
        InputError: It is one.
    """
    if not re.fullmatch("[a-z][a-z0-9]+:", (folder.parts or ("",))[0]):
        return
    raise InputError(
        "a report is written into a folder of results, next to their journal",
        field="folder",
        limit="the folder that was given as --out",
        hint="for a journal in PostgreSQL, use 'comet-async jobs URL', which lists its jobs, or "
        "'comet-async fleet URL', which sums them up",
    )
