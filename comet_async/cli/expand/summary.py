"""The end of a run: what came of it, what it cost, what is not done, and the one next step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs

from comet_async._tools.amounts import duration, money
from comet_async.cli.console import Screen, counted
from comet_async.cli.expand.progress import shown
from comet_async.cli.expand.totals import RunTotals, Unfinished
from comet_async.cli.hints import OPTIONS, message_of, with_option
from comet_async.errors import BudgetExceededError, CometError, JournalLostError, RunStoppedError

_NAMED = 3  # sources of one reason that are named
_CORRECTABLE = frozenset({"invalid", "rejected", "failed", "pending"})


@attrs.frozen(kw_only=True)
class Ending:
    """How a run ended.

    Attributes:
        totals: Its numbers.
        out: The output folder.
        command: The command line.
        stopped: What stopped it early, or None.
        interrupted: Whether a signal did.
        leaving: Whether a second one did: the answers to some requests were not awaited.
        free: True when nothing is paid.
        from_input: Whether sources came from the standard input.
        left_out: What of folders was left out, or nothing.
        journal: Where the journal is, unless it is in the output folder.
    """

    totals: RunTotals
    out: Path
    command: str
    stopped: CometError | None = None
    interrupted: bool = False
    leaving: bool = False
    free: bool = False
    from_input: bool = False
    left_out: str = ""
    journal: Path | str | None = None

    def show(self, screen: Screen) -> None:
        """Write the summary."""
        bad = bool(self.totals.unfinished) or self.stopped is not None or self.interrupted
        for line in self.facts():
            screen.say(line, problem=bad)
        for line in self.not_done():
            screen.say(line, problem=True)
        for line in self.next_step():
            screen.say(line, problem=True)

    def facts(self) -> list[str]:
        """Return what came of the run, a line each."""
        totals = self.totals
        if totals.all_earlier and not self.leaving:
            paid = "nothing was painted" if self.free else "nothing was billed"
            return [
                f"{counted(totals.count, 'image')}, all from earlier runs; {paid}",
                self._where(),
            ]
        lines = [f"{self._counts()} in {duration(totals.seconds)}"]
        if not self.free:
            lines.append(cost_line(totals, in_doubt=totals.uploading if self.leaving else 0))
        if totals.ended["done"]:
            lines.append(self._where())
        if self.left_out:
            lines.append(f"left out of folders: {self.left_out}")
        return lines

    def _where(self) -> str:
        return f"the files are in {shown(str(self.out))}"

    def _counts(self) -> str:
        totals = self.totals
        done = totals.ended["done"]
        details = [
            f"{many:,} {word}"
            for many, word in (
                (totals.earlier, "from earlier runs"),
                (totals.copied, "copied as is"),
                (totals.equal, "equal to another image"),
            )
            if many
        ]
        more = f" ({', '.join(details)})" if details else ""
        parts = [f"{done:,} done{more}"] if done else []
        parts += [
            f"{many:,} {word}"
            for word, many in sorted((totals.ended - totals.not_sent).items())
            if word != "done"
        ]
        if not_sent := totals.not_sent.total():
            parts.append(f"{not_sent:,} not sent")
        of = f" of {totals.total:,}" if totals.total and totals.total > totals.count else ""
        return f"{', '.join(parts) or 'nothing ended'}{of}"

    def not_done(self) -> list[str]:
        """Return what is not done by reason, one line for any number of equal ones."""
        lines = []
        reasons = sorted(self.totals.unfinished.items(), key=lambda item: -len(item[1]))
        hints = [self._advice(why) for why, _ in reasons]
        # Reasons with the same advice stand together, and have it once.
        order = sorted(range(len(reasons)), key=lambda at: hints.index(hints[at]))
        for place, at in enumerate(order):
            why, sources = reasons[at]
            named = ", ".join(shown(Path(source).name or source) for source in sources[:_NAMED])
            rest = f" and {len(sources) - _NAMED:,} more" if len(sources) > _NAMED else ""
            reason = f"{why.reason}: " if why.reason else ""
            lines.append(f"  {len(sources):,} {why.status}: {reason}{named}{rest}")
            if hints[at] and hints[at] not in [hints[later] for later in order[place + 1 :]]:
                lines.append(f"      {hints[at]}")
        if lines:
            lines.insert(0, "not done:")
        if not self.free and self.totals.accepted:  # a sandbox of this command forgets them
            which = f"{self.totals.accepted:,} of {self.totals.ended['pending']:,} pending"
            lines.append(f"accepted and billed: {which}; the next run does not pay for that again")
        return lines

    def _advice(self, why: Unfinished) -> str:
        """Return the advice about one reason, unless the next step gives it for all."""
        alone = {each.status for each in self.totals.unfinished} == {"failed"}
        if why.hint is None or why.status not in _CORRECTABLE or alone:
            return ""
        return "" if why.hint in " ".join(self.next_step()) else why.hint

    def next_step(self) -> list[str]:
        """Return the one thing to do about what is not done."""
        if self.stopped is not None and not self.interrupted:
            return self._after_stop(self.stopped)
        ended = self.totals.ended
        if self._limit_allows_nothing:
            return ["next: run it again with a higher limit; this one allows no further image"]
        if (self.interrupted and not self.totals.all_done) or ended["pending"]:
            return self._rerun("to resume, run the same command again")
        if ended["uncertain"]:
            many = counted(ended["uncertain"], "image")
            why = f"next: {many} may have been billed; each run looks again, free of charge."
            return [f"{why} To decide by hand:", f"  {self._uncertain()}"]
        return self._corrections()

    @property
    def _limit_allows_nothing(self) -> bool:
        """True when the same command could only reach its limit again, and buy nothing."""
        totals = self.totals
        counted_in = totals.bought or totals.doubtful or totals.failed or totals.attached
        reasons = {why.reason for why in totals.unfinished if why.status == "pending"}
        reached = {reason.startswith("the limit of this run is reached") for reason in reasons}
        return reached == {True} and not counted_in and not self.interrupted

    def _after_stop(self, stopped: CometError) -> list[str]:
        if type(stopped) is RunStoppedError and stopped.message == "interrupted":
            return self._rerun("to resume, run the same command again")  # standard output is gone
        lines = [message_of(stopped)]
        if isinstance(stopped, BudgetExceededError):
            return [*lines, *self._rerun("the limit is per run: to continue, run it again")]
        what = "stopped by the account" if stopped.account_wide else "stopped"
        lines = [f"{what}; the remaining images were not sent: {message_of(stopped)}"]
        if hint := with_option(stopped):
            lines.append(f"  {hint}")
        if isinstance(stopped, JournalLostError):
            return [*lines, "to resume:", f"  {self.command} {OPTIONS['verify_remote']}"]
        return [*lines, *self._rerun("then run the same command again")]

    def _rerun(self, why: str) -> list[str]:
        given = " with the same input" if self.from_input else ""
        return [f"{why}{given}:", f"  {self.command}"]

    def _uncertain(self) -> str:
        return shlex.join(["comet-async", "jobs", str(self.journal or self.out), "--uncertain"])

    def _corrections(self) -> list[str]:
        """Return the next step when only a change can help."""
        reasons: Sequence[Unfinished] = list(self.totals.unfinished)
        if not reasons:
            return []
        if {why.status for why in reasons} == {"failed"}:
            return ["next: change the images, or add --retry-failed to buy them again"]
        hints = {why.hint for why in reasons}
        if len(hints) == 1 and (hint := hints.pop()) and _is_a_step(hint):
            return [f"next: {hint}, and run again"]
        return ["next: fix the problems above and run again; finished images are left alone"]


def _is_a_step(hint: str) -> bool:
    return "pip install" in hint or re.match(r"(?:(?:add|pass|use) )?--[a-z]", hint) is not None


def cost_line(totals: RunTotals, *, in_doubt: int = 0) -> str:
    """Return what a run has cost, as far as can be known.

    Args:
        totals: The numbers of the run.
        in_doubt: Images whose request is being sent, and whose answer is no longer awaited.
    """
    parts, doubtful = [], totals.doubtful + in_doubt
    if totals.bought:
        parts.append(f"bought {counted(totals.bought, 'image')}, about {money(totals.cost)}")
    if doubtful:
        cost = money(totals.price * doubtful)
        parts.append(f"{counted(doubtful, 'image')} may have been billed, about {cost}")
    line = f"{'; '.join(parts)} (an estimate, not a bill)" if parts else "nothing was billed"
    if totals.failed:
        line += (
            f"; {counted(totals.failed, 'image')} failed: failed tasks are not billed, as a rule"
        )
    if totals.attached:
        were = "was" if totals.attached == 1 else "were"
        line += f"; {counted(totals.attached, 'image')} {were} bought earlier: the server had "
        line += "the same request"
    return line
