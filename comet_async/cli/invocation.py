"""One call of the program: its words, and what Ctrl-C and SIGTERM do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

from comet_async.cli.output import Screen

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
