"""How a command is run, and how each of them ends: a status, and never a traceback."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from comet_async.cli.invocation import INTERRUPTED, Invocation
from comet_async.cli.output import NOT_DONE, Screen, status_of
from comet_async.errors import CometError
from comet_async.secret import RedactingFilter

_LATER = "what was sent is recorded: running the same command again goes on"


async def execute(
    call: Callable[[], Coroutine[Any, Any, int]], words: Sequence[str], *, debug: bool
) -> int:
    """Run a command and return its exit status.

    Args:
        call: The command with its arguments.
        words: The command line, to be shown when it can be run again.
        debug: Whether to show tracebacks and all of our own log lines.
    """
    invocation = Invocation(tuple(words), debug=debug)
    screen = invocation.screen
    with invocation.listening(), _log_lines(screen, debug=debug):
        try:
            return await call()
        except CometError as error:
            if debug:
                _trace(screen)
            screen.complain(error)
            return INTERRUPTED if invocation.interrupted else status_of(error)
        except asyncio.CancelledError:
            if not invocation.interrupted:
                raise
            screen.say("interrupted", word="comet-async:", style="bold")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last place where it can become one line
            return _surprise(error, screen, debug=debug)


def _surprise(error: Exception, screen: Screen, *, debug: bool) -> int:
    if debug:
        _trace(screen)
    text = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    screen.say(f"this should not happen: {what}", word="comet-async:", style="bold red")
    screen.say(f"  {_LATER}")
    if not debug:
        screen.say("  please report it as an issue of the project, with what --debug shows")
    return NOT_DONE


def _trace(screen: Screen) -> None:
    for line in traceback.format_exc().splitlines():
        screen.say(line, style="dim")


class _Lines(logging.Handler):
    """Log records as single lines above the progress bar, never with a traceback."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        self._screen.say(text, word=f"{record.levelname.lower()}:", style="dim")


@contextmanager
def _log_lines(screen: Screen, *, debug: bool) -> Generator[None, None, None]:
    """Show warnings of all libraries inside; with *debug* also our own details."""
    root, ours = logging.getLogger(), logging.getLogger("comet_async")
    handler, level = _Lines(screen), ours.level
    handler.addFilter(RedactingFilter())
    if not debug:
        handler.setLevel(logging.WARNING)
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG if debug else level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
