"""What people read (standard error, and tables) and what programs read (JSON lines).

Every text goes through `Screen.clean`, which hides keys and signed addresses and lets nothing
through that could steer a terminal. No stream can end a command: a terminal that can't show a
letter gets an escape for it, and a stream that can't be written to is given up.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, TextIO

import attrs
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from comet_async.cli.hints import message_of, with_option
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import CometError, ConfigError, InputError, JournalError, StaleRecordError
from comet_async.secret import Secret, redact

_GAP = 2  # columns between those of a table
_READABLE = 24  # columns that a long text needs to be read with ease
_INDENT = 4
_SHORTEST = 8  # of a key that is hidden by its letters

DONE, NOT_DONE, USAGE, ACCOUNT = 0, 1, 2, 3
"""Exit statuses; the fifth, 130, is in `comet_async.cli.runtime`."""

STYLES: Mapping[str, str] = {
    "done": "green",
    "earlier": "green",
    "failed": "red",
    "rejected": "red",
    "invalid": "yellow",
    "uncertain": "magenta",
    "pending": "cyan",
}

_ASCII = str.maketrans({"→": "->", "…": "...", "·": "-", "×": "x", "–": "-"})


GONE = "its reader has gone"


def status_of(error: CometError) -> int:
    """Return the exit status that *error* stands for when it ends a command."""
    if isinstance(error, StaleRecordError):
        return NOT_DONE
    if isinstance(error, ConfigError | InputError | JournalError):
        return USAGE
    return ACCOUNT if error.account_wide else NOT_DONE


class SafeStream:
    """A text stream whose writes never fail: what can't be written is dropped.

    Args:
        stream: The stream; None when the process was started without it.

    Attributes:
        failure: Why nothing more is written, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: str | None = None if stream is not None else "it is closed"

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def shows_unicode(self) -> bool:
        """True when arrows and the like can be shown."""
        return self.encoding.lower().replace("-", "").startswith(("utf8", "utf16", "utf32"))

    def isatty(self) -> bool:
        """Return True if a terminal is behind it."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Return the stream's descriptor.

        Raises:
            OSError: There is none.
        """
        if self._stream is None:
            raise OSError(errno.EBADF, "the stream is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write *text*, with escapes for what the encoding lacks."""
        if not self.shows_unicode:
            text = text.translate(_ASCII)
        encoding = self.encoding
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        self._try(lambda stream: stream.flush())

    def _try(self, use: Callable[[TextIO], object]) -> None:
        if self._stream is None or self.failure is not None:
            return
        try:
            use(self._stream)
        except BrokenPipeError:
            self._give_up(GONE)
        except OSError as error:
            self._give_up(describe_os_error(error))
        except ValueError:  # closed by the program that calls us
            self._give_up("it is closed")

    def _give_up(self, failure: str) -> None:
        self.failure = failure
        # Python flushes the standard streams once more at its end: into nothing, then.
        try:
            descriptor = self.fileno()
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        except (OSError, ValueError):
            self._stream = None


@attrs.define(eq=False)
class Screen:
    """Where a command writes.

    Attributes:
        json: True to write JSON lines to standard output.
        events: True to write messages as JSON lines, too, to standard error.
        quiet: True to write problems only.
        verbose: True to write details as well.
        secrets: Keys that must not appear in any text.
        console: Standard error.
        log: A file that gets each message as well, with its time, or None.
    """

    json: bool = False
    events: bool = False
    quiet: bool = False
    verbose: bool = False
    secrets: tuple[Secret, ...] = attrs.field(default=(), repr=False)
    log: IO[str] | None = attrs.field(default=None, repr=False)
    output: SafeStream = attrs.field(factory=lambda: SafeStream(sys.stdout), init=False)
    errors: SafeStream = attrs.field(factory=lambda: SafeStream(sys.stderr), init=False)
    console: Console = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.console = self._console(self.errors)

    def _console(self, stream: SafeStream) -> Console:
        # Wide when it is a file: a message is a line, however long.
        return Console(file=stream, highlight=False)  # type: ignore[arg-type]  # it is enough

    @property
    def lost(self) -> bool:
        """True once standard output can't be written to any more."""
        return self.output.failure is not None

    @property
    def live(self) -> bool:
        """True when a progress bar may be drawn."""
        drawn = self.console.is_terminal and not self.console.is_dumb_terminal
        return drawn and not (self.json or self.quiet or self.events)

    def hide(self, secrets: Iterable[Secret]) -> None:
        """Hide *secrets* wherever they occur in a text from now on."""
        # A key of a few letters would turn every text into dots, and protect nothing.
        self.secrets = tuple(each for each in secrets if len(each.reveal()) >= _SHORTEST)

    def say(self, text: str, *, word: str = "", style: str = "", problem: bool = False) -> None:
        """Write a line for people, on standard error.

        Args:
            text: The line.
            word: A word before it, in *style*.
            style: A style of rich's.
            problem: Whether it is written with ``--quiet``, too.
        """
        self._say(self.console, text, word, style, problem=problem)

    def answer(self, text: str, *, word: str = "", style: str = "", problem: bool = False) -> None:
        """Write a line of what was asked for; as `say`, but where the table is.

        It is on standard output, unless that has JSON lines.
        """
        if self.json or self.events:
            self.say(text, word=word, style=style, problem=problem)
        elif not self.lost:
            self._say(self._console(self.output), text, word, style, problem=problem)
            self._report_loss()

    def _say(self, console: Console, text: str, word: str, style: str, *, problem: bool) -> None:
        cleaned = self.clean(text)
        whole = f"{word} {cleaned}" if word else cleaned
        if self.log is not None:
            now = datetime.fromtimestamp(SYSTEM_CLOCK.time(), UTC)
            SafeStream(self.log).write(f"{now:%Y-%m-%d %H:%M:%SZ} {whole}\n")  # type: ignore[arg-type]  # a text file
        if self.quiet and not problem:
            return
        if self.events:
            self._event("message", {"text": whole.strip()})
            return
        body = cleaned if word else cleaned.lstrip()
        margin = f"{word} " if word else " " * (len(cleaned) - len(body))
        line = Text(body, style="" if word else style)
        # Broken between words on a terminal; a command to copy, and what goes to a file, is not.
        if console.is_terminal and not cleaned.startswith("  comet-async "):
            width = max(_READABLE, console.width - len(margin))
            lines = line.wrap(console, width)
            for each in lines:
                each.rstrip()
            line = Text(f"\n{' ' * len(margin)}").join(lines)
        console.print(Text.assemble((margin, style), line), soft_wrap=True)

    def event(self, name: str, facts: Mapping[str, object]) -> None:
        """Write an event for programs, on standard error, if events are wanted."""
        if self.events:
            self._event(name, facts)

    def _event(self, name: str, facts: Mapping[str, object]) -> None:
        self.errors.write(f"{json.dumps({'event': name, **facts})}\n")
        self.errors.flush()

    def complain(self, error: CometError) -> None:
        """Write what went wrong, and what to do, each on a line."""
        self.say(message_of(error), word="comet-async:", style="bold red", problem=True)
        if hint := with_option(error):
            self.say(f"  {hint}", problem=True)

    def tell(self, text: str) -> None:
        """Write a line of the result, on standard output."""
        self._write(f"{self.clean(text)}\n")

    def emit(self, record: Mapping[str, object]) -> None:
        """Write one JSON object as a line on standard output, at once."""
        self._write(f"{json.dumps(record)}\n")

    def table(
        self, titles: Sequence[str], rows: Sequence[Sequence[str]], *, long: Sequence[str] = ()
    ) -> None:
        """Write a table on standard output; tab-separated when it is not a terminal.

        Args:
            titles: Of the columns; the first one holds a state or the like.
            rows: The cells, "-" for an empty one.
            long: Titles of the columns that may be broken into lines. The others are to be
                copied, so they stay whole.
        """
        console = self._console(self.output)
        if not console.is_terminal:
            for row in (titles, *rows):
                self.tell("\t".join(row))
            return
        used = [at for at in range(len(titles)) if any(row[at] != "-" for row in rows)]
        least = sum(
            min(width, _READABLE) if titles[at] in long else width
            for at in used
            for width in [max(cell_len(row[at]) for row in (titles, *rows))]
        )
        if console.width < least + _GAP * (len(used) - 1):
            self._paragraphs(titles, rows)
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in (titles[at] for at in used):
            table.add_column(title, overflow="fold", no_wrap=title not in long)
        for row in ([each[at] for at in used] for each in rows):
            first, *others = map(self.clean, row)
            table.add_row(Text(first, style=STYLES.get(first, "")), *map(Text, others))
        with console.capture() as captured:
            console.print(table)
        self._write(captured.get())

    def _paragraphs(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write each row as lines of its own: a terminal is too narrow for a table."""
        console = self._console(self.output)
        with console.capture() as captured:
            for row in rows:
                first, second, *others = map(self.clean, row)
                console.print(Text.assemble((first, STYLES.get(first, "")), " ", second))
                for title, cell in zip(titles[2:], others, strict=True):
                    if cell != "-":
                        console.print(Padding(Text(f"{title}: {cell}"), (0, 0, 0, _INDENT)))
        self._write(captured.get())

    def clean(self, text: str) -> str:
        """Return *text* on one line, without secrets and control characters."""
        return printable(redact(text, *self.secrets))

    def _write(self, text: str) -> None:
        if self.lost:
            return
        self.output.write(text)
        self.output.flush()
        self._report_loss()

    def _report_loss(self) -> None:
        """Say why standard output can't be written to, unless its reader has just gone."""
        if (failure := self.output.failure) in {None, GONE}:
            return
        text = f"can't write to standard output: {failure}"
        self.say(text, word="comet-async:", style="bold red", problem=True)


def describe_os_error(error: OSError) -> str:
    """Return what the system refused, in words that name a full disk as one."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "no space is left on the disk"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "too many files are open"
    return error.strerror or type(error).__name__


def printable(text: str) -> str:
    """Return *text* with every character that could steer a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def error_record(error: CometError | None, screen: Screen) -> dict[str, object] | None:
    """Return *error* as a JSON line shows it."""
    if error is None:
        return None
    hint = with_option(error)
    return {
        "type": type(error).__name__,
        "message": screen.clean(message_of(error)),
        "code": error.code,
        "hint": None if hint is None else screen.clean(hint),
    }


def counted(number: int, noun: str) -> str:
    """Return "1 image" or "2 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
