"""What people read (standard error, and tables) and what programs read (JSON lines).

Rule of this file: every text goes through `clean`, which hides keys and signed addresses and
lets nothing through that could steer a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comet_async.errors import CometError, ConfigError, InputError, JournalError, StaleRecordError
from comet_async.secret import Secret, redact

_SHORTEST = 8  # of a key that is hidden by its letters

DONE, NOT_DONE, USAGE, ACCOUNT = 0, 1, 2, 3
"""Exit statuses; the fourth, 130, is in `comet_async.cli.runtime`."""

STYLES: Mapping[str, str] = {
    "done": "green",
    "failed": "red",
    "rejected": "red",
    "invalid": "yellow",
    "uncertain": "magenta",
    "pending": "cyan",
}


def status_of(error: CometError) -> int:
    """Return the exit status that *error* stands for when it ends a command."""
    if isinstance(error, StaleRecordError):
        return NOT_DONE
    if isinstance(error, ConfigError | InputError | JournalError):
        return USAGE
    return ACCOUNT if error.account_wide else NOT_DONE


@attrs.define(eq=False)
class Screen:
    """Where a command writes.

    Attributes:
        json: True to write JSON lines to standard output.
        secrets: Keys that must not appear in any text.
        lost: True once nobody reads standard output any more.
    """

    json: bool = False
    secrets: tuple[Secret, ...] = attrs.field(default=(), repr=False)
    lost: bool = attrs.field(default=False, init=False)
    console: Console = attrs.field(
        factory=lambda: Console(stderr=True, highlight=False), init=False
    )

    @property
    def live(self) -> bool:
        """True when a progress bar may be drawn."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.json

    def hide(self, secrets: Iterable[Secret]) -> None:
        """Hide *secrets* wherever they stand in a text from now on."""
        # A key of a few letters would turn every text into dots, and protect nothing.
        self.secrets = tuple(each for each in secrets if len(each.reveal()) >= _SHORTEST)

    def say(self, text: str, *, word: str = "", style: str = "") -> None:
        """Write a line for people, on standard error.

        Args:
            text: The line.
            word: A word before it, in *style*.
            style: A style of rich's.
        """
        line = Text(f"{word} " if word else "", style=style)
        line.append(self.clean(text), style="" if word else style)
        try:
            self.console.print(line, soft_wrap=True)
        except (BrokenPipeError, SystemExit):  # rich makes the second of the first
            self.console.quiet = True  # nobody reads; paid work goes on all the same

    def complain(self, error: CometError) -> None:
        """Write what went wrong, and what to do, each on a line."""
        self.say(error.message, word="comet-async:", style="bold red")
        if error.hint:
            self.say(f"  {error.hint}")

    def tell(self, text: str) -> None:
        """Write a line of the result, on standard output."""
        self._write(f"{self.clean(text)}\n")

    def emit(self, record: Mapping[str, object]) -> None:
        """Write one JSON object as a line on standard output, at once."""
        self._write(f"{json.dumps(record)}\n")

    def table(
        self, titles: Sequence[str], rows: Sequence[Sequence[str]], *, long: Sequence[str] = ()
    ) -> None:
        """Write a table on standard output; tab-separated when it is no terminal.

        Args:
            titles: Of the columns; the first one holds a state or the like.
            rows: The cells, "-" for an empty one.
            long: Titles of the columns that may be broken into lines. The others are to be
                copied, so they stay whole.
        """
        console = Console(highlight=False)
        if not console.is_terminal:
            for row in (titles, *rows):
                self.tell("\t".join(row))
            return
        used = [at for at in range(len(titles)) if any(row[at] != "-" for row in rows)]
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in (titles[at] for at in used):
            table.add_column(title, overflow="fold", no_wrap=title not in long)
        for row in ([each[at] for at in used] for each in rows):
            first, *others = map(self.clean, row)
            table.add_row(Text(first, style=STYLES.get(first, "")), *map(Text, others))
        with console.capture() as captured:
            console.print(table)
        self._write(captured.get())

    def clean(self, text: str) -> str:
        """Return *text* on one line, without secrets and control characters."""
        return printable(redact(text, *self.secrets))

    def _write(self, text: str) -> None:
        if self.lost:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes standard output once more at its end: into nothing, then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.lost = True


def printable(text: str) -> str:
    """Return *text* with every character that could steer a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def error_record(error: CometError | None, screen: Screen) -> dict[str, object] | None:
    """Return *error* as it stands in a JSON line."""
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": screen.clean(error.message),
        "code": error.code,
        "hint": None if error.hint is None else screen.clean(error.hint),
    }


def money(amount: Decimal) -> str:
    """Return *amount* in USD: cents, and tenths of a cent where there are any."""
    return f"${amount:,.3f}".removesuffix("0")


def duration(seconds: float) -> str:
    """Return *seconds* as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def counted(number: int, noun: str) -> str:
    """Return "1 image" or "2 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
