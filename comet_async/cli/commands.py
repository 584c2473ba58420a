"""The commands, as cyclopts knows them; where each lives is written in the table of `help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App, Parameter
from cyclopts.help import DefaultFormatter

from comet_async import __version__
from comet_async.cli.help import COMMANDS, PROGRAM, USAGES

if TYPE_CHECKING:
    from cyclopts.help import InlineText
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


class _Pages(DefaultFormatter):
    """Lays out a command's page of help, and leaves the commands on it as they are.

    A command that is broken into lines can't be copied: its second half would be another one.
    """

    def render_description(
        self, console: Console, options: ConsoleOptions, description: InlineText
    ) -> None:
        """Write the paragraphs; only those are wrapped, as on the program's own page."""
        del options
        text: Text = description.primary_renderable  # type: ignore[assignment]  # of "rich"
        for line in text.split("\n", allow_blank=True):
            console.print(line, soft_wrap=line.plain.startswith(" "))


app: App = App(
    name="comet-async",
    help=PROGRAM,
    help_format="rich",
    help_formatter=_Pages(),
    version=__version__,
    version_flags=("--version", "-V"),
    # Defaults are in the help texts, where they can say more than "False" and "None".
    default_parameter=Parameter(negative=(), show_default=False),
)
for _name, _where, _help in (command for group in COMMANDS.values() for command in group):
    # By name: a command and what it needs are imported when it is called.
    app.command(
        f"comet_async.cli.{_where}",
        name=_name,
        help=_help,
        usage=f"Usage: comet-async {_name} {USAGES[_name]}",
    )
