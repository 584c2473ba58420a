"""What ``comet-async expand`` does: the sources counted, sent, followed, and summed up."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when it is needed: wrong usage
# is reported at once

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from comet_async.cli import journal_files
from comet_async.cli.console import (
    ACCOUNT,
    DONE,
    NOT_DONE,
    USAGE,
    Screen,
    describe_os_error,
    error_record,
)
from comet_async.cli.endpoint import Endpoint, offline_endpoint, open_endpoint
from comet_async.cli.expand import dry_run
from comet_async.cli.expand.options import ExpandPlan, OutputOptions
from comet_async.cli.expand.progress import RunProgress
from comet_async.cli.expand.summary import Ending
from comet_async.cli.expand.totals import ACTIVE, RunTotals, billed
from comet_async.cli.hints import in_options
from comet_async.cli.options import Connection
from comet_async.cli.runtime import CURRENT, INTERRUPTED, Invocation
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import CometError, InputError, JournalError

if TYPE_CHECKING:
    from comet_async._images.discovery import Scan
    from comet_async._journal.records import JobRecord, Journal
    from comet_async.outcomes import Outcome
    from comet_async.runs import Run
    from comet_async.session import CometSession


_FRAME = 0.125  # seconds between two frames of the progress bar
_LOOK = 4 * _FRAME  # seconds between two looks into the journal
_EVENT = 1.0  # seconds between two events of --json-progress
_LAST = 1.0  # seconds that the end of a run waits for the number of sources


async def carry_out(plan: ExpandPlan, connection: Connection, output: OutputOptions) -> int:
    """Expand the images of *plan*, or show what that would do; return the exit status."""
    invocation = CURRENT.get()
    if isinstance(plan.journal, str) and connection.is_sandbox:
        raise InputError(
            "--sandbox starts a server for this run only, and the journal is shared by several",
            field="journal",
            hint="start one with 'comet-async sandbox', and pass its address with --gateway",
        )
    if output.report:
        from comet_async._tools.report import check_requirements

        check_requirements()  # before anything is paid
    async with _counting(plan) as counter:
        if counter is not None and not await counter.any():
            raise dry_run.nothing(plan, str(counter.scan.skipped))
        if output.dry_run:
            endpoint = offline_endpoint(connection)
            free = connection.is_sandbox
            return await dry_run.show(plan, endpoint, invocation.screen, free=free)
        async with open_endpoint(connection, invocation.screen) as endpoint:
            return await _run(plan, endpoint, invocation, counter, output)


# ---------------------------------------------------------------------------- counting


@attrs.define(eq=False)
class SourceCounter:
    """Counts the sources, in a thread of its own."""

    scan: Scan
    _seen: int = 0

    async def any(self) -> bool:
        """Return True if there is a source at all."""
        found = await asyncio.get_running_loop().run_in_executor(None, next, self.scan, None)
        self._seen += found is not None
        return found is not None

    async def count(self) -> int:
        """Return how many sources there are."""
        loop = asyncio.get_running_loop()
        return self._seen + await loop.run_in_executor(None, lambda: sum(1 for _ in self.scan))


@asynccontextmanager
async def _counting(plan: ExpandPlan) -> AsyncGenerator[SourceCounter | None, None]:
    """Yield a counter of the sources; None if they can be read only once."""
    from comet_async._images.discovery import scan
    from comet_async._runs.options import selected

    if "-" in plan.sources:
        yield None
        return
    scanned = scan(plan.sources, out=plan.out, selection=selected(plan.options))
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
    output: OutputOptions,
) -> int:
    screen, free = invocation.screen, endpoint.sandbox is not None
    if free:
        screen.say(
            "sandbox: the new edges are painted on this machine; prompts are checked "
            "but not followed",
            style="dim",
        )
    verified = plan.options.get("verify_remote", False)
    async with journal_files.opened(plan.journal, verify_remote=verified) as journal:
        await journal_files.check_purpose(journal, sandbox=free)
        if free:
            await journal_files.abandon_ended_sandbox_jobs(journal, now=SYSTEM_CLOCK.time())
            plan = attrs.evolve(plan, options={**plan.options, "retry_failed": True})
        try:
            async with _session(plan, endpoint, journal) as comet:
                follower = _RunFollower(
                    plan=plan,
                    run=plan.on(comet),
                    journal=journal,
                    invocation=invocation,
                    endpoint=endpoint,
                    counter=counter,
                )
                async with _showing_balance(comet, screen, endpoint):
                    await follower.follow()
        except JournalError as error:  # while it ran, so something may have been sent
            screen.complain(error)
            return NOT_DONE
        if output.report and follower.totals.count:
            await _report(plan.out, journal, screen)
    follower.write_failed(output.failed)
    return follower.end()


@asynccontextmanager
async def _showing_balance(
    comet: CometSession, screen: Screen, endpoint: Endpoint
) -> AsyncGenerator[None, None]:
    """Say what is left in the account, if the gateway shows it; the run does not wait for that."""

    async def show() -> None:
        left = await comet.balance()
        if left is not None:
            screen.say(f"left in the account: {left}", style="dim")

    showing = asyncio.create_task(show()) if endpoint.sandbox is None else None
    try:
        yield
    finally:
        if showing is not None:
            showing.cancel()
            await asyncio.wait({showing})


def _session(plan: ExpandPlan, endpoint: Endpoint, journal: Journal) -> CometSession:
    from comet_async.session import CometSession

    return CometSession(
        endpoint.credentials,
        gateway=endpoint.gateway,
        network=endpoint.network,
        journal=journal,
        concurrency=plan.options.get("concurrency", 16),
        # The sandbox is polled often: it is near, and its tasks are short.
        schedule=0.25 if endpoint.sandbox is not None else None,
    )


@attrs.define(eq=False, kw_only=True)
class _RunFollower:
    """Follows one run: shows it, counts it, and says how it ended."""

    plan: ExpandPlan
    run: Run
    journal: Journal
    invocation: Invocation
    endpoint: Endpoint
    counter: SourceCounter | None
    totals: RunTotals = attrs.field(init=False)
    _failed: list[str] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.totals = RunTotals(
            price=self.plan.price,
            run=self.plan.options.get("budget", ""),
            since=SYSTEM_CLOCK.time(),
            slots=self.plan.options.get("concurrency", 16),
            clock=asyncio.get_running_loop().time,
        )

    @property
    def free(self) -> bool:
        """True when nothing is paid."""
        return self.endpoint.sandbox is not None

    @property
    def ending(self) -> Ending:
        """The end of the run, if it ended now."""
        return Ending(
            totals=self.totals,
            out=self.plan.out,
            command=self.invocation.command_line,
            stopped=self.run.stopped,
            interrupted=self.invocation.interrupted,
            free=self.free,
            from_input="-" in self.plan.sources,
            left_out=str(self.run.skipped),
            journal=self.plan.own_journal,
        )

    async def follow(self) -> None:
        """Go through the run, and show it."""
        self.invocation.on_signal = self._stop
        self.invocation.last_words = self._last_words
        with (
            RunProgress(self.invocation.screen, self.totals, free=self.free) as progress,
            _counting_retries(progress),
        ):
            watching = asyncio.create_task(self._watch(progress))
            try:
                async with aclosing(self.run.__aiter__()) as outcomes:
                    async for outcome in outcomes:
                        await self._take(outcome, progress)
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
                self.invocation.screen.event("progress", progress.event())

    async def _take(self, outcome: Outcome, progress: RunProgress) -> None:
        screen, key = self.invocation.screen, outcome.external_task_id
        record = await self.journal.get(key) if key else None
        earlier = self.totals.earlier
        equal = self.totals.add(outcome, record)
        if not outcome.done:
            self._failed.append(outcome.source)
        if screen.json:
            paid = billed(record, self.totals.run) if equal is None else False
            screen.emit(as_record(outcome, screen, paid=paid, equal=equal))
        progress.ended(outcome, earlier=self.totals.earlier > earlier, equal=equal)
        if screen.lost:
            self.run.interrupt()

    def _stop(self) -> None:
        self.run.interrupt()
        self.invocation.screen.say(
            "stopping: waiting for requests already sent (press Ctrl-C again to quit now)",
            word="comet-async:",
            style="bold",
            problem=True,
        )

    def _last_words(self) -> list[str]:
        ending = attrs.evolve(self.ending, leaving=True)
        return [*ending.facts(), *ending.next_step()]

    async def _watch(self, progress: RunProgress) -> None:
        """Keep the run's numbers up to date."""
        screen = self.invocation.screen
        counting = None if self.counter is None else asyncio.ensure_future(self.counter.count())
        reported, to_wait = 0.0, 0.0
        try:
            while True:
                if counting is not None and counting.done():
                    self.totals.total = counting.result()
                # A second signal may come any time now, and then what is in flight must be known.
                if to_wait <= 0 or self.invocation.interrupted:
                    self.totals.look(await _active(self.journal))
                    to_wait = _LOOK
                progress.refresh()
                if self.totals.seconds - reported >= _EVENT:
                    reported = self.totals.seconds
                    screen.event("progress", progress.event())
                # Without a bar, nothing is drawn between two looks.
                pause = _FRAME if screen.live or self.invocation.interrupted else _LOOK
                await asyncio.sleep(pause)
                to_wait -= pause
        finally:
            if counting is not None:
                # A run that stops early must say of how many; but a huge folder can't hold it up.
                await asyncio.wait({counting}, timeout=_LAST)
                if counting.done() and not counting.cancelled():
                    self.totals.total = counting.result()
                counting.cancel()

    def write_failed(self, path: Path | None) -> None:
        """Write the list of sources that are not done."""
        if path is None:
            return
        screen = self.invocation.screen
        try:
            path.write_bytes(b"".join(_line(source) for source in self._failed))
        except OSError as error:
            screen.say(
                f"--failed {path} can't be written: {describe_os_error(error)}",
                word="comet-async:",
                style="bold red",
                problem=True,
            )

    def end(self) -> int:
        """Write the summary, and return the exit status."""
        screen, stopped = self.invocation.screen, self.run.stopped
        interrupted = self.invocation.interrupted
        if not self.totals.count and not interrupted and stopped is None:
            screen.complain(dry_run.nothing(self.plan, str(self.run.skipped)))
            return USAGE
        if self.endpoint.sandbox is not None:
            engines = {task.engine for task in self.endpoint.sandbox.tasks.all() if task.engine}
            if engines:
                screen.say(f"painted here by {', '.join(sorted(engines))}, free of charge")
        self.ending.show(screen)
        if interrupted:
            return INTERRUPTED
        if stopped is not None and stopped.account_wide:
            return ACCOUNT
        all_done = self.totals.count == self.totals.ended["done"]
        return DONE if all_done and stopped is None else NOT_DONE


async def _active(journal: Journal) -> list[JobRecord]:
    """Return the jobs that are being worked on."""
    records: list[JobRecord] = []
    after = ""
    while page := await journal.find(ACTIVE, after=after):
        records += page
        after = page[-1].key
    return records


def _line(source: str) -> bytes:
    """Return *source* as a line that the program reads back as it was."""
    return os.fsencode(source) + b"\n"


@contextmanager
def _counting_retries(progress: RunProgress) -> Generator[None, None, None]:
    """Count what fails and is repeated, as the library logs it."""

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            facts = vars(record)
            match facts.get("comet_event"):
                case "retried":  # a poll
                    progress.poll_failed(facts["comet_error"], facts["comet_failures"])
                case "notaccepted":
                    progress.totals.resend(facts["comet_key"])
                case _:
                    pass

    logger, handler = logging.getLogger("comet_async"), Counter(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def as_record(
    outcome: Outcome, screen: Screen, *, paid: bool | None, equal: str | None
) -> dict[str, object]:
    """Return *outcome* as a JSON line shows it.

    Args:
        outcome: What became of a source.
        screen: What hides secrets.
        paid: Whether this run made the server bill it; None if that is not known.
        equal: The source whose image it equals, or None.
    """
    source = outcome.source
    return {
        "source": screen.clean(source) if "://" in source else source,
        "outcome": str(outcome.status),
        "task_id": _task_id(outcome),
        "external_task_id": outcome.external_task_id,
        "files": [str(path) for path in outcome.files],
        "error": error_record(outcome.error, screen),
        "billed": paid,
        "same_as": equal,
    }


def _task_id(outcome: Outcome) -> str | None:
    if outcome.task is not None:
        return outcome.task.id
    return outcome.error.task_id if outcome.error is not None else None


async def _report(out: Path, journal: Journal, screen: Screen) -> None:
    from comet_async._tools.report import write_report

    try:
        path = await write_report(out, journal, words=in_options)
    except CometError as error:  # the images are there; a page is not a reason to fail
        screen.complain(error)
    else:
        where = path.absolute().as_uri() if screen.console.is_terminal else path
        screen.say(f"the page of all images before and after is {where}")
