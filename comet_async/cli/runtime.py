"""One call of the program: its words, and what Ctrl-C and SIGTERM do to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from comet_async.cli.console import NOT_DONE, Screen, status_of
from comet_async.errors import CometError
from comet_async.secret import RedactingFilter

INTERRUPTED = 130
"""Exit status after a signal: 128 + SIGINT, as shells count."""

_SHOW_CURSOR = "\x1b[?25h"

# A second signal within so many seconds is the first one, heard twice: `timeout` of GNU's
# coreutils signals the program and then its whole process group.
_ECHO = 0.3


@attrs.define(eq=False)
class Invocation:
    """One call of the program.

    Attributes:
        words: The arguments, as typed.
        screen: Where the command writes.
        debug: True to show tracebacks and all log lines.
        on_signal: What the first signal does; by default it cancels the command.
        interrupted: True once a signal has come.
    """

    words: tuple[str, ...]
    screen: Screen = attrs.field(factory=Screen)
    debug: bool = False
    on_signal: Callable[[], object] | None = None
    interrupted: bool = attrs.field(default=False, init=False)

    @property
    def command_line(self) -> str:
        """The command to type for the same call again."""
        return shlex.join(["comet-async", *self.words])

    @contextmanager
    def listening(self) -> Generator[None, None, None]:
        """Handle signals inside: the first one gently, the second one at once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        signals = (signal.SIGINT, signal.SIGTERM)

        first = 0.0

        def heard() -> None:
            nonlocal first
            if self.interrupted:
                if time.monotonic() - first > _ECHO:
                    _leave_now()
                return
            self.interrupted, first = True, time.monotonic()
            if self.on_signal is not None:
                self.on_signal()
            elif task is not None:
                task.cancel()

        # Not everywhere: outside the main thread there are no signals to be had.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for each in signals:
                loop.add_signal_handler(each, heard)
        token = CURRENT.set(self)
        try:
            yield
        finally:
            CURRENT.reset(token)
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                for each in signals:
                    loop.remove_signal_handler(each)
                    if self.interrupted:  # the command is ending: a second one changes nothing
                        signal.signal(each, signal.SIG_IGN)


CURRENT: ContextVar[Invocation] = ContextVar("CURRENT")
"""The call that is running."""


def _leave_now() -> None:
    """End the process at once: whatever was being sent is looked up by the next run."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():  # a progress bar hides the cursor
            sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.write("\ncomet-async: left at once; the next run looks up what was being sent\n")
        sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(INTERRUPTED)


# ---------------------------------------------------------------------------- running a command

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
