"""The way from the words of a command line to a command that runs.

Whatever takes time to import is imported when it is needed.
"""

# ruff: noqa: PLC0415 - the sentence above

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from comet_async.cli.help import COMMANDS, answer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from comet_async.cli.options import General
    from comet_async.cli.settings import Layer

    Command: TypeAlias = Callable[[], Coroutine[Any, Any, int]]

USAGE = 2

_HELP = {"--help", "-h"}
_FRONT = {"--quiet", "-q", "--verbose", "-v", "--debug"}


def launch(words: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    bound = _parse(words)
    if isinstance(bound, int):
        return bound
    import asyncio

    from comet_async.cli.console import Screen
    from comet_async.cli.runtime import execute, explain

    status: int | None = None

    async def run_and_keep() -> None:
        nonlocal status
        status = await execute(bound[0], words, bound[1])

    try:
        asyncio.run(run_and_keep())
    except RuntimeError as error:  # the loop needs a thread, to end those of its executor
        if status is None:
            explain(error, Screen(), debug=False)
    return 1 if status is None else status


async def run(words: Sequence[str]) -> int:
    """Run one command line on the running loop and return its exit status."""
    from comet_async.cli.runtime import execute

    bound = _parse(words)
    return bound if isinstance(bound, int) else await execute(bound[0], words, bound[1])


def _arrange(words: Sequence[str]) -> list[str]:
    """Return the words with the command first: options of every command may precede it."""
    rest, front = list(words), list[str]()
    while rest and (rest[0] in _FRONT or rest[0].partition("=")[0] == "--log"):
        many = 2 if rest[0] == "--log" else 1  # its value follows
        front, rest = front + rest[:many], rest[many:]
    if rest[:1] in ([], ["--help"], ["-h"], ["--version"], ["-V"]):
        return rest  # nothing runs, so these options change nothing
    if rest[:1] == ["help"]:
        rest = [*rest[1:2], "--help"]
    if "--" in rest:  # what follows is a file, even if its name begins with a dash
        end = rest.index("--") + 1
        rest[end:] = [f"./{word}" if _is_dashed(word) else word for word in rest[end:]]
    return [*rest[:1], *front, *rest[1:]]


def _is_dashed(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _parse(words: Sequence[str]) -> tuple[Command, General | None] | int:
    """Return the command and its general options, or the exit status if nothing is to run."""
    arranged = _arrange(words)
    if (text := answer(arranged)) is not None:
        print(text, end="", flush=True)  # noqa: T201 - what was asked for
        return 0
    return _bind(arranged)


def _bind(words: Sequence[str]) -> tuple[Command, General | None] | int:
    """Let cyclopts read the words."""
    import inspect

    from cyclopts import CycloptsError

    from comet_async.cli.commands import app
    from comet_async.errors import ConfigError

    try:
        # Files that set options are not read for help: it must be there at once, and whatever
        # they say.
        app.config = () if _HELP.intersection(words) else _layers()
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return _refuse(words, _reason(error, words))
    except ConfigError as error:
        return _refuse(words, error.message, error.hint)
    call = partial(command, *bound.args, **bound.kwargs)
    if inspect.iscoroutinefunction(command):
        return call, bound.arguments.get("general")
    call()  # help or version: cyclopts' own, and not a coroutine
    return 0


def _layers() -> tuple[Layer, ...]:
    from comet_async.cli.settings import layers

    return layers()


def _reason(error: Exception, words: Sequence[str]) -> str:
    """Return what a usage error says, without the list of commands that it cuts off."""
    from cyclopts import CoercionError, MissingArgumentError, UnusedCliTokensError

    text = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword:
            return f"{error.keyword} needs a value"
        return f"{error.argument.name} is missing{_similar(error.argument.name, words)}"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument: {error.unused_tokens[0]}"
    text = re.sub(r'unable to convert (".*?") into (?:int|float)\.', r"\1 is not a number.", text)
    text = re.sub(r'unable to convert (".*?") into bool\.', r"\1 is not true or false.", text)
    text = re.sub(r'"([0-9]+)%" is not a number\.', _as_share, text)
    if isinstance(error, CoercionError) and error.token is not None:
        file = "" if error.token.source == "cli" else error.token.source
        if file and file not in text:  # where to correct it
            text = f"{file}: {text}"
    return text.partition(" Available commands: ")[0] if text.endswith("...") else text


def _similar(option: str, words: Sequence[str]) -> str:
    """Return a question about the word that may have been meant as *option*."""
    import difflib

    from comet_async.cli.commands import app

    arguments = app[words[0]].assemble_argument_collection(parse_docstring=False)
    known = {name for argument in arguments for name in argument.names}
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [name for name in options if name not in known]
    near = difflib.get_close_matches(option, unknown, n=1)
    return f". Did you mean {option} instead of {near[0]}?" if near else ""


def _as_share(found: re.Match[str]) -> str:
    return f"{found[0]} Did you mean {int(found[1]) / 100:g}?"


def _refuse(words: Sequence[str], why: str, hint: str | None = None) -> int:
    from comet_async.cli.console import Screen

    names = {name for commands in COMMANDS.values() for name, *_ in commands}
    named = f"{words[0]} " if words and words[0] in names else ""
    screen = Screen()
    screen.say(why, word="comet-async:", style="bold red")
    screen.say(f"  {hint}" if hint else f"  Run 'comet-async {named}--help' for usage.")
    return USAGE
