"""The way from the words of a command line to a command that runs.

Rule of this file: whatever takes time to import is imported when it is needed.
"""

# ruff: noqa: PLC0415 - the rule above

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from comet_async.cli.help import answer

if TYPE_CHECKING:
    from collections.abc import Coroutine

Call = Callable[[], "Coroutine[Any, Any, int]"]
"""A command with its arguments; gives its exit status."""

USAGE = 2


def launch(words: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    call = _parse(words)
    if isinstance(call, int):
        return call
    import asyncio

    from comet_async.cli.runtime import execute

    return asyncio.run(execute(call, words, debug=_cut(words)[1]))


async def run(words: Sequence[str]) -> int:
    """Run one command line on the running loop and return its exit status."""
    from comet_async.cli.runtime import execute

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
    if (said := answer(kept)) is not None:
        print(said, end="", flush=True)  # noqa: T201 - what was asked for
        return 0
    return _bind(kept)


def _bind(words: Sequence[str]) -> Call | int:
    """Let cyclopts read the words."""
    import inspect

    from cyclopts import CycloptsError

    from comet_async.cli.commands import app

    try:
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return _refuse(words, " ".join(str(error).split()))
    call = partial(command, *bound.args, **bound.kwargs)
    if inspect.iscoroutinefunction(command):
        return call
    call()  # help or version: cyclopts' own, and no coroutine
    return 0


def _refuse(words: Sequence[str], why: str) -> int:
    from comet_async.cli.console import Screen
    from comet_async.cli.help import COMMANDS

    names = {name for commands in COMMANDS.values() for name, *_ in commands}
    named = f"{words[0]} " if words and words[0] in names else ""
    screen = Screen()
    screen.say(why, word="comet-async:", style="bold red")
    screen.say(f"  comet-async {named}--help says how it is used")
    return USAGE
