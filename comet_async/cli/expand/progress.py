"""How far a run has come: a bar that lives on a terminal, plain lines elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from comet_async._images.rules import shorten, show
from comet_async.cli.console import STYLES, Screen, counted, duration, money
from comet_async.cli.expand.totals import RunTotals

if TYPE_CHECKING:
    from comet_async.outcomes import Outcome

QUIET = 10.0
"""Seconds without a line after which a line about the whole run is written."""

_WIDE = max(map(len, STYLES))


@attrs.define(eq=False)
class RunProgress:
    """Shows a run while it goes on; a context manager.

    Attributes:
        screen: Where.
        totals: What to show.
        free: True when nothing is paid.
    """

    screen: Screen
    totals: RunTotals
    free: bool = False
    _bar: Progress | None = attrs.field(default=None, init=False)
    _row: TaskID = attrs.field(default=TaskID(0), init=False)
    _spoke: float = attrs.field(init=False)
    _hints: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._spoke = self.totals.clock()
        if self.screen.live:
            self._bar = Progress(
                SpinnerColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                console=self.screen.console,
                transient=True,
                # Standard output is a program's business; ours stays above the bar by itself.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._row = self._bar.add_task(self.facts(), total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ended(self, outcome: Outcome) -> None:
        """Write the line of one source."""
        self._spoke = self.totals.clock()
        source, files = shown(outcome.source), [shown(str(path)) for path in outcome.files]
        if outcome.error is None:
            text = f"{source} → {', '.join(files)}" if files else source
        else:
            text = f"{source}: {short(outcome.error.message, outcome.source)}"
        word = str(outcome.status)
        self.screen.say(text, word=f"{word:<{_WIDE}}", style=STYLES.get(word, ""))
        hint = outcome.error.hint if outcome.error is not None else None
        for line in (*outcome.notes, *([hint] if hint and hint not in self._hints else [])):
            self.screen.say(f"{' ' * _WIDE} {line}", style="dim")
        self._hints |= {hint} if hint else set()  # a thousand equal hints help nobody
        self.refresh()

    def refresh(self) -> None:
        """Show the newest numbers, if it is time."""
        if self._bar is not None:
            total = self.totals.total
            self._bar.update(
                self._row, completed=self.totals.count, total=total, description=self.facts()
            )
        elif self.totals.clock() - self._spoke >= QUIET:
            self._spoke = self.totals.clock()
            self.screen.say(f"… {self.facts()}")

    def facts(self) -> str:
        """Return the numbers in a few words."""
        totals = self.totals
        words = [
            f"{totals.count:,} of {'…' if totals.total is None else f'{totals.total:,}'} ended"
        ]
        if totals.in_flight:
            words.append(f"{totals.in_flight:,} in flight")
        words += [f"{many:,} {word}" for word, many in totals.ended.items() if word != "done"]
        if not self.free and totals.cost:
            words.append(f"about {money(totals.cost)}")
        if totals.left:
            words.append(f"about {duration(totals.left)} left")
        return " · ".join(words)


def shown(source: str) -> str:
    """Return *source* as it is shown: a data URI is endless, and other names can be long."""
    return "data URI" if source.startswith("data:") else shorten(source)


def short(message: str, source: str) -> str:
    """Return *message* without the source that stands before it on the line."""
    for name in (source, show(source), Path(source).name):  # messages shorten long names
        for prefix in (f"image: {name} ", f"{name} "):
            if name and message.startswith(prefix):
                return message[len(prefix) :]
    return message


def summary(totals: RunTotals, *, out: Path, free: bool) -> list[str]:
    """Return what came of a run, a line each."""
    parts = [f"{many:,} {word}" for word, many in sorted(totals.ended.items())]
    of = f" of {totals.total:,}" if totals.total and totals.total > totals.count else ""
    lines = [f"{', '.join(parts) or 'nothing ended'}{of} in {duration(totals.seconds)}"]
    if totals.ended["done"]:
        lines.append(f"the files are in {shown(str(out))}")
    if not free:
        lines.append(cost_line(totals))
    if not free and totals.awaited:  # a sandbox of this command forgets them
        which = f"{totals.awaited:,} of {totals.ended['pending']:,} pending"
        lines.append(f"accepted and billed: {which}; the next run does not pay for that again")
    return lines


def cost_line(totals: RunTotals) -> str:
    """Return what a run has cost, as far as we can tell."""
    if not (totals.bought or totals.doubtful):
        return "nothing was bought by this run"
    parts = []
    if totals.bought:
        cost = money(totals.price * totals.bought)
        parts.append(f"bought {counted(totals.bought, 'image')}, about {cost}")
    if totals.doubtful:
        cost = money(totals.price * totals.doubtful)
        parts.append(f"{counted(totals.doubtful, 'image')} may have been paid, about {cost}")
    return f"{'; '.join(parts)} (an estimate, not a bill)"
