"""The commands, as cyclopts knows them; where each lives is told by the table of `texts`."""

from __future__ import annotations

from cyclopts import App, Parameter

from comet_async import __version__
from comet_async.cli import help as texts

app = App(
    name="comet-async",
    help=texts.PROGRAM,
    help_format="rich",
    version=__version__,
    # Defaults stand in the help texts, where they can say more than "False" and "None".
    default_parameter=Parameter(negative=(), show_default=False),
)
for _name, _where, _help in (command for group in texts.COMMANDS.values() for command in group):
    # By name: a command and what it needs are imported when it is called.
    app.command(f"comet_async.cli.{_where}", name=_name, help=_help)
