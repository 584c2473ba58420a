"""What a run needs, made for it: its journal, its slots, its job runner and its output folder."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs

from comet_async._images.discovery import OURS
from comet_async._jobs.active import ActiveJobs
from comet_async._jobs.concurrency_limit import ConcurrencyLimiter
from comet_async._jobs.keyed_lock import KeyedLock
from comet_async._jobs.loader import Loader
from comet_async._jobs.options import JobOptions
from comet_async._jobs.runner import JobRunner
from comet_async._jobs.services import Services
from comet_async._jobs.tasks import SessionTasks, closed_error
from comet_async._journal.memory import ForgettingJournal
from comet_async._results.save import ResultSaver
from comet_async._runs.batch import Batch
from comet_async._runs.journals import (
    JournalLike,
    check_journal,
    folder_journal,
    identity_of,
    is_of,
    open_journal,
    root_of,
)
from comet_async._runs.options import CONCURRENCY, SETTLE, RunOptions, check_options, limits
from comet_async._runs.planner import Planner
from comet_async._runs.sources import Root
from comet_async._validation import check_concurrency, check_event_loop
from comet_async.errors import InputError
from comet_async.journal import SqliteJournal
from comet_async.stores import Stores

_OWN = "the session's journal"  # its lock's name, as warnings show it


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
        own_run: The name under which what single calls buy is counted together.
    """

    services: Services
    tasks: SessionTasks
    defaults: RunOptions
    given: JournalLike = attrs.field(repr=False)  # an address may hold a password
    stores: Stores = attrs.field(factory=Stores)
    own_run: str = attrs.field(factory=lambda: secrets.token_hex(8), init=False)
    _own: ActiveJobs | None = attrs.field(default=None, init=False)
    _opening: asyncio.Task[ActiveJobs] | None = attrs.field(default=None, init=False)
    # By real path: journals of folders while runs use them.
    _folders: dict[str, _FolderJournal] = attrs.field(factory=dict, init=False)
    # With the loops that they belong to.
    _batches: dict[Batch, asyncio.AbstractEventLoop] = attrs.field(factory=dict, init=False)
    _locks: KeyedLock = attrs.field(factory=KeyedLock, init=False)
    _mutex: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_options(self.defaults)
        check_journal(self.given)

    async def own(self) -> ActiveJobs:
        """Return the jobs of the session's own journal, which is opened when it is first used."""
        if self._own is None:
            async with self._locks.of(_OWN):  # opened once, even by calls at the same time
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
                await self._close(opening.result())  # it was opened in the same turn of the loop
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

    def loader(self, settings: RunOptions) -> Loader:
        """Return what loads images as *settings* say."""
        return Loader(
            prepare=settings.get("prepare", False),
            private=self.services.api.gateway.loopback,
            stores=self.stores,
        )

    async def single(
        self, options: JobOptions, *, root: Root | None = None
    ) -> AbstractContextManager[Batch]:
        """Return a batch for a program's single call, over the session's own journal."""
        check_event_loop()
        self.tasks.check_open()
        active = await self.own()
        return self._registered(self._batch(active, options, self.loader(self.defaults), root, 1))

    @contextmanager
    def _registered(self, batch: Batch) -> Generator[Batch, None, None]:
        self._batches[batch] = asyncio.get_running_loop()
        try:
            yield batch
        finally:
            self._batches.pop(batch, None)

    @asynccontextmanager
    async def open(
        self, root: Root | None, options: RunOptions, *, dry: bool = False, resume: bool = False
    ) -> AsyncGenerator[Batch, None]:
        """Yield a batch for a run over many images, with its journal.

        Args:
            root: Below which folder results are saved; None saves none.
            options: What differs from the session's own.
            dry: Create nothing that does not exist yet.
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
                    await active.drain()

    @asynccontextmanager
    async def _jobs_of(
        self, root: Root | None, settings: RunOptions, *, dry: bool
    ) -> AsyncGenerator[ActiveJobs, None]:
        """Yield the jobs of the session's journal; if it has none, those of the folder's own."""
        if self.given is not None:
            yield await self.own()
            return
        path = None if isinstance(root, str) else folder_journal(root, dry=dry)
        key = identity_of(path)
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
            # One that lacks jobs is of no use to a run that would not look them up.
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
        loader = self.loader(settings)
        batch = self._batch(active, _job_options(settings), loader, root, workers)
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
        journal = await open_journal(given, self.services.clock, verify_remote=verify_remote)
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
        loader: Loader,
        root: Root | None,
        workers: int,
    ) -> Batch:
        services, saver = self.services, None
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

    async def aclose(self, timeout: float, caller: asyncio.Task[object] | None) -> None:
        """End all calls and runs, record what is being sent, and close our own journals.

        Args:
            timeout: Seconds; requests that are not answered by then are recorded as unknown.
            caller: The task that waits for this. If it does so in the middle of a call, as an
                image that is read from a stream may, that call can't end before.
        """
        self.tasks.closed = True
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        for batch in list(self._batches):
            batch.interrupt(closed_error())
        for active in list(self.tasks.journals):
            await active.drain(max(0.0, until - loop.time()))
        for batch in list(self._batches):
            await batch.calls.ended(max(1.0, until - loop.time()), caller=caller)
        await self._wait_for_left_runs(max(1.0, until - loop.time()))
        for key, folder in list(self._folders.items()):
            await self._close_unused(key, folder)
        if (opening := self._opening) is not None:  # its database may be out of reach
            with contextlib.suppress(RuntimeError):  # its loop was closed
                opening.get_loop().call_soon_threadsafe(opening.cancel)
        async with self._locks.of(_OWN):  # a call may be opening it
            if self._own is not None:
                await self._close(self._own)
                self._own = None  # not before: a caller that was cancelled may close again

    async def _wait_for_left_runs(self, timeout: float) -> None:
        """Wait until the runs that their callers have left have closed their journals.

        A run whose loop was stopped or closed does not continue, and is not waited for.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        for _ in range(_TURNS):
            await asyncio.sleep(0)

        def closing() -> bool:
            batches = list(self._batches.items())
            return any(batch.left and there.is_running() for batch, there in batches)

        while closing() and loop.time() < until:  # noqa: ASYNC110 - of any event loop
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
