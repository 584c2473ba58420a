"""``comet-async report``: a page of all images of a folder, before and after."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli import journal_files
from comet_async.cli.console import DONE
from comet_async.cli.runtime import CURRENT


async def report(folder: Annotated[Path, Parameter(help="The folder that --out named.")], /) -> int:
    """Write the page."""
    from comet_async._tools.report import write_report

    path = journal_files.path_of(folder)
    async with journal_files.reading(path) as (journal, _busy):
        written = await write_report(folder, journal)
    CURRENT.get().screen.tell(str(written))
    return DONE
