"""How far a run has come: a bar that lives on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self, TypeGuard

import attrs
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from comet_async._images.rules import shorten, without_source
from comet_async._tools.amounts import duration, money
from comet_async.cli.console import STYLES, Screen
from comet_async.cli.expand.totals import RunTotals, Unfinished
from comet_async.cli.hints import message_of, with_option
from comet_async.errors import CometError, InputError, RunStoppedError, WaitTimeoutError

if TYPE_CHECKING:
    from comet_async.outcomes import Outcome

SILENCE = 10.0
"""Seconds without a line after which a line about the whole run is written."""

_POLL_FAILURES = {
    "NotSentError": "the server can't be reached",
    "ConnectionLostError": "the server can't be reached",
    "NotFoundError": "the server does not know the tasks",
    "RateLimitError": "the server wants fewer requests",
    "ServerError": "the server reports errors of its own",
    "DecodeError": "the server's answers can't be read",
}
"""What polls that fail mean, by the error's name."""

_PATIENCE = 4
"""Failed polls of a task in a row after which the reason is shown: some fail in every long run."""

_WIDE = max(map(len, STYLES))
_BAR = 20
_SPINNER = 3  # columns, with the spaces beside it


@attrs.define(eq=False)
class RunProgress:
    """Shows a run while it continues; a context manager.

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
    _reported: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._spoke = self.totals.clock()
        if self.screen.live:
            self._bar = Progress(
                SpinnerColumn("dots" if self.screen.errors.shows_unicode else "line"),
                BarColumn(min(_BAR, self.screen.console.width // 5), complete_style="cyan"),
                TextColumn("{task.description}"),
                console=self.screen.console,
                transient=True,
                auto_refresh=False,  # by the run itself: there may be no thread left
                # Standard output is a program's business; ours stays above the bar by itself.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._row = self._bar.add_task(self.facts(), total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ended(self, outcome: Outcome, *, earlier: bool = False, equal: str | None = None) -> None:
        """Write the line of one source, if it says something new.

        Args:
            outcome: What became of it.
            earlier: Whether it was done before this run began.
            equal: The source whose image it equals, or None.
        """
        if outcome.error is not None:
            self._not_done(outcome)
        elif earlier and not self.screen.verbose:
            return  # a number at the end is enough
        else:
            self._reported.clear()  # polls work again: the next failure is news
            self._done(outcome, "earlier" if earlier else "done", equal)
        self._spoke = self.totals.clock()
        self.refresh()

    def poll_failed(self, error: str, failures: int) -> None:
        """Count a poll that failed, and say why once it keeps failing.

        Args:
            error: The name of the error's class.
            failures: How many polls of the task have failed in a row.
        """
        self.totals.retries += 1
        reason = _POLL_FAILURES.get(error, f"polls fail ({error})")
        if failures < _PATIENCE or reason in self._reported:
            return
        self._reported.add(reason)
        text = f"{reason}; still trying, and what was sent is recorded"
        self.screen.say(text, word="warning:", style="dim")
        self._spoke = self.totals.clock()

    def _done(self, outcome: Outcome, word: str, equal: str | None) -> None:
        source, files = shown(outcome.source), [shown(str(path)) for path in outcome.files]
        text = f"{source} → {', '.join(files)}" if files else source
        if equal is not None:
            text += f" (same image as {shown(equal)}: paid once)"
        self._line(word, text)
        for note in outcome.notes:
            self.screen.say(f"{' ' * _WIDE} {note}", style="dim")

    def _not_done(self, outcome: Outcome) -> None:
        why = unfinished(outcome, free=self.free)
        again = self.totals.note(why, outcome.source) > 1
        if why.status == "not sent":
            self.totals.not_sent[outcome.status] += 1
        # Equal ones are counted at the end, and so is what a stop leaves behind.
        if again or isinstance(outcome.error, RunStoppedError) or _stops_all(outcome):
            return
        reason = why.reason
        if _is_taken(outcome.error):  # only this line says by which file
            reason = without_source(message_of(outcome.error), outcome.source)
        self._line(why.status, f"{shown(outcome.source)}: {reason}", problem=True)
        if why.hint and why.hint not in self._hints:
            self._hints.add(why.hint)
            self.screen.say(f"{' ' * _WIDE} {why.hint}", style="dim", problem=True)

    def _line(self, word: str, text: str, *, problem: bool = False) -> None:
        style = STYLES.get(word, "")
        self.screen.say(text, word=f"{word:<{_WIDE}}", style=style, problem=problem)

    def refresh(self) -> None:
        """Show the newest numbers, if it is time."""
        if self._bar is not None:
            totals = self.totals
            self._bar.update(
                self._row, completed=totals.count, total=totals.total, description=self.facts()
            )
            self._bar.refresh()
        elif self.totals.clock() - self._spoke >= SILENCE:
            self._spoke = self.totals.clock()
            self.screen.say(f"… {self.facts(width=None)}")

    def facts(self, *, width: int | None = 0) -> str:
        """Return the numbers in a few words, the most important ones if not all fit.

        Args:
            width: Columns; 0 for what the terminal leaves beside the bar, None for no limit.
        """
        parts = self._parts()
        if width == 0:
            width = self.screen.console.width - min(_BAR, self.screen.console.width // 5) - _SPINNER
        while width is not None and len(parts) > 1 and len(_joined(parts)) >= width:
            parts.remove(max(parts))
        return _joined(parts)

    def _parts(self) -> list[tuple[int, int, str]]:
        """Return rank (the highest is left out first on a narrow terminal), place and words."""
        totals, cost = self.totals, self.totals.cost_so_far
        total = "…" if totals.total is None else f"{totals.total:,}"
        bad = [f"{many:,} {word}" for word, many in totals.ended.items() if word != "done"]
        parts = [
            (0, f"{totals.count:,} of {total}"),
            (3, f"{totals.uploading:,} uploading" if totals.uploading else ""),
            (3, f"{totals.waiting:,} waiting" if totals.waiting else ""),
            (3, f"{totals.retrying:,} retrying" if totals.retrying else ""),
            (5, f"{totals.saving:,} saving" if totals.saving else ""),
            (6, f"{totals.in_flight:,}/{totals.slots:,} slots" if totals.in_flight else ""),
            (7, f"{totals.retries:,} retries" if totals.retries > totals.retrying else ""),
            (4, ", ".join(bad)),
            (2, f"about {money(cost)}" if not self.free and cost else ""),
            (1, duration(totals.seconds)),
            (1, f"about {duration(totals.left)} left" if totals.left else ""),
        ]
        return [(rank, place, text) for place, (rank, text) in enumerate(parts) if text]

    def event(self) -> dict[str, object]:
        """Return the numbers for programs."""
        totals = self.totals
        return {
            "seconds": round(totals.seconds, 1),
            "seconds_left": None if totals.left is None else round(totals.left, 1),
            "total": totals.total,
            "ended": totals.count,
            "outcomes": {str(status): many for status, many in totals.ended.items()},
            "uploading": totals.uploading,
            "waiting": totals.waiting,
            "saving": totals.saving,
            "slots": totals.slots,
            "retrying": totals.retrying,
            "retries": totals.retries,
            "billed_images": totals.bought,
            "estimate_usd": "0" if self.free else str(totals.cost),
        }


def _joined(parts: list[tuple[int, int, str]]) -> str:
    return " · ".join(text for _, _, text in sorted(parts, key=lambda part: part[1]))


def _stops_all(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.account_wide and not outcome.error.task_id


def _is_taken(error: CometError | None) -> TypeGuard[InputError]:
    """Return True if another file has the name of the result."""
    return isinstance(error, InputError) and error.field == "out"


def unfinished(outcome: Outcome, *, free: bool = False) -> Unfinished:
    """Return why a source is not done, in words that are equal for equal reasons.

    Args:
        outcome: What became of the source.
        free: True when nothing is billed.
    """
    if outcome.error is None:
        return Unfinished(status=str(outcome.status), reason="", hint=None)
    status = "not sent" if _stops_all(outcome) else str(outcome.status)
    reason = without_source(message_of(outcome.error), outcome.source)
    key = outcome.external_task_id
    if key:
        reason = reason.replace(f"{key} ", "").replace(key, "")
    hint = with_option(outcome.error)
    accepted = "accepted" if free else "accepted and billed"
    if hint is not None and key:
        hint = hint.replace(key, "it")
    if _is_taken(outcome.error):  # each source has a name of its own
        reason = re.sub(r"^.+(?= exists already, )", "its file", reason)
    if isinstance(outcome.error, WaitTimeoutError) and outcome.error.sent:
        reason, hint = f"it timed out, but was {accepted}", None
    if status == "not sent" or reason.startswith("not sent, because this run has stopped"):
        return Unfinished(status="not sent", reason="", hint=None)  # the end says why
    if isinstance(outcome.error, RunStoppedError):
        reason, hint = reason + (f", but {accepted}" if outcome.task is not None else ""), None
    return Unfinished(status=status, reason=reason, hint=hint)


def shown(source: str) -> str:
    """Return *source* as it is shown: a data URI is endless, and other names can be long."""
    return "data URI" if source.startswith("data:") else shorten(source)
