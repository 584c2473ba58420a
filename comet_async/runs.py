"""`Run`: many images, and an outcome for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager

import attrs

from comet_async._images.discovery import SkipReport
from comet_async._jobs.tasks import closed_error
from comet_async._journal.records import JobRecord, NewJob
from comet_async._runs.batch import Batch
from comet_async._runs.factory import RunFactory
from comet_async._runs.items import Item, Planned
from comet_async._runs.journals import JOURNAL_NAME, is_of
from comet_async._runs.options import Budget, RunOptions, check_options
from comet_async._runs.recording import RecordedJob, recorded
from comet_async._runs.sources import FolderItems, RequestItems, Root
from comet_async.errors import CometError, JournalError, JournalRequiredError
from comet_async.outcomes import Outcome

__all__ = ["JOURNAL_NAME", "Budget", "Run", "RunOptions", "make_run", "opened"]


@attrs.define(eq=False, repr=False)
class Run:
    """Outcomes of many images, as an async iterable: use it once.

    Example:
        >>> async for outcome in comet.expand_folder("photos", "wide", Margins.uniform(0.2)):
        ...     print(outcome.source, outcome.status)

    Leaving the loop early stops the run: what is being sent is recorded to its end, and the
    next run continues with it.
    """

    _factory: RunFactory
    # None for the unfinished jobs of the session's own journal.
    _items: RequestItems | FolderItems | None
    _root: Root | None
    _options: RunOptions
    _batch: Batch | None = attrs.field(default=None, init=False)
    _stopped: CometError | None = attrs.field(default=None, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)

    def __repr__(self) -> str:
        return "<Run>" if self._root is None else f"<Run into {self._root}>"

    @property
    def stopped(self) -> CometError | None:
        """The account problem that ended the run early, or None."""
        return self._batch.stopped if self._batch is not None else self._stopped

    @property
    def skipped(self) -> SkipReport:
        """What was left out of folders so far, by reason."""
        return self._items.skipped if isinstance(self._items, FolderItems) else SkipReport()

    def interrupt(self) -> None:
        """Stop soon: nothing new is sent, and what has not ended becomes ``pending``.

        `plan` and `record` end with the images that they have begun with.
        """
        self._interrupted = True
        if self._batch is not None:
            self._batch.interrupt()

    async def __aiter__(self) -> AsyncGenerator[Outcome, None]:
        """Yield the outcomes in the order of completion.

        Raises:
            JournalError: The journal can't be opened or written.
            SessionClosedError: The session was closed.
        """
        resume = self._items is None
        async with self._factory.open(self._root, self._options, resume=resume) as batch:
            if self._interrupted:
                return
            self._batch = batch
            try:
                if isinstance(self._items, FolderItems):
                    whole = batch.finish_left_over and batch.options.verify_remote
                    batch.covers_folder = whole and await self._items.has_folder()
                    intake = self._items.intake(batch.planner)
                    found = batch.outcomes(intake.to_do(), intake.finished())
                else:
                    found = batch.outcomes(self._items_of(batch))
                async with aclosing(found) as outcomes:
                    async for outcome in outcomes:
                        with batch.noticing_exit():
                            yield outcome
            except JournalError:
                if not self._factory.tasks.closed:
                    raise
                raise closed_error() from None  # the session has closed its journal
            finally:
                self._stopped, self._batch = batch.stopped, None

    def _items_of(self, batch: Batch) -> AsyncGenerator[Item, None]:
        if self._items is None:
            return batch.unfinished()
        return batch.planner.recognised(self._items.pages())

    async def plan(self) -> AsyncGenerator[tuple[Item, Planned | CometError], None]:
        """Yield what a run would do with each image; nothing is written, sent or paid.

        Each is a pair: the image, and the job that it would become, or the error that it would
        end with. Images that are equal have the same key: they are billed once.

        Raises:
            JournalError: The journal can't be opened or read.
            SessionClosedError: The session was closed before.
        """
        async with self._open(dry=True) as (batch, items):
            async for item in items:
                planned: Planned | CometError
                try:
                    planned = await batch.planner.plan(item)
                except CometError as error:
                    planned = error
                with batch.noticing_exit():
                    yield item, planned

    async def record(self) -> AsyncGenerator[RecordedJob, None]:
        """Record the jobs in the journal without sending anything; yields each of them.

        For queues and workflow engines: any process that holds the journal runs a job by
        `CometSession.run_job`. Nothing is paid here, and to record a job again changes nothing. An
        image that already has the wanted shape is copied here. Of `CometSession.resume`, the jobs
        are those that are unfinished.

        Example:
            >>> async for job in comet.expand_folder("photos", "wide", rule).record():
            ...     if job.outcome is None:
            ...         await queue.put(job.key)

        Raises:
            JournalRequiredError: The session has no journal.
            JournalError: The journal can't be opened or written.
            SessionClosedError: The session was closed before.
        """
        if self._factory.given is None:
            raise JournalRequiredError(
                "record() needs a session with a journal", hint="pass journal= to CometSession"
            )
        async with self._open(dry=False) as (batch, items):

            async def record(jobs: Sequence[NewJob]) -> list[JobRecord]:
                active = batch.active
                return await active.journal.plan(jobs, now=active.services.clock.time())

            async with aclosing(recorded(batch, items, record)) as jobs:
                async for job in jobs:
                    with batch.noticing_exit():
                        yield job

    @asynccontextmanager
    async def _open(
        self, *, dry: bool
    ) -> AsyncGenerator[tuple[Batch, AsyncGenerator[Item, None]], None]:
        async with self._factory.open(self._root, self._options, dry=dry) as batch:
            self._batch = batch
            if self._interrupted:
                batch.interrupt()
            try:
                async with aclosing(batch.until_halted(self._items_of(batch))) as items:
                    yield batch, items
            finally:
                self._stopped, self._batch = batch.stopped, None


@asynccontextmanager
async def opened(run: Run) -> AsyncGenerator[tuple[Batch, AsyncGenerator[Item, None]], None]:
    """Yield the batch of a run and its items, for a caller that queues them for other processes."""
    async with run._open(dry=False) as found:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield found


def make_run(
    factory: RunFactory,
    items: RequestItems | FolderItems | None,
    root: Root | None,
    options: RunOptions,
) -> Run:
    """Return a run over *items* that saves below *root*.

    Args:
        factory: Opens its journal.
        items: What to work on; None for the unfinished jobs of the session's journal.
        root: The output folder; None saves nothing.
        options: What differs from the session's own.

    Raises:
        InputError: An option can't be used.
        JournalRequiredError: Results in a store need the session's journal.
        SessionClosedError: The session was closed.
    """
    factory.tasks.check_open()
    check_options(options)  # refused here, not at the first image
    if isinstance(root, str):
        factory.stores.at(root)  # a library that is missing is named here
        if factory.given is None:
            raise JournalRequiredError(
                "results in a store need a session with a journal",
                hint="pass journal= to CometSession",
            )
    if items is not None and root is not None and factory.given is not None:
        if isinstance(root, str):
            items = attrs.evolve(items, below=root)
        elif not is_of(factory.given, root):
            items = attrs.evolve(items, below=root.absolute())
    return Run(factory, items, root, options)
