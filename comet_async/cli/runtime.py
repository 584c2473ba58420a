"""One call of the program: its words, its signals, and its end: a status, never a traceback.

The first Ctrl-C (or SIGTERM) stops a command gently, the second one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from comet_async.cli.console import NOT_DONE, Screen, describe_os_error, status_of
from comet_async.cli.options import General
from comet_async.errors import CometError, InputError
from comet_async.secret import RedactingFilter

INTERRUPTED = 130
"""Exit status after a signal: 128 + SIGINT, as shells count."""

_SHOW_CURSOR = "\x1b[?25h"
_CLEAR_LINE = "\r\x1b[2K"

# A second signal within this many seconds is the first one, delivered twice: `timeout` of GNU's
# coreutils signals the program and then its whole process group.
_ECHO = 0.3

_RECORDED = "what was sent is recorded: run the same command again to resume"


@attrs.define(eq=False)
class Invocation:
    """One call of the program.

    Attributes:
        words: The arguments, as typed.
        screen: Where the command writes.
        debug: True to show tracebacks and all log messages.
        on_signal: What the first signal does; by default it cancels the command.
        last_words: What the second signal writes before the process ends.
        interrupted: True once a signal has come.
    """

    words: tuple[str, ...]
    screen: Screen = attrs.field(factory=Screen)
    debug: bool = False
    on_signal: Callable[[], object] | None = None
    last_words: Callable[[], Sequence[str]] | None = None
    interrupted: bool = attrs.field(default=False, init=False)
    _since: float = attrs.field(default=0.0, init=False)

    @property
    def command_line(self) -> str:
        """The command to type for the same call again."""
        return shlex.join(["comet-async", *self.words])

    @contextmanager
    def handling_signals(self) -> Generator[None, None, None]:
        """Handle signals inside: the first one gently, the second one at once."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        signals = (signal.SIGINT, signal.SIGTERM)
        # Not everywhere: outside the main thread, and on Windows, there are no handlers.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for each in signals:
                loop.add_signal_handler(each, self._on_signal, task)
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

    def _on_signal(self, task: asyncio.Task[Any] | None) -> None:
        if self.interrupted:
            if time.monotonic() - self._since > _ECHO:
                self._leave_now()
            return
        self.interrupted, self._since = True, time.monotonic()
        if self.on_signal is not None:
            self.on_signal()
        elif task is not None:
            task.cancel()

    def _leave_now(self) -> None:
        """End the process at once: whatever was being sent is looked up by the next run."""
        lines = ["comet-async: stopped now; the next run looks up what was being sent"]
        if self.last_words is not None:
            lines += self.last_words()
        # A progress bar hides the cursor, and its last frame would stay.
        start = f"{_CLEAR_LINE}{_SHOW_CURSOR}" if self.screen.errors.isatty() else "\n"
        self.screen.errors.write(start + "".join(f"{self.screen.clean(each)}\n" for each in lines))
        self.screen.errors.flush()
        self.screen.output.flush()
        os._exit(INTERRUPTED)


CURRENT: ContextVar[Invocation] = ContextVar("CURRENT")
"""The call that is running."""


# ---------------------------------------------------------------------------- running a command


async def execute(
    call: Callable[[], Coroutine[Any, Any, int]],
    words: Sequence[str],
    general: General | None = None,
) -> int:
    """Run a command and return its exit status.

    Args:
        call: The command with its arguments.
        words: The command line, to be shown when it can be run again.
        general: The options that every command has.
    """
    general = general or General()
    screen = Screen(quiet=general.quiet, verbose=general.verbose or general.debug)
    invocation = Invocation(tuple(words), screen, debug=general.debug)
    with invocation.handling_signals():
        try:
            with _log_file(general, screen), _log_messages(screen, debug=general.debug):
                status = await _run(call, invocation)
        except InputError as error:  # the log file
            screen.complain(error)
            return status_of(error)
    return status or NOT_DONE if screen.lost else status


async def _run(call: Callable[[], Coroutine[Any, Any, int]], invocation: Invocation) -> int:
    screen = invocation.screen
    try:
        return await call()
    except CometError as error:
        if invocation.debug:
            _trace(screen)
        screen.complain(error)
        return INTERRUPTED if invocation.interrupted else status_of(error)
    except asyncio.CancelledError:
        if not invocation.interrupted:
            raise
        screen.say("interrupted", word="comet-async:", style="bold", problem=True)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place where it can become one line
        if invocation.debug:
            _trace(screen)
        explain(error, screen, debug=invocation.debug)
        return NOT_DONE


def explain(error: Exception, screen: Screen, *, debug: bool) -> None:
    """Write what an error means that is not one of the library's."""
    if (reason := _of_the_machine(error)) is not None:
        screen.say(reason, word="comet-async:", style="bold red", problem=True)
        screen.say(f"  {_RECORDED}", problem=True)
        return
    text = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    screen.say(f"unexpected error: {what}", word="comet-async:", style="bold red", problem=True)
    screen.say(f"  {_RECORDED}", problem=True)
    if not debug:
        screen.say("  please report it with the output of --debug", problem=True)


def _of_the_machine(error: Exception) -> str | None:
    """Return the reason if the machine is what failed, and not the program."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{describe_os_error(error)}{where}"
    if isinstance(error, MemoryError):
        return "the system has no memory left for this program"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return (
            "the system refuses to start another thread: too many processes are running, or too "
            "little memory is left (see ulimit -a)"
        )
    return None


def _trace(screen: Screen) -> None:
    for line in traceback.format_exc().splitlines():
        screen.say(line, style="dim", problem=True)


@contextmanager
def _log_file(general: General, screen: Screen) -> Generator[None, None, None]:
    """Append every message to the file of ``--log``.

    Raises:
        InputError: It can't be opened.
    """
    if general.log is None:
        yield
        return
    try:
        file = general.log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        raise InputError(
            f"--log {general.log} can't be written: {describe_os_error(error)}",
            field="log",
            hint="name a file in a folder that exists",
        ) from None
    with file:
        screen.log = file
        try:
            yield
        finally:
            screen.log = None


class _Messages(logging.Handler):
    """Log records as single lines above the progress bar, never with a traceback."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        facts = vars(record)
        outcome = facts.get("comet_event") == "failed" or facts.get("comet_caller") == "gone"
        if outcome and not self._screen.verbose:
            return  # it is shown as an outcome
        text = " ".join(record.getMessage().split())
        self._screen.say(
            text,
            word=f"{record.levelname.lower()}:",
            style="dim",
            problem=record.levelno >= logging.WARNING,
        )


@contextmanager
def _log_messages(screen: Screen, *, debug: bool) -> Generator[None, None, None]:
    """Show warnings of all libraries inside; with ``-v`` our own details, too."""
    root, ours = logging.getLogger(), logging.getLogger("comet_async")
    handler, level = _Messages(screen), ours.level
    handler.addFilter(RedactingFilter())
    if not debug:
        handler.setLevel(logging.INFO if screen.verbose else logging.WARNING)
    root.addHandler(handler)
    if debug or screen.verbose:
        ours.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
