"""What ``comet-async expand`` does: the sources counted, sent, followed, and summed up."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when it is needed: wrong usage
# is told at once

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from comet_async.cli import journal_files
from comet_async.cli.console import ACCOUNT, DONE, NOT_DONE, USAGE, Screen, counted, error_record
from comet_async.cli.endpoint import Endpoint, offline_endpoint, open_endpoint
from comet_async.cli.expand import dry_run
from comet_async.cli.expand.options import ExpandPlan, OutputOptions
from comet_async.cli.expand.progress import RunProgress, summary
from comet_async.cli.expand.totals import RunTotals
from comet_async.cli.options import Connection
from comet_async.cli.runtime import CURRENT, INTERRUPTED, Invocation
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import CometError, InputError, JournalError

if TYPE_CHECKING:
    from comet_async._images.discovery import Scan
    from comet_async._journal.records import Journal
    from comet_async.outcomes import Outcome
    from comet_async.runs import Run
    from comet_async.session import CometSession


_LOOK = 0.5  # seconds between two looks at what is in flight
_LAST = 1.0  # seconds that the end of a run waits for the number of sources


async def carry_out(plan: ExpandPlan, connection: Connection, output: OutputOptions) -> int:
    """Expand the images of *plan*, or show what that would do; return the exit status."""
    invocation = CURRENT.get()
    screen = invocation.screen
    if output.report:
        from comet_async._tools.report import check_requirements

        check_requirements()  # before anything is paid
    async with _counting(plan) as counter:
        if counter is not None and not await counter.any():
            raise _nothing(plan)
        if output.dry_run:
            endpoint = offline_endpoint(connection)
            return await dry_run.show(plan, endpoint, screen, free=connection.is_sandbox)
        async with open_endpoint(connection, screen) as endpoint:
            return await _run(plan, endpoint, invocation, counter, report=output.report)


def _nothing(plan: ExpandPlan) -> InputError:
    msg = f"no image was found in {' '.join(plan.sources)}"
    hint = "a folder's images are its files that end in .jpg, .png and the like"
    return InputError(msg, field="sources", value=" ".join(plan.sources), hint=hint)


# ---------------------------------------------------------------------------- counting


@attrs.define(eq=False)
class SourceCounter:
    """Counts the sources, in a thread of its own."""

    scan: Scan
    _seen: int = 0

    async def any(self) -> bool:
        """Tell whether there is a source at all."""
        found = await asyncio.get_running_loop().run_in_executor(None, next, self.scan, None)
        self._seen += found is not None
        return found is not None

    async def count(self) -> int:
        """Return how many sources there are."""
        loop = asyncio.get_running_loop()
        return self._seen + await loop.run_in_executor(None, lambda: sum(1 for _ in self.scan))


@asynccontextmanager
async def _counting(plan: ExpandPlan) -> AsyncGenerator[SourceCounter | None, None]:
    """Give a counter of the sources; None if they can be read only once."""
    from comet_async._images.discovery import scan

    if "-" in plan.sources:
        yield None
        return
    scanned = scan(plan.sources, out=plan.out)
    try:
        yield SourceCounter(scanned)
    finally:
        scanned.close()


# ---------------------------------------------------------------------------- running


async def _run(
    plan: ExpandPlan,
    endpoint: Endpoint,
    invocation: Invocation,
    counter: SourceCounter | None,
    *,
    report: bool,
) -> int:
    from comet_async.journal import SqliteJournal
    from comet_async.runs import JOURNAL_NAME

    screen = invocation.screen
    if endpoint.sandbox is not None:
        screen.say(
            "sandbox: the new edges are painted on this machine; the prompt is checked, "
            "not followed",
            style="dim",
        )
    verified = plan.options.get("verify_remote", False)
    async with await SqliteJournal.open(plan.out / JOURNAL_NAME, verify_remote=verified) as journal:
        await journal_files.check_purpose(journal, sandbox=endpoint.sandbox is not None)
        if endpoint.sandbox is not None:
            await journal_files.abandon_ended_sandbox_jobs(journal, now=SYSTEM_CLOCK.time())
            plan = attrs.evolve(plan, options={**plan.options, "retry_failed": True})
        clock = asyncio.get_running_loop().time
        totals = RunTotals(price=plan.price, since=SYSTEM_CLOCK.time(), clock=clock)
        try:
            async with _session(plan, endpoint, journal) as comet:
                run = plan.on(comet)
                async with _telling_balance(comet, screen, endpoint):
                    await _follow(run, journal, totals, invocation, counter, endpoint)
        except JournalError as error:  # while it ran, so something may have been sent
            screen.complain(error)
            return NOT_DONE
        if report and totals.ended["done"]:
            await _report(plan.out, journal, screen)
    return _end(plan, run, totals, invocation, endpoint)


@asynccontextmanager
async def _telling_balance(
    comet: CometSession, screen: Screen, endpoint: Endpoint
) -> AsyncGenerator[None, None]:
    """Say what is left in the account, if the gateway tells; nothing waits for it."""

    async def tell() -> None:
        left = await comet.balance()
        if left is not None:
            screen.say(f"left in the account: {left}", style="dim")

    telling = asyncio.create_task(tell()) if endpoint.sandbox is None else None
    try:
        yield
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.wait({telling})


def _session(plan: ExpandPlan, endpoint: Endpoint, journal: Journal) -> CometSession:
    from comet_async.session import CometSession

    return CometSession(
        endpoint.credentials,
        gateway=endpoint.gateway,
        journal=journal,
        concurrency=plan.options.get("concurrency", 16),
        # The sandbox is asked often: it is near, and its tasks are short.
        schedule=0.25 if endpoint.sandbox is not None else None,
    )


async def _follow(
    run: Run,
    journal: Journal,
    totals: RunTotals,
    invocation: Invocation,
    counter: SourceCounter | None,
    endpoint: Endpoint,
) -> None:
    """Go through the run, and show it."""
    screen = invocation.screen

    def stop() -> None:
        run.interrupt()
        screen.say(
            "stopping: what is being sent is recorded first (once more: leave at once)",
            word="comet-async:",
            style="bold",
        )

    invocation.on_signal = stop
    with RunProgress(screen, totals, free=endpoint.sandbox is not None) as progress:
        watching = asyncio.create_task(_watch(journal, totals, progress, counter))
        try:
            async with aclosing(run.__aiter__()) as outcomes:
                async for outcome in outcomes:
                    if screen.json:
                        screen.emit(as_record(outcome, screen))
                    key = outcome.external_task_id
                    totals.add(outcome, await journal.get(key) if key else None)
                    if not screen.json:
                        progress.ended(outcome)
                    if screen.lost:
                        run.interrupt()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _watch(
    journal: Journal, totals: RunTotals, progress: RunProgress, counter: SourceCounter | None
) -> None:
    """Keep the numbers of the run new."""
    counting = None if counter is None else asyncio.ensure_future(counter.count())
    try:
        while True:
            if counting is not None and counting.done():
                totals.total = counting.result()
            totals.in_flight = await journal.in_flight()
            progress.refresh()
            await asyncio.sleep(_LOOK)
    finally:
        if counting is not None:
            # A run that stops early must say of how many; but a huge folder can't hold it up.
            await asyncio.wait({counting}, timeout=_LAST)
            if counting.done():
                totals.total = counting.result()
            counting.cancel()


def as_record(outcome: Outcome, screen: Screen) -> dict[str, object]:
    """Return *outcome* as it stands in a JSON line."""
    source = outcome.source
    return {
        "source": screen.clean(source) if "://" in source else source,
        "outcome": str(outcome.status),
        "task_id": _task_id(outcome),
        "external_task_id": outcome.external_task_id,
        "files": [str(path) for path in outcome.files],
        "error": error_record(outcome.error, screen),
    }


def _task_id(outcome: Outcome) -> str | None:
    if outcome.task is not None:
        return outcome.task.id
    return outcome.error.task_id if outcome.error is not None else None


async def _report(out: Path, journal: Journal, screen: Screen) -> None:
    from comet_async._tools.report import write_report

    try:
        path = await write_report(out, journal)
    except CometError as error:  # the images are there; a page is no reason to fail
        screen.complain(error)
    else:
        screen.say(f"the page of all images before and after is {path}")


# ---------------------------------------------------------------------------- the end


def _end(
    plan: ExpandPlan, run: Run, totals: RunTotals, invocation: Invocation, endpoint: Endpoint
) -> int:
    """Write the summary, and return the exit status."""
    screen, stopped = invocation.screen, run.stopped
    if not totals.count and not invocation.interrupted and stopped is None:
        screen.complain(_nothing(plan))
        return USAGE
    for line in summary(totals, out=plan.out, free=endpoint.sandbox is not None):
        screen.say(line)
    if endpoint.sandbox is not None:
        engines = sorted({task.engine for task in endpoint.sandbox.tasks.all() if task.engine})
        if engines:
            screen.say(f"painted here by {', '.join(engines)}, free of charge")
    if stopped is not None and not invocation.interrupted:
        what = "the account" if stopped.account_wide else "a problem of the whole run"
        screen.say(f"{what} stopped it, the rest is untouched:", style="bold")
        screen.complain(stopped)
    for line in _advice(plan, totals, unfinished=invocation.interrupted or stopped is not None):
        screen.say(line)
    if invocation.interrupted:
        return INTERRUPTED
    if stopped is not None and stopped.account_wide:
        return ACCOUNT
    return DONE if totals.count == totals.ended["done"] and stopped is None else NOT_DONE


def _advice(plan: ExpandPlan, totals: RunTotals, *, unfinished: bool) -> list[str]:
    """Return what to do about what is not done."""
    ended, command = totals.ended, CURRENT.get().command_line
    lines = []
    if ended["failed"]:
        lines.append("failed tasks are bought once more only if you add --retry-failed")
    if ended["uncertain"]:
        lines.append(
            f"{counted(ended['uncertain'], 'image')} may have been paid: each run looks rerun, "
            f"free of charge; comet-async jobs {plan.out} --uncertain shows what you can decide"
        )
    if unfinished or ended["pending"] or ended["uncertain"]:
        again = " with the same input" if "-" in plan.sources else ""
        lines += [f"to go on, run the same command{again}:", f"  {command}"]
    elif ended["invalid"] or ended["rejected"]:
        lines.append("mend what is invalid or rejected, and run again: what is done stays done")
    return lines
