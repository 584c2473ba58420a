"""Runs over many images, and what a run needs: journal, slots, job runner, output folder."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypedDict, cast

import attrs

from comet_async._images.discovery import OURS, Selection, SkipReport
from comet_async._jobs.active import ActiveJobs
from comet_async._jobs.admission import ConcurrencyLimiter, KeyedLock
from comet_async._jobs.calls import JobOptions
from comet_async._jobs.runner import JobRunner, Loader
from comet_async._jobs.services import Services
from comet_async._jobs.tasks import SessionTasks, closed_error
from comet_async._journal.memory import ForgettingJournal, MemoryJournal
from comet_async._journal.records import JobRecord, Journal, Limits, NewJob
from comet_async._results.save import ResultSaver
from comet_async._runs.batch import Batch
from comet_async._runs.items import Item, Planned
from comet_async._runs.planner import Planner
from comet_async._runs.recording import RecordedJob, recorded
from comet_async._runs.sources import FolderItems, RequestItems, Root
from comet_async._validation import (
    check_concurrency,
    check_event_loop,
    check_flag,
    check_number,
    check_offers,
    check_text,
    check_timeout,
    check_writable_path,
)
from comet_async.clock import Clock
from comet_async.errors import CometError, InputError, JournalError, JournalRequiredError
from comet_async.journal import SqliteJournal
from comet_async.outcomes import Outcome
from comet_async.requests import EXPAND
from comet_async.stores import Stores

JOURNAL_NAME = Path(OURS) / "journal.sqlite3"
"""Where a folder's journal is, relative to the folder."""

POSTGRES = ("postgresql://", "postgres://")
"""How the address of a journal in PostgreSQL begins."""

CONCURRENCY = 16
"""Default for the most images in flight at a time; Kling's packs allow 20 and more."""

SETTLE = 60.0
"""Seconds after a request whose answer was lost during which its task may still appear."""


JournalLike = str | os.PathLike[str] | Journal | None


class Budget(TypedDict, total=False):
    """What may be bought; see `RunOptions`."""

    max_jobs: int | None
    max_spend: Decimal | float | str | None
    price: Decimal | float | str | None
    budget: str


class RunOptions(Budget, total=False):
    """Options of a run over many images; all are optional.

    Attributes:
        concurrency: Maximum number of images in flight; the session's by default.
        prepare: Convert images that the API refuses, and those that it may read in another way
            than viewers show them (see `CometSession`). Needs the extra ``images``.
        settle: Seconds after a request whose answer was lost during which its task may still
            appear; the session's by default.
        timeout: Seconds from when an image gets its slot until its task must have ended; no
            limit by default. What was sent continues and is recorded. Saving is not cut off.
        max_jobs: Maximum number of jobs that this run may buy.
        max_spend: Maximum amount in USD that this run may spend, by ``price``.
        budget: A name under which ``max_jobs`` and ``max_spend`` count together with all runs that
            have the same one, over all processes that use the journal. By default each run counts
            for itself.
        price: USD for one image; the list price by default.
        retry_failed: Buy tasks that failed in an earlier run once more.
        verify_remote: Look for each new job on the server before sending it: for a folder
            whose journal was lost. The session's by default.
        checksum: Read every source file; by default those whose size, times and inode are as the
            journal knows them are not read again.
        fresh: Buy the same images again under this label; running again with the same label
            does not buy again.
        include: From folders, take only the files that match one of these shell patterns, such as
            ``*.png`` or ``2024/*``; all images by default.
        exclude: From folders, leave out files and subfolders that match one of these.
        follow_links: Follow links to other folders, and to files outside the folder.
    """

    concurrency: int
    prepare: bool
    settle: float
    timeout: float | None
    retry_failed: bool
    verify_remote: bool
    checksum: bool
    fresh: str
    include: Sequence[str]
    exclude: Sequence[str]
    follow_links: bool


def is_of(journal: JournalLike, folder: Root) -> bool:
    """Return True if *journal* is *folder*'s own, and so can move with it."""
    if isinstance(folder, str):
        return False
    path = journal if isinstance(journal, str | os.PathLike) else getattr(journal, "path", None)
    if isinstance(path, str) and path.startswith(POSTGRES):
        return False
    return path is not None and os.path.realpath(path) == os.path.realpath(folder / JOURNAL_NAME)


def root_of(journal: Journal) -> Path:
    """Return what the destinations in *journal* are relative to."""
    path = getattr(journal, "path", None)
    if path is not None and Path(path).parts[-2:] == JOURNAL_NAME.parts:
        return Path(path).parent.parent
    return Path("/")  # a journal that serves several folders names them in full


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


@attrs.define(eq=False)
class _FolderJournal:
    """A folder's own journal, and how many runs use it."""

    active: ActiveJobs
    runs: int = 1

    async def lacks_jobs(self) -> bool:
        """Return True if it was opened although it is older than what was sent."""
        journal = self.active.journal
        return isinstance(journal, SqliteJournal) and await journal.lacks_jobs()


@attrs.define(eq=False)
class RunFactory:
    """Opens journals and makes batches for one session.

    Attributes:
        services: What the session shares.
        tasks: What its waiters poll, which knows the open journals.
        defaults: The session's own options.
        given: The session's journal, or None.
        stores: The stores that the session knows.
    """

    services: Services
    tasks: SessionTasks
    defaults: RunOptions
    given: JournalLike
    stores: Stores = attrs.field(factory=Stores)
    _own: ActiveJobs | None = attrs.field(default=None, init=False)
    _opening: asyncio.Task[ActiveJobs] | None = attrs.field(default=None, init=False)
    # By real path: journals of folders while runs use them.
    _folders: dict[str, _FolderJournal] = attrs.field(factory=dict, init=False)
    _batches: set[Batch] = attrs.field(factory=set, init=False)
    _locks: KeyedLock = attrs.field(factory=KeyedLock, init=False)
    _mutex: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _run: str = attrs.field(factory=lambda: secrets.token_hex(8), init=False)

    def __attrs_post_init__(self) -> None:
        check_options(self.defaults)
        if isinstance(self.given, str | os.PathLike):
            _check_address(self.given)
            check_writable_path("journal", self.given)
        elif self.given is not None:
            check_offers("journal", self.given, _JOURNAL_METHODS, "a path or a Journal")

    def run(
        self, items: RequestItems | FolderItems | None, root: Root | None, options: RunOptions
    ) -> Run:
        """Return a run over *items* that saves below *root*.

        Args:
            items: What to work on; None for the unfinished jobs of the session's journal.
            root: The output folder; None saves nothing.
            options: What differs from the session's own.

        Raises:
            InputError: An option can't be used.
            JournalRequiredError: Results in a store need the session's journal.
            SessionClosedError: The session was closed.
        """
        self.tasks.check_open()
        check_options(options)  # refused here, not at the first image
        if isinstance(root, str):
            self.stores.at(root)  # a library that is missing is named here
            if self.given is None:
                raise JournalRequiredError(
                    "results in a store need a session with a journal",
                    hint="pass journal= to CometSession",
                )
        if items is not None and root is not None and self.given is not None:
            if isinstance(root, str):
                items = attrs.evolve(items, below=root)
            elif not is_of(self.given, root):
                items = attrs.evolve(items, below=root.absolute())
        return Run(self, items, root, options)

    async def own(self) -> ActiveJobs:
        """Return the jobs of the session's own journal, opened at its first use."""
        if self._own is None:
            async with self._locks.of("own"):  # opened once, even by calls at the same time
                self.tasks.check_open()
                if self._own is None:
                    journal = ForgettingJournal() if self.given is None else self.given
                    self._own = await self._opened(journal)
            self.tasks.check_open()  # while it was opened, `aclose` waited to close it
        return self._own

    async def _opened(self, journal: JournalLike) -> ActiveJobs:
        """Open the session's own journal, in a task of its own that `aclose` can cancel.

        Raises:
            SessionClosedError: It was cancelled.
        """
        self._opening = opening = asyncio.create_task(self._open(journal, self.defaults))
        try:
            return await opening
        except asyncio.CancelledError:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await self._close(opening.result())  # it was opened in this very turn of the loop
            caller = asyncio.current_task()
            if caller is None or not caller.cancelling():
                self.tasks.check_open()
            raise
        finally:
            self._opening = None

    async def _close(self, own: ActiveJobs) -> None:
        """Close the session's own journal, unless the caller has given it as an object."""
        self.tasks.journals.discard(own)
        await own.aclose(0.0)
        if own.journal is not self.given:
            await own.journal.aclose()

    async def single(
        self, options: JobOptions, *, prepare: bool | None = None, root: Root | None = None
    ) -> AbstractContextManager[Batch]:
        """Return a batch for one call of a program's, over the session's own journal."""
        check_event_loop()
        self.tasks.check_open()
        active = await self.own()
        if prepare is None:
            prepare = self.defaults.get("prepare", False)
        options = attrs.evolve(options, run=options.run or self._run)
        return self._registered(self._batch(active, options, prepare, root, 1))

    @contextmanager
    def _registered(self, batch: Batch) -> Generator[Batch, None, None]:
        self._batches.add(batch)
        try:
            yield batch
        finally:
            self._batches.discard(batch)

    @asynccontextmanager
    async def open(
        self, root: Root | None, options: RunOptions, *, dry: bool = False, resume: bool = False
    ) -> AsyncGenerator[Batch, None]:
        """Yield a batch for a run over many images, with its journal.

        Args:
            root: Below which folder results are saved; None saves none.
            options: What differs from the session's own.
            dry: Make nothing that is not there yet.
            resume: Save results where the session's own journal says.
        """
        check_event_loop()
        self.tasks.check_open()
        settings: RunOptions = {**self.defaults, **options}
        if dry and self.given is None:
            # Nothing is sent, so an older copy of a folder's journal does no harm.
            settings["verify_remote"] = True
        with ExitStack() as registered:  # until its journal is closed
            async with self._jobs_of(root, settings, dry=dry) as active:
                if resume:
                    root = root_of(active.journal)
                batch = self._run_batch(active, settings, root, dry=dry)
                part = resume or settings.get("include") or settings.get("exclude")
                batch.covers_all = not part
                if isinstance(root, str) and not dry:
                    await self._mark(root)
                registered.enter_context(self._registered(batch))
                try:
                    yield batch
                finally:
                    await active.settle()

    @asynccontextmanager
    async def _jobs_of(
        self, root: Root | None, settings: RunOptions, *, dry: bool
    ) -> AsyncGenerator[ActiveJobs, None]:
        """Yield the jobs of the session's journal; if it has none, those of the folder's own."""
        if self.given is not None:
            yield await self.own()
            return
        path = None if isinstance(root, str) else _folder_journal(root, dry=dry)
        key = _identity_of(path)
        folder = await self._enter(key, path, settings)
        try:
            yield folder.active
        finally:
            with self._mutex:  # runs may be in several threads
                folder.runs -= 1
            await self._close_unused(key, folder)

    async def _close_unused(self, key: str, folder: _FolderJournal) -> None:
        """Close a folder's own journal, unless a run uses it."""
        async with self._locks.of(key):  # the next run waits, and opens it again
            if folder.runs or self._folders.get(key) is not folder:
                return
            self.tasks.journals.discard(folder.active)
            try:
                await folder.active.aclose()
            finally:  # a caller that is cancelled must not leave it locked
                del self._folders[key]
                await folder.active.journal.aclose()

    async def _enter(self, key: str, path: Path | None, settings: RunOptions) -> _FolderJournal:
        """Return a folder's own journal for one more run: that of a run that has not ended yet.

        Such a run may just have been left by its caller, and still be ending.
        """
        verify_remote = settings.get("verify_remote", False)
        async with self._locks.of(key):
            folder = self._folders.get(key)
            # One that lacks jobs is none for a run that would not look for them.
            if folder is not None and (verify_remote or not await folder.lacks_jobs()):
                with self._mutex:
                    folder.runs += 1
                return folder
            active = await self._open(path, settings)
            folder = self._folders[key] = _FolderJournal(active)
            return folder

    def _run_batch(
        self, active: ActiveJobs, settings: RunOptions, root: Root | None, *, dry: bool
    ) -> Batch:
        """Return a batch for a run over many images."""
        # Twice: while one half is in flight, the other saves results and reads images.
        workers = 2 * check_concurrency(settings.get("concurrency", CONCURRENCY))
        prepare = settings.get("prepare", False)
        batch = self._batch(active, _job_options(settings), prepare, root, workers)
        batch.planner.fresh = settings.get("fresh", "")
        batch.planner.memory.trusted = not settings.get("checksum", False)
        batch.planner.memory.writable &= not dry
        batch.planner.retry_failed = settings.get("retry_failed", False)
        # Only in the folder's own journal do all jobs belong to this folder.
        batch.finish_left_over = root is not None and is_of(active.journal, root)
        return batch

    async def _mark(self, root: str) -> None:
        """Mark *root* in its store as an output folder, so that no run takes it for a source.

        Raises:
            InputError: It can't be written to.
        """
        store, name = self.stores.at(f"{root}/{OURS}")

        def put() -> None:
            with contextlib.suppress(FileExistsError):
                if store.find(name) is None:
                    store.put(name, io.BytesIO(), size=0)

        problem: OSError | None = None
        try:
            await asyncio.to_thread(put)
        except OSError as error:
            problem = error
        if problem is not None:
            raise InputError(
                f"{root} can't be written: {problem.strerror or problem}",
                field="out",
                value=root,
                limit="a place in a store that can be written",
                hint="nothing was sent: check the address and your rights there",
            )

    async def _open(self, given: JournalLike, settings: RunOptions) -> ActiveJobs:
        concurrency = check_concurrency(settings.get("concurrency", CONCURRENCY))
        verify_remote = settings.get("verify_remote", False)
        journal = await _open_journal(given, self.services.clock, verify_remote=verify_remote)
        active = ActiveJobs(journal, ConcurrencyLimiter(concurrency), self.services)
        try:
            active.share_notifications()
            await active.seed()
        except BaseException:  # a cancelled caller, too: else the file stayed locked
            await active.aclose()
            if journal is not given:
                await journal.aclose()
            raise
        self.tasks.journals.add(active)
        return active

    def _batch(
        self,
        active: ActiveJobs,
        options: JobOptions,
        prepare: bool,  # noqa: FBT001 - a setting that is passed on
        root: Root | None,
        workers: int,
    ) -> Batch:
        services = self.services
        private = services.api.gateway.loopback
        loader = Loader(prepare=prepare, private=private, stores=self.stores)
        saver = None
        if root is not None:
            saver = ResultSaver(
                journal=active.journal,
                downloader=services.downloader,
                api=services.api,
                clock=services.clock,
                root=Path("/") if isinstance(root, str) else root,
                stores=self.stores,
                shared=active.shared is not None,
            )
        runner = JobRunner(active, options, loader)
        planner = Planner(active, loader, saver, adopt=options.verify_remote, run=options.run)
        return Batch(runner=runner, planner=planner, workers=workers)

    async def aclose(self, timeout: float) -> None:
        """End all calls and runs, record what is being sent, and close our own journals.

        Args:
            timeout: Seconds; requests that are not answered by then are recorded as unknown.
        """
        self.tasks.closed = True
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        for batch in list(self._batches):
            batch.interrupt(closed_error())
        for active in list(self.tasks.journals):
            await active.settle(max(0.0, until - loop.time()))
        for batch in list(self._batches):
            await batch.calls.ended(max(1.0, until - loop.time()))
        await self._left(max(1.0, until - loop.time()))
        for key, folder in list(self._folders.items()):
            await self._close_unused(key, folder)
        if (opening := self._opening) is not None:  # its database may be out of reach
            with contextlib.suppress(RuntimeError):  # its loop was closed
                opening.get_loop().call_soon_threadsafe(opening.cancel)
        async with self._locks.of("own"):  # a call may be opening it
            if self._own is not None:
                await self._close(self._own)
                self._own = None  # not before: a caller that was cancelled may close again

    async def _left(self, timeout: float) -> None:
        """Wait until the runs that their callers have left have closed their journals."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        while any(batch.left for batch in list(self._batches)) and loop.time() < until:  # noqa: ASYNC110 - of any event loop
            await asyncio.sleep(_LOOK)


# An async generator that was left is closed by a task of its own, which has to start.
_TURNS = 3
_LOOK = 0.05  # seconds


def _job_options(settings: RunOptions) -> JobOptions:
    """Return how a run over many images does its jobs."""
    return JobOptions(
        settle=settings.get("settle", SETTLE),
        timeout=settings.get("timeout"),
        limits=limits(settings),
        run=settings.get("budget") or secrets.token_hex(8),
        verify_remote=settings.get("verify_remote", False),
    )


def _check_address(given: str | os.PathLike[str]) -> None:
    """Refuse a URL that does not lead to PostgreSQL: as a path, it would begin a file of its own.

    Raises:
        InputError: It is one; the error does not show it, as it may hold a password.
    """
    if isinstance(given, str) and "://" in given and not given.startswith(POSTGRES):
        raise InputError(
            "journal= is a URL, but not one of a PostgreSQL database",
            field="journal",
            limit="a path, or postgresql://…",
            hint="write it like postgresql://host/database, without the name of a driver",
        )


async def _open_journal(given: JournalLike, clock: Clock, *, verify_remote: bool) -> Journal:
    """Return the journal that *given* names, or is; one in memory for None."""
    if given is None:
        return MemoryJournal()
    if not isinstance(given, str | os.PathLike):
        return given
    if isinstance(given, str) and given.startswith(POSTGRES):
        from comet_async.postgres import PostgresJournal  # noqa: PLC0415 - an extra

        return await PostgresJournal.open(given, clock=clock, verify_remote=verify_remote)
    return await SqliteJournal.open(Path(given), clock=clock, verify_remote=verify_remote)


def _folder_journal(root: Path | None, *, dry: bool) -> Path | None:
    """Return where the journal of the folder *root* is; None keeps it in memory."""
    path = None if root is None else root / JOURNAL_NAME
    return None if path is None or (dry and not path.exists()) else path


def _identity_of(path: Path | None) -> str:
    """Return what tells journals apart; one in memory is like no other."""
    return secrets.token_hex(8) if path is None else os.path.realpath(path)


_JOURNAL_METHODS = ("plan", "send", "move", "find")  # by which a journal is recognised
_FLAGS = ("prepare", "retry_failed", "verify_remote", "checksum", "follow_links")


def check_options(given: Budget) -> None:
    """Refuse options that can't be used, before anything is done.

    Raises:
        InputError: One can't be used, or is not an option.
    """
    options = cast("RunOptions", given)  # which has these and more
    known = RunOptions.__optional_keys__
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{name} is not an option of a run",
                field=name,
                limit=", ".join(sorted(known)),
                hint="see RunOptions",
            )
        if name in _FLAGS:
            check_flag(name, value)
    if "concurrency" in options:
        check_concurrency(options.get("concurrency", CONCURRENCY))
    if "settle" in options:
        check_number("settle", options.get("settle"), least=0)
    if "fresh" in options:
        check_text("fresh", options.get("fresh"), empty=True)
    if "budget" in options:
        check_text("budget", options.get("budget"), empty=True)
    price = options.get("price")
    if price is not None:
        _money("price", price)
    check_timeout(options.get("timeout"))
    selected(options)
    limits(options)


def limits(options: Budget) -> Limits:
    """Return what a run may buy.

    Raises:
        InputError: A limit is not a positive number.
    """
    jobs, spend = options.get("max_jobs"), options.get("max_spend")
    if jobs is not None:
        check_number("max_jobs", jobs, least=0, whole=True)
    images = None
    if spend is not None:
        given = options.get("price")
        price = _money("price", EXPAND.price or 0 if given is None else given)
        if price <= 0:
            msg = "max_spend needs a price above 0"
            hint = "set it with price="
            raise InputError(msg, field="price", value=price, limit="above 0", hint=hint)
        images = int(_money("max_spend", spend) / price)
    return Limits(jobs=jobs, images=images)


def selected(options: RunOptions) -> Selection:
    """Return which files of folders a run takes.

    Raises:
        InputError: A pattern is not text.
    """
    patterns: dict[str, tuple[str, ...]] = {}
    for name, given in (("include", options.get("include")), ("exclude", options.get("exclude"))):
        each = _several(given)
        if not all(map(_is_pattern, each)):
            raise InputError(
                f"{name} must be shell patterns such as '*.png'",
                field=name,
                value=given,
                limit="text that is not empty",
            )
        patterns[name] = tuple(map(str, each))
    return Selection(
        include=patterns["include"],
        exclude=patterns["exclude"],
        follow_links=options.get("follow_links", False),
    )


def _several(given: object) -> tuple[object, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return tuple(given)
    return () if given is None else (given,)


def _is_pattern(pattern: object) -> bool:
    return isinstance(pattern, str) and bool(pattern)


_MOST_DIGITS = 15  # of an amount: others are mistakes, and can't be divided by each other


def _money(field: str, value: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(-1 if isinstance(value, bool) else str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or (amount and abs(amount.adjusted()) > _MOST_DIGITS):
        raise InputError(
            f"{field}={value!r} is not an amount of money",
            field=field,
            value=value,
            limit="a number, at least 0",
        )
    return amount
