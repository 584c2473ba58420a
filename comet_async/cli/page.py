"""The program's own page of help, and its version: there at once.

Rule of this file: it imports the standard library only. To load cyclopts and rich, which lay out
the pages of the commands, takes several times as long as all that is done here.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec

from comet_async import __version__
from comet_async.cli import texts

_WIDTH = 80
_INDENT = 11  # where the words about a command begin
_STYLES = {"[bold]": "1", "[cyan]": "36", "[/bold]": "0", "[/cyan]": "0"}


def answer(words: Sequence[str]) -> str | None:
    """Return what to print for these words, or None if they are a matter for cyclopts.

    Raises:
        ModuleNotFoundError: Nothing but this page would work: the extra is not installed.
    """
    for name in ("cyclopts", "rich"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if list(words) == ["--version"]:
        return f"{__version__}\n"
    return page(styled=_colours()) if list(words) in ([], ["--help"], ["-h"]) else None


def page(*, styled: bool) -> str:
    """Return the page, 80 columns wide.

    Args:
        styled: Whether it may be bold and coloured.
    """
    groups = [
        "\n".join([f"[bold]{title}[/bold]", *(_entry(name, words) for name, _, words in commands)])
        for title, commands in texts.COMMANDS.items()
    ]
    usage = "[bold]Usage:[/bold] comet-async COMMAND"
    text = "\n\n".join([usage, texts.PROGRAM.rstrip(), *groups, texts.OPTIONS])
    for mark, code in _STYLES.items():
        text = text.replace(mark, f"\x1b[{code}m" if styled else "")
    return text


def _entry(name: str, words: str) -> str:
    lines = textwrap.wrap(words.partition("\n")[0], _WIDTH - _INDENT)
    return f"  [cyan]{name:{_INDENT - 2}}[/cyan]" + f"\n{'':{_INDENT}}".join(lines)


def _colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
