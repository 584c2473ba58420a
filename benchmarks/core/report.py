"""Tables and pages: what a part found, for the terminal and for the documentation."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import attrs

HEAD = """# Benchmarks

Measured, not promised: `nox -s bench` runs all of this on your machine (`-- --quick` for a
short run, `-- --only NAME` for one part). How: the server is a small one of the benchmark's
own, in its own process on loopback; each client runs in a fresh process, all in turns, round
after round. CPU is what the client's whole process used, all threads, user and system; memory
is the growth of its peak after a warm-up. Times drift from machine to machine and from hour to
hour, so the ratio to "raw aiohttp" is what counts: it is taken within each round, and the
median of all rounds is shown. "raw aiohttp" is tuned by hand, checks nothing and records
nothing; it is the practical limit. "floor" is the same bytes over a bare asyncio protocol.
"""

_LIBRARIES = (
    *("aiohttp", "attrs", "tenacity", "yarl", "pybase64", "cyclopts", "rich"),
    *("httpx", "cometapi", "openai", "runwayml", "fal-client", "replicate", "cattrs", "msgspec"),
)


@attrs.frozen(kw_only=True)
class Table:
    """A table; the first column is text, all others are figures.

    Attributes:
        title: What it shows; may be empty.
        head: The columns' names.
        rows: The cells.
    """

    title: str = ""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it for a page."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines] if self.title else lines)

    def plain(self) -> str:
        """Return it for a terminal."""
        rows = [[cell.replace("**", "") for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(self.head))]
        lines = []
        for first, *rest in rows:
            cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
        return "\n".join([self.title, *lines] if self.title else lines)


@attrs.frozen(kw_only=True)
class Section:
    """What one part of the benchmark found.

    Attributes:
        name: The part.
        title: Its heading.
        words: What was measured and what it means.
        limit: What keeps our figures from being better now, in one sentence.
        tables: The figures.
        plots: File names of its images, and what each shows.
        text: Anything else, as it was printed.
    """

    name: str
    title: str
    words: str
    limit: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[str, str]] = ()
    text: str = ""

    def markdown(self, *, command: str) -> str:
        """Return it for the page, *command* being what measures it."""
        parts = [f"## {self.title}", self.words]
        parts += [f"What limits us now: {self.limit}"] if self.limit else []
        parts += [f"![{alt}](../_static/bench/{file})" for file, alt in self.plots]
        parts += [table.markdown() for table in self.tables]
        if self.text:
            parts.append(f"```text\n{self.text.strip()}\n```")
        parts.append(f"*{machine()}; {versions()}. `{command}`, {today()}.*")
        return "\n\n".join(parts)

    def plain(self) -> str:
        """Return it for a terminal."""
        parts = [f"== {self.title} ==", *(table.plain() for table in self.tables)]
        return "\n\n".join([*parts, self.text] if self.text else parts)


def say(text: str) -> None:
    """Print *text*."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def median(values: Sequence[float]) -> float:
    """Return the median, 0 of nothing."""
    return statistics.median(values) if values else 0.0


def today() -> str:
    """Return the date."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def machine() -> str:
    """Return what this machine is."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = found[1].strip() if found else model
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{model}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def versions() -> str:
    """Return the versions of the libraries that are installed."""
    found = []
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def write(page: Path, sections: Sequence[Section], order: Sequence[str], command: str) -> None:
    """Put *sections* into *page*, in the order of their names; others stay as they are.

    So does the summary, which is written by hand.
    """
    old = page.read_text() if page.exists() else ""
    summary = re.findall(r"^(## In short\n.*?)\n(?=<!-- part: )", old, re.DOTALL | re.MULTILINE)
    parts = dict(re.findall(r"<!-- part: (\S+) -->\n(.*?)(?=\n<!-- part: |\Z)", old, re.DOTALL))
    parts |= {section.name: section.markdown(command=command) + "\n" for section in sections}
    texts = [f"<!-- part: {name} -->\n{parts[name].strip()}\n" for name in order if name in parts]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join([HEAD, *summary, *texts]))
