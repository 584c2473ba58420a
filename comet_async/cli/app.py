"""The program: its commands, and the way from the words of a command line to one of them.

Rule of this file: commands and what they need are imported when they are called.
"""

# ruff: noqa: PLC0415 - the rule above

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Group, Parameter

from comet_async import __version__
from comet_async.cli import texts

if TYPE_CHECKING:
    from collections.abc import Coroutine

Call = Callable[[], "Coroutine[Any, Any, int]"]
"""A command with its arguments; gives its exit status."""

USAGE = 2

app = App(
    name="comet-async",
    help=texts.PROGRAM,
    help_format="rich",
    version=__version__,
    # Defaults stand in the help texts, where they can say more than "False" and "None".
    default_parameter=Parameter(negative=(), show_default=False),
)
_FOLDERS = Group("Folders", sort_key=0)
_TASKS = Group("Single tasks", sort_key=1)
_REST = Group("Trying and checking", sort_key=2)
_COMMANDS = (
    ("expand", "expand:expand", texts.EXPAND, _FOLDERS),
    ("preview", "preview:preview", texts.PREVIEW, _FOLDERS),
    ("jobs", "jobs:jobs", texts.JOBS, _FOLDERS),
    ("report", "report:report", texts.REPORT, _FOLDERS),
    ("status", "tasks:status", texts.STATUS, _TASKS),
    ("wait", "tasks:wait", texts.WAIT, _TASKS),
    ("list", "tasks:list_tasks", texts.LIST, _TASKS),
    ("sandbox", "sandbox:sandbox", texts.SANDBOX, _REST),
    ("doctor", "doctor:doctor", texts.DOCTOR, _REST),
)
for _place, (_name, _where, _help, _group) in enumerate(_COMMANDS):
    app.command(f"comet_async.cli.{_where}", name=_name, help=_help, group=_group, sort_key=_place)


def launch(words: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    call = _parse(words)
    if isinstance(call, int):
        return call
    import asyncio

    from comet_async.cli.running import execute

    return asyncio.run(execute(call, words, debug=_cut(words)[1]))


async def run(words: Sequence[str]) -> int:
    """Run one command line on the running loop and return its exit status."""
    from comet_async.cli.running import execute

    call = _parse(words)
    return call if isinstance(call, int) else await execute(call, words, debug=_cut(words)[1])


def _cut(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words without ``--debug``, and whether it was among them.

    It is an option of every command; behind ``--`` it is a word like any other.
    """
    end = list(words).index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return [*kept, *words[end:]], len(kept) < end


def _parse(words: Sequence[str]) -> Call | int:
    """Return the command with its arguments, or the exit status if there is nothing to run."""
    kept, _ = _cut(words)
    try:
        command, bound, _ = app.parse_args(kept, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return _refuse(kept, " ".join(str(error).split()))
    call = partial(command, *bound.args, **bound.kwargs)
    if inspect.iscoroutinefunction(command):
        return call
    call()  # help or version: cyclopts' own, and no coroutine
    return 0


def _refuse(words: Sequence[str], why: str) -> int:
    from comet_async.cli.output import Screen

    names = [name for name, *_ in _COMMANDS]
    named = f"{words[0]} " if words and words[0] in names else ""
    screen = Screen()
    screen.say(why, word="comet-async:", style="bold red")
    screen.say(f"  comet-async {named}--help says how it is used")
    return USAGE
