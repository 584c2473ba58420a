"""``expand --dry-run``: what a run would do with each image, and what it would cost."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from comet_async._images.naming import output_name
from comet_async._images.rules import without_source
from comet_async._journal.states import JobState
from comet_async._tools.amounts import money
from comet_async.cli import journal_files
from comet_async.cli.console import DONE, NOT_DONE, Screen, counted, error_record
from comet_async.cli.endpoint import Endpoint
from comet_async.cli.expand.options import ExpandPlan
from comet_async.cli.expand.progress import shown
from comet_async.cli.hints import message_of, with_option
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import CometError, DownloadError, InputError

if TYPE_CHECKING:
    from comet_async._journal.records import Journal
    from comet_async._runs.items import Planned

LISTED = 100  # rows; a longer table is of no help

PLANS = {
    "new": "will be sent and billed",
    "same": "same image as {first}: billed once",
    "resume": "billed earlier: continues, free",
    "done": "billed and saved earlier",
    "copy": "already has this shape: copied",
    "uncertain": "may be billed: looked up first, free",
    "failed": "failed in an earlier run; skipped (--retry-failed buys it again)",
    "invalid": "refused before sending",
    "blocked": "billed earlier, but another file has the name of its result",
}
"""What a run would do with an image, in a word and in words."""

_FREE = {"new": "will be painted", "done": "painted and saved earlier"}
_STATES = {
    JobState.PLANNED: "new",
    JobState.REJECTED: "new",
    JobState.UNCERTAIN: "uncertain",
    JobState.UNKNOWN: "uncertain",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.ABANDONED: "failed",
}
_OUTCOMES = {
    "done": "done",
    "copy": "done",
    "uncertain": "uncertain",
    "failed": "failed",
    "invalid": "invalid",
}
"""The outcomes that a run is certain to have; all others are pending until the server answers."""

_NOT_DONE = {"invalid", "failed", "uncertain", "blocked"}


@attrs.frozen(kw_only=True)
class Step:
    """What a run would do with one source.

    Attributes:
        source: The source.
        word: The plan in a word.
        images: How many images it would buy.
        first: The source whose image it equals, or None.
        files: Where its images are, or would be.
        error: Why it is refused, or None.
        task_id: The server's id of its task, if there is one.
        key: Our own id of its task.
    """

    source: str
    word: str
    images: int = 0
    first: str | None = None
    files: tuple[Path, ...] = ()
    error: CometError | None = None
    task_id: str | None = None
    key: str | None = None


@attrs.define(eq=False)
class _Forecast:
    """The plan so far."""

    free: bool
    counts: Counter[str] = attrs.field(factory=Counter)
    images: int = 0
    jobs: int = 0
    rows: list[tuple[str, str, str, str]] = attrs.field(factory=list)
    left_out: str = ""
    _first: dict[str, str] = attrs.field(factory=dict)

    async def step(self, source: str, planned: Planned | CometError, kept: Files) -> Step:
        """Return what a run would do with one source."""
        if isinstance(planned, CometError):
            return Step(
                source=source,
                word="blocked" if isinstance(planned, DownloadError) else "invalid",
                error=planned,
                task_id=planned.task_id,
                key=planned.external_task_id,
            )
        if planned.already_satisfied:
            return Step(source=source, word="copy", files=kept.expected(planned))
        record = planned.record
        word = "new" if record is None else _STATES.get(record.state, "resume")
        if word == "done" and planned.saved is None:
            word = "resume"  # a file is missing
        first = self._first.setdefault(planned.key, source)
        same = word == "new" and first != source
        request = planned.item.request
        return Step(
            source=source,
            word="same" if same else word,
            images=0 if word != "new" or same or request is None else request.n,
            first=first if first != source else None,
            files=() if word == "failed" else await kept.of(planned),
            task_id=None if record is None else record.task_id,
            key=planned.key or None,
        )

    def add(self, step: Step) -> None:
        """Take one step in."""
        self.counts[step.word] += 1
        self.images += step.images
        self.jobs += bool(step.images)
        if len(self.rows) < LISTED:
            files = _span(step.files)
            self.rows.append((step.word, shown(step.source), files, self._meaning(step)))

    def _meaning(self, step: Step) -> str:
        if step.error is not None:
            message = without_source(message_of(step.error), step.source)
            hint = with_option(step.error)
            return f"{message}; {hint}" if hint else message
        meaning = (_FREE if self.free else {}).get(step.word, PLANS[step.word])
        return meaning.format(first=shown(step.first or ""))


def _span(files: Sequence[Path]) -> str:
    """Return the names of one source's images, briefly."""
    if not files:
        return "-"
    last = f" … {files[-1].name}" if len(files) > 1 else ""
    return shown(str(files[0])) + shown(last)


@attrs.frozen
class Files:
    """Finds what earlier runs saved, and names what a run would save."""

    journal: Journal
    out: Path
    full: bool  # as the names are in a journal that may serve several folders

    async def of(self, planned: Planned) -> tuple[Path, ...]:
        """Return the files at this source's destination: those of a job that is done, if any."""
        dest = planned.item.dest
        kept = tuple(
            self.out / file.name
            for place in await self.journal.destinations(planned.key)
            if dest is not None and place.dest in {dest, str(self.out.absolute() / dest)}
            for file in place.files
            if file.kept
        )
        return kept or self.expected(planned)

    def expected(self, planned: Planned) -> tuple[Path, ...]:
        """Return the files that a run would save.

        Only the extension is a guess, unless the image is copied: it will follow the content of
        the result, which so far has been PNG.
        """
        dest, n, format_ = planned.item.dest, planned.item.wanted.n, "png"
        if planned.already_satisfied:
            (image,) = planned.images.values()
            n, format_ = 1, image.format or format_
        if dest is None:
            return ()
        root = self.out.absolute()
        paths = (root / output_name(dest, index, n, format_) for index in range(n))
        return tuple(path if self.full else self.out / path.relative_to(root) for path in paths)


async def show(plan: ExpandPlan, endpoint: Endpoint, screen: Screen, *, free: bool) -> int:
    """Show what a run of *plan* would do, and return the exit status. Sends and writes nothing.

    Args:
        plan: The command.
        endpoint: Where a run would send it.
        screen: Where to write.
        free: Whether a run would use the sandbox.

    Raises:
        InputError: There is no image.
    """
    from comet_async.session import CometSession

    forecast = _Forecast(free=free)
    async with journal_files.copied(plan.journal) as journal:
        await journal_files.check_purpose(journal, sandbox=free, write=False)
        if free:
            await journal_files.abandon_ended_sandbox_jobs(journal, now=SYSTEM_CLOCK.time())
            plan = attrs.evolve(plan, options={**plan.options, "retry_failed": True})
        kept = Files(journal, plan.out, full=plan.own_journal is not None)
        async with CometSession(
            endpoint.credentials, gateway=endpoint.gateway, journal=journal
        ) as comet:
            run = plan.on(comet)
            async with aclosing(run.plan()) as plans:
                async for item, planned in plans:
                    step = await forecast.step(item.source, planned, kept)
                    forecast.add(step)
                    if screen.json:
                        screen.emit(_record(step, plan.price * step.images, screen))
            forecast.left_out = str(run.skipped)
    if not forecast.counts:
        raise nothing(plan, forecast.left_out)
    _summary(forecast, plan, screen)
    limited = bool(_limits(forecast, plan))
    return NOT_DONE if limited or any(forecast.counts[word] for word in _NOT_DONE) else DONE


def nothing(plan: ExpandPlan, left_out: str) -> InputError:
    """Return the error for sources without an image in them."""
    places = ("standard input" if source == "-" else source for source in plan.sources)
    more = f"; left out: {left_out}" if left_out else ""
    if set(plan.sources) == {"-"}:
        hint = "write one path or URL per line"
    else:
        hint = "in a folder, images are the files that end in .jpg, .png and the like; name others "
        hint += "one by one"
    return InputError(
        f"no image was found in {' '.join(places)}{more}",
        field="sources",
        value=" ".join(plan.sources),
        hint=hint,
    )


def _record(step: Step, usd: Decimal, screen: Screen) -> dict[str, object]:
    return {
        "source": screen.clean(step.source) if "://" in step.source else step.source,
        "outcome": _OUTCOMES.get(step.word, "pending"),
        "task_id": step.task_id,
        "external_task_id": step.key,
        "files": [str(path) for path in step.files],
        "error": error_record(step.error, screen),
        "billed": False,
        "same_as": step.first,
        "plan": step.word,
        "estimate_usd": str(usd),
    }


def _summary(forecast: _Forecast, plan: ExpandPlan, screen: Screen) -> None:
    if not screen.json:
        titles = ("plan", "source", "file", "reason")
        screen.table(titles, forecast.rows, long=titles[1:])
        if forecast.counts.total() > len(forecast.rows):
            screen.say(f"… and {forecast.counts.total() - len(forecast.rows):,} more")
    counts = [f"{forecast.counts[word]:,} {word}" for word in PLANS if forecast.counts[word]]
    screen.say(f"plan: {', '.join(counts)}; nothing was sent and nothing was written")
    if forecast.left_out:
        screen.say(f"left out of folders: {forecast.left_out}")
    screen.say(_cost(forecast, plan.price))
    for line in _limits(forecast, plan):
        screen.say(line)


def _cost(forecast: _Forecast, price: Decimal) -> str:
    if forecast.free:
        return "the sandbox is free of charge"
    if not forecast.images:
        return "a run would buy nothing"
    each = f"{money(price)} each, an estimate, not a bill"
    cost = money(price * forecast.images)
    return f"a run would buy {counted(forecast.images, 'image')}: about {cost} ({each})"


def _limits(forecast: _Forecast, plan: ExpandPlan) -> list[str]:
    from comet_async._runs.options import limits

    most = limits(plan.options)
    lines = []
    if most.jobs is not None and forecast.jobs > most.jobs:
        lines.append(f"--max-jobs lets it send {most.jobs:,} of {forecast.jobs:,}")
    if most.images is not None and forecast.images > most.images:
        lines.append(f"--max-spend lets it buy {most.images:,} of {forecast.images:,}")
    return lines
