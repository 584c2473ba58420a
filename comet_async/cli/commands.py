"""The commands, as cyclopts knows them; where each lives is written in the table of `help`."""

from __future__ import annotations

from cyclopts import App, Parameter

from comet_async import __version__
from comet_async.cli.help import COMMANDS, PROGRAM, USAGES

app: App = App(
    name="comet-async",
    help=PROGRAM,
    help_format="rich",
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
