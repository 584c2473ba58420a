"""``expand --dry-run``: what a run would do with each image, and what it would cost."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

import attrs

from comet_async._journal.states import JobState
from comet_async.cli import journal_files
from comet_async.cli.console import DONE, NOT_DONE, Screen, counted, error_record, money
from comet_async.cli.endpoint import Endpoint
from comet_async.cli.expand.options import ExpandPlan
from comet_async.cli.expand.progress import short, shown
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import CometError

if TYPE_CHECKING:
    from comet_async._jobs.batch import Planned

_LISTED = 100  # rows; a longer table helps nobody

_MEANINGS = {
    "new": "will be sent and paid",
    "resume": "paid earlier: goes on, free",
    "done": "paid and saved earlier",
    "copy": "has this shape already: copied, free",
    "uncertain": "may be paid: looked up first, free",
    "failed": "ended badly earlier: left alone",
    "invalid": "refused before sending",
}
_FREE = {"new": "will be painted", "done": "painted and saved earlier"}
_STATES = {
    JobState.PLANNED: "new",
    JobState.REJECTED: "new",
    JobState.UNCERTAIN: "uncertain",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.ABANDONED: "failed",
}
_OUTCOMES = {"done": "done", "uncertain": "uncertain", "failed": "failed", "invalid": "invalid"}


@attrs.define(eq=False)
class _Forecast:
    """The plan so far."""

    free: bool
    counts: Counter[str] = attrs.field(factory=Counter)
    images: int = 0
    jobs: int = 0
    rows: list[tuple[str, str, str]] = attrs.field(factory=list)
    keys: set[str] = attrs.field(factory=set)

    def add(self, source: str, planned: Planned | CometError) -> tuple[str, int]:
        """Take one image in; return the word of the plan, and how many it would buy."""
        word, images = word_of(planned), 0
        if word == "new" and not isinstance(planned, CometError) and planned.key not in self.keys:
            self.keys.add(planned.key)  # equal images are bought once
            images = planned.item.request.n if planned.item.request is not None else 1
        self.counts[word] += 1
        self.images += images
        self.jobs += bool(images)
        if len(self.rows) < _LISTED:
            meaning = (_FREE if self.free else {}).get(word, _MEANINGS[word])
            why = _why(planned, source) if isinstance(planned, CometError) else meaning
            self.rows.append((word, shown(source), why))
        return word, images


def _why(error: CometError, source: str) -> str:
    """Return what is wrong with a source, and what to do about it."""
    message = short(error.message, source)
    return f"{message}; {error.hint}" if error.hint else message


def word_of(planned: Planned | CometError) -> str:
    """Return the plan for one image in a word."""
    if isinstance(planned, CometError):
        return "invalid"
    if planned.needless:
        return "copy"
    return "new" if planned.record is None else _STATES.get(planned.record.state, "resume")


async def show(plan: ExpandPlan, endpoint: Endpoint, screen: Screen, *, free: bool) -> int:
    """Show what a run of *plan* would do, and return the exit status. Sends and writes nothing.

    Args:
        plan: The command.
        endpoint: Where a run would send it.
        screen: Where to write.
        free: Whether a run would use the sandbox.
    """
    from comet_async.runs import JOURNAL_NAME
    from comet_async.session import CometSession

    forecast = _Forecast(free=free)
    async with journal_files.copied(plan.out / JOURNAL_NAME) as journal:
        await journal_files.check_purpose(journal, sandbox=free, write=False)
        if free:
            await journal_files.abandon_ended_sandbox_jobs(journal, now=SYSTEM_CLOCK.time())
            plan = attrs.evolve(plan, options={**plan.options, "retry_failed": True})
        async with CometSession(
            endpoint.credentials, gateway=endpoint.gateway, journal=journal
        ) as comet:
            async for item, planned in plan.on(comet).plan():
                word, images = forecast.add(item.source, planned)
                if screen.json:
                    screen.emit(_record(item.source, planned, word, plan.price * images, screen))
    _summary(forecast, plan, screen, free=free)
    return NOT_DONE if forecast.counts["invalid"] else DONE


def _record(
    source: str, planned: Planned | CometError, word: str, usd: Decimal, screen: Screen
) -> dict[str, object]:
    error = planned if isinstance(planned, CometError) else None
    record = None if isinstance(planned, CometError) else planned.record
    return {
        "source": screen.clean(source) if "://" in source else source,
        "outcome": _OUTCOMES.get(word, "pending"),
        "task_id": record.task_id if record is not None else None,
        "external_task_id": None if isinstance(planned, CometError) else planned.key or None,
        "files": [],
        "error": error_record(error, screen),
        "plan": word,
        "estimate_usd": str(usd),
    }


def _summary(forecast: _Forecast, plan: ExpandPlan, screen: Screen, *, free: bool) -> None:
    if not screen.json:
        titles = ("plan", "source", "what it means")
        screen.table(titles, forecast.rows, long=titles)
        if forecast.counts.total() > len(forecast.rows):
            screen.say(f"… and {forecast.counts.total() - len(forecast.rows):,} more")
    counts = [f"{forecast.counts[word]:,} {word}" for word in _MEANINGS if forecast.counts[word]]
    screen.say(f"plan: {', '.join(counts)}; nothing was sent and nothing was written")
    if free:
        screen.say("the sandbox is free of charge")
        return
    cost = money(plan.price * forecast.images)
    each = f"{money(plan.price)} each, an estimate, not a bill"
    screen.say(f"a run would buy {counted(forecast.images, 'image')}: about {cost} ({each})")
    for line in _limits(forecast, plan):
        screen.say(line)


def _limits(forecast: _Forecast, plan: ExpandPlan) -> list[str]:
    from comet_async.runs import limits

    most = limits(plan.options)
    lines = []
    if most.jobs is not None and forecast.jobs > most.jobs:
        lines.append(f"--max-jobs lets it send {most.jobs:,} of {forecast.jobs:,}")
    if most.images is not None and forecast.images > most.images:
        lines.append(f"--max-spend lets it buy {most.images:,} of {forecast.images:,}")
    return lines
