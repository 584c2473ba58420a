"""Many images: each becomes one outcome, and none can stop the others.

A fixed number of workers takes images one by one from a source that may be endless, so memory use
depends on the number of workers, not of images. Outcomes come in the order of completion.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, TypeAlias

import attrs

from comet_async._images.source import SourceImage
from comet_async._jobs.active import ActiveJobs, Job
from comet_async._jobs.calls import Call, Calls
from comet_async._jobs.options import JobOptions
from comet_async._jobs.runner import JobRunner
from comet_async._journal.records import Destination, JobRecord
from comet_async._journal.states import ACCEPTED, LEFT_OVER, OPEN, READY, JobState
from comet_async._results.save import Delivery, ResultSaver
from comet_async._runs.items import Item, Planned
from comet_async._runs.outcome_log import OutcomeLog
from comet_async._runs.parallel import in_parallel
from comet_async._runs.planner import Planner
from comet_async.errors import (
    CometError,
    DownloadError,
    InputError,
    JournalError,
    ResultExpiredError,
    RunStoppedError,
    StaleRecordError,
    TaskFailedError,
)
from comet_async.events import Failed, Saved
from comet_async.journal import SqliteJournal
from comet_async.models import Task
from comet_async.outcomes import Outcome, OutcomeStatus, as_task, from_error, from_record
from comet_async.requests import kind_named
from comet_async.stores import Place, addresses_of, files_of

logger = logging.getLogger("comet_async")

_MAY_BE_SENT = frozenset(JobState) - ACCEPTED - {JobState.ABANDONED}

# How an item ended, None for one without an outcome, and its job's record if that is known.
_End: TypeAlias = tuple[Outcome | None, JobRecord | None]


@attrs.define(eq=False)
class Batch:
    """Runs items with a fixed number of workers; iterate over `outcomes`.

    Leaving the iteration early stops the work: what is being sent is sent and recorded to its
    end, all else stops at once and continues in the next run.

    Attributes:
        runner: Moves jobs.
        planner: Says what an image would become.
        workers: How many items to work on at a time.
        finish_left_over: Also finish paid jobs of earlier runs that are no longer asked for.
        covers_all: False when jobs that the journal lost may not be among those that are worked
            on: only those that it knows are, or only some of the images.
        covers_folder: True when all images of a folder are worked on in the folder's own journal.
            Of a list of files nobody knows whether it has all that were ever sent.
        left: True when the caller has left the iteration early, which then ends by itself.
    """

    runner: JobRunner
    planner: Planner
    workers: int
    finish_left_over: bool = False
    covers_all: bool = True
    covers_folder: bool = False
    left: bool = attrs.field(default=False, init=False)
    calls: Calls = attrs.field(init=False)
    _parked: list[Item] = attrs.field(factory=list, init=False)
    _unfinished: set[str] = attrs.field(factory=set, init=False)
    _halted: bool = attrs.field(default=False, init=False)
    # The asyncio task that waits for the next item, which may never come; and whether it was
    # cancelled for that. It may be the caller's own.
    _reading: asyncio.Task[Any] | None = attrs.field(default=None, init=False)
    _cut_off: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.calls = Calls(self.active)
        self.runner.sender.on_stop = self._stop_reading

    @property
    def active(self) -> ActiveJobs:
        """The journal's jobs."""
        return self.runner.active

    @property
    def saver(self) -> ResultSaver | None:
        """Saves results; None when no files are wanted."""
        return self.planner.saver

    @property
    def options(self) -> JobOptions:
        """How jobs are run."""
        return self.runner.options

    @property
    def stopped(self) -> CometError | None:
        """What stopped this run, or None."""
        return self.runner.sender.stopped

    def interrupt(self, reason: CometError | None = None) -> None:
        """Stop: nothing new is sent, what is being sent is recorded, the rest is ``pending``."""
        why = reason or RunStoppedError("interrupted", hint="run again to continue")
        self._halted = True
        self.runner.sender.stop(why)
        self.calls.end(why)

    @contextmanager
    def noticing_exit(self) -> Generator[None, None, None]:
        """Notice when the caller leaves the iteration at a ``yield`` in this block."""
        try:
            yield
        except GeneratorExit:
            self.left = True
            raise

    def _stop_reading(self) -> None:
        """Wait for no further item; from any thread."""
        if (task := self._reading) is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(self._cancel_reading, task)

    def _cancel_reading(self, task: asyncio.Task[Any]) -> None:
        if self._reading is task and not self._cut_off:  # otherwise it has its item by now
            self._cut_off = True
            task.cancel()

    # Many items ---------------------------------------------------------------------------

    async def outcomes(
        self,
        items: AsyncGenerator[Item, None],
        finished: AsyncGenerator[Sequence[Item], None] | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Yield one outcome for each item, in the order of completion.

        Args:
            items: What to work on.
            finished: Items that have their outcome, read at the same time.

        Raises:
            JournalError: The journal can't be read.
        """
        log = OutcomeLog(
            journal=self.active.journal,
            clock=self.active.services.clock,
            run=self.options.run,
            root=None if self.saver is None else self.saver.root,
        )
        complete = self.covers_all
        try:
            known = None if finished is None else _ends(finished)
            for phase in (self.until_halted(items), self._second_look(), self._left_over()):
                ends = in_parallel(phase, self._end, self.workers, known)
                async with aclosing(ends):
                    async for outcome, record in ends:
                        if outcome is not None:
                            complete = complete and not _perhaps_unseen(outcome)
                            await log.add(outcome, record)
                            yield outcome
                await self.planner.memory.flush()
                known = None
        finally:
            await log.flush()
        if self.options.verify_remote and complete and not self._ended() and await self._has_all():
            await self.active.journal.trust()

    async def _has_all(self) -> bool:
        """Return True if no job that the journal lost can be missing after this run."""
        journal = self.active.journal
        if self.covers_folder or not isinstance(journal, SqliteJournal):  # others do not count
            return True
        return await journal.found_all()

    def _ended(self) -> bool:
        return self._halted or self.stopped is not None

    async def until_halted(self, items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
        """Yield *items* until they end or the run is halted."""
        async with aclosing(items):
            while (item := await self._next(items)) is not None:
                yield item

    async def _next(self, items: AsyncGenerator[Item, None]) -> Item | None:
        """Return the next item; None at the end of *items* or of the run."""
        self._reading = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        item, before = None, task.cancelling()
        try:
            item = None if self._ended() else await anext(items, None)
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
        finally:
            self._reading, cut_off, self._cut_off = None, self._cut_off, False
        if cut_off and task.uncancel() > before:
            raise asyncio.CancelledError  # by somebody else, too
        return None if self._ended() else item

    async def _second_look(self) -> AsyncGenerator[Item, None]:
        """Yield the jobs that were parked: by now others have shown which lookups work."""
        parked, self._parked = self._parked, []
        for each in parked:
            yield each

    async def _left_over(self) -> AsyncGenerator[Item, None]:
        """Yield paid jobs of earlier runs whose images are no longer among the sources."""
        after = ""
        while self.finish_left_over and not self._halted:
            page = await self.active.journal.find(LEFT_OVER, after=after)
            for record in page:
                known = record.key in self._unfinished or self.active.locks.taken(record.key)
                if not known and self.planner.is_ours(record):
                    yield Item(source=record.source, record=record)
            if not page:
                return
            after = page[-1].key

    async def unfinished(self) -> AsyncGenerator[Item, None]:
        """Yield every unfinished job of the journal."""
        journal, after = self.active.journal, ""
        while page := await journal.find(OPEN, after=after):
            for record in page:
                # Without a file to save, a result on the server is the end.
                wanted = record.state not in READY or await journal.destinations(record.key)
                if wanted and self.planner.is_ours(record):
                    yield Item(source=record.source, record=record)
            after = page[-1].key

    async def _end(self, item: Item) -> _End:
        return await self._outcome(item), None

    async def _outcome(self, item: Item) -> Outcome | None:
        """Turn the end of one item, whatever it is, into an outcome.

        Returns:
            None for a job that is parked, or that another run has ended meanwhile.
        """
        call: Call | None = None
        try:
            async with self._call(item) as call:
                if item.record is None:
                    return await self._process(call, item, park=True)
                if item.request is None:
                    return await self._resume_left_over(call, item.record)
                call.images, call.callback_url = item.images, item.request.callback_url
                return await self._resume(call, item, item.record)
        except CometError as error:
            problem = error
            if isinstance(error, JournalError) and not isinstance(error, StaleRecordError):
                self.runner.sender.stop(error)
        except Exception as error:
            logger.exception("internal error while processing %s", item.source)
            what = f"internal error: {type(error).__name__}: {error}"
            problem = CometError(
                what,
                hint="please report it; running again continues with this image",
                task_id=None if call is None else call.task_id,
                external_task_id=None if call is None else call.key,
            )
            problem.__cause__ = error
        return from_error(item.source, problem, task=_task_of(call))

    # One item -----------------------------------------------------------------------------

    async def one(self, item: Item) -> Outcome:
        """Work on one item to its end, or until it is submitted if that is all that is wanted.

        Raises:
            CometError: It can't continue now; the journal says how far it came.
        """
        async with self._call(item) as call:
            outcome = await self._process(call, item, park=False)
        if outcome is None:
            raise AssertionError
        return outcome

    async def resume(self, record: JobRecord) -> Outcome:
        """Continue with a job of the journal to its end, at each of its destinations.

        Raises:
            CometError: It can't continue now; the journal says how far it came.
        """
        async with self._call(Item(source=record.source)) as call:
            return await self._resume_everywhere(call, record)

    def _call(self, item: Item) -> AbstractAsyncContextManager[Call]:
        return self.calls.begin(
            item.source, timeout=self.options.timeout, at_once=self.options.single
        )

    async def _process(self, call: Call, item: Item, *, park: bool) -> Outcome | None:
        """Take one item from its source to its outcome.

        Args:
            call: Whose work it is.
            item: The item.
            park: Put the job aside if its outcome is unknown: another one may supply the proof
                that this one needs.

        Returns:
            The outcome, or None if the job was parked.

        Raises:
            CometError: It can't continue now.
        """
        planned = await self.planner.prepare(item)
        if planned.already_satisfied:
            return await self.copy(planned)
        return await self._process_planned(call, planned, park=park)

    async def _process_planned(self, call: Call, planned: Planned, *, park: bool) -> Outcome | None:
        item = planned.item
        async with self._named(planned), self._claimed(call, planned) as record:
            if (later := await self.planner.bought_again(planned, record)) is not None:
                return await self._process_planned(call, later, park=park)
            if record.state in _MAY_BE_SENT:
                call.images = await self.planner.read(planned.images)
            places = None
            if record.state is JobState.PLANNED and not record.fence and item.dest is not None:
                # No file of a job that was never sent can be anywhere.
                places = (Destination(source=item.source, dest=item.dest),)
            job = await self.runner.run(call, record)
            if park and job.record.state is JobState.UNKNOWN and not self._ended():
                parked = attrs.evolve(item, record=job.record, images=call.images)
                self._parked.append(parked)
                return None
            return await self._conclude(call, item, job, places)

    def _named(self, planned: Planned) -> AbstractAsyncContextManager[None]:
        """Work on a job whose results can get their names, at the end of this block as well.

        Raises:
            InputError: They can't, and nothing was sent.
        """
        dest = planned.item.dest
        if self.saver is None or dest is None:
            return nullcontext()
        return self._naming(planned, self.saver, dest)

    @asynccontextmanager
    async def _naming(
        self, planned: Planned, saver: ResultSaver, dest: str
    ) -> AsyncGenerator[None, None]:
        with self.active.naming(saver.identity(dest), planned.key) as wanted:
            if wanted:
                await saver.refuse_unsent(dest, planned.key)
            await self.planner.check(planned)
            yield

    def _claimed(self, call: Call, planned: Planned) -> AbstractAsyncContextManager[JobRecord]:
        """Record an item's job and work on it alone; yields its record as it is then."""
        self._begin(call, planned.key)
        call.images, call.callback_url = planned.images, planned.item.wanted.callback_url
        return self.active.planned(self.planner.as_job(planned))

    def _begin(self, call: Call, key: str) -> None:
        call.key = key
        if call.deadline.seconds == 0 and self.active.locks.taken(key):
            call.deadline.check()  # another caller works on it, which may take long
        if self.finish_left_over:
            self._unfinished.add(key)

    async def copy(self, planned: Planned) -> Outcome:
        """Save an image that already has the wanted shape as it is: nothing is paid.

        Raises:
            InputError: A task is wanted, and there is none.
        """
        item = planned.item
        if self.options.single:
            raise InputError(
                "nothing would be added: the image already has this shape",
                field="margins",
                limit="at least one margin above 0",
                hint="nothing was sent and nothing was paid; use the image as it is",
            )
        await self.planner.check(planned)
        saved: tuple[Place, ...] = ()
        image, found = next(iter(planned.images.values())), None
        how = "saved as converted" if image.notes else "copied as it is"
        note = f"it already has this shape: {how}, nothing was paid"
        if self.saver is not None and item.dest is not None:
            found = await self.saver.find_copy(image, item.dest)
            saved = (found or await self._make_copy(self.saver, image, item.dest),)
        return Outcome(
            source=item.source,
            status=OutcomeStatus.DONE,
            files=files_of(saved),
            urls=addresses_of(saved),
            notes=(*image.notes, note),
            already_there=found is not None,
        )

    async def _make_copy(self, saver: ResultSaver, image: SourceImage, dest: str) -> Place:
        read = await self.planner.read({"image": image})
        return await saver.copy(read["image"], dest)

    async def _resume_left_over(self, call: Call, record: JobRecord) -> Outcome | None:
        """Resume a job, unless another run of this process has it or has ended it."""
        if self.active.locks.taken(record.key):
            return None
        current = await self.active.journal.get(record.key)
        if current is None or current.state not in OPEN:
            return None
        return await self._resume_everywhere(call, current)

    async def _resume_everywhere(self, call: Call, record: JobRecord) -> Outcome:
        """Run a job of the journal to its end, alone, and save its results where they belong."""
        self._begin(call, record.key)
        async with self.active.alone(record) as current, self._keeping_names(current):
            job = await self.runner.run(call, current)
            return await self._conclude_everywhere(call, job)

    async def _conclude_everywhere(self, call: Call, job: Job) -> Outcome:
        """Save a job's results under each of their names; one that is taken stops no other.

        Raises:
            DownloadError: They could not be saved under one of them.
        """
        source, problem = job.record.source, None
        places: Sequence[Destination] | None
        places = known = await self.active.journal.destinations(job.record.key)
        dests: list[str | None] = [place.dest for place in known]
        outcomes: list[Outcome] = []
        for dest in dests or [None]:
            item = Item(source=source, dest=dest)
            try:
                outcomes.append(await self._conclude(call, item, job, places))
                job = call.job or job
            except ResultExpiredError:
                raise
            except DownloadError as error:  # under another name it may be saved all the same
                problem = problem or error
                call.job = job = Job(await self.active.current(job.record), job.task)
            places = None  # what was saved under one name is seen by the next
        if problem is None:
            return outcomes[-1]
        if job.record.state is JobState.DONE:  # or `resume` would pass it over
            call.job = Job(
                await self.active.move(job.record, JobState.SUCCEEDED, "a file is missing"),
                job.task,
            )
        raise problem

    @asynccontextmanager
    async def _keeping_names(self, record: JobRecord) -> AsyncGenerator[None, None]:
        """Work on a job of the journal whose results can get their names, as `_named` does.

        Raises:
            InputError: They can't since it was planned, and nothing was sent.
        """
        # Where several processes share the journal, another one may have the disk that this lacks.
        if self.saver is None or self.active.shared is not None:
            yield
            return
        unsent = record.state in {JobState.PLANNED, JobState.REJECTED}
        with ExitStack() as names:
            for place in await self.active.journal.destinations(record.key):
                name = self.saver.identity(place.dest)
                if names.enter_context(self.active.naming(name, record.key)):
                    await self.saver.refuse_unsent(place.dest, record.key)
                if unsent:
                    known = self.options.verify_remote
                    await self.saver.check_free(place.dest, record.key, record.n, adopt=known)
            yield

    async def _resume(self, call: Call, item: Item, record: JobRecord) -> Outcome:
        """Run a job of the journal to its end, alone."""
        self._begin(call, record.key)
        async with self.active.alone(record) as current:
            job = await self.runner.run(call, current)
            return await self._conclude(call, item, job)

    async def _conclude(
        self, call: Call, item: Item, job: Job, places: Sequence[Destination] | None = None
    ) -> Outcome:
        """Save a job's results, and return its outcome: nothing that comes later can help it.

        Args:
            call: Whose work it is.
            item: Where one of the job's results belongs.
            job: The job.
            places: Where all of them do, with what is there, if that is known.
        """
        job = await self.runner.give_up(call, job)
        saved: tuple[Place, ...] = ()
        already_there = False
        if job.record.state in READY and item.dest is not None and self.saver is not None:
            call.deadline.stop()
            delivery = await self._deliver(self.saver, job.record, item.dest, places)
            saved, already_there = delivery.files, delivery.already_there
            call.job = job = Job(delivery.record, job.task)
        elif job.record.state is JobState.FAILED:
            message = job.record.message or "the task failed"
            self.active.emit(
                Failed, job.record, error=TaskFailedError.__name__, message=message, sent=True
            )
        if job.record.state not in LEFT_OVER:
            self._unfinished.discard(job.record.key)
        return from_record(
            item.source,
            job.record,
            saved,
            call.notes,
            task=job.task,
            already_there=already_there,
        )

    async def _deliver(
        self,
        saver: ResultSaver,
        record: JobRecord,
        dest: str,
        places: Sequence[Destination] | None,
    ) -> Delivery:
        """Save a job's results, and report that unless it was done before."""
        clock = self.active.services.clock
        began = clock.monotonic()
        delivery = await saver.deliver(record, dest, kind_named(record.kind), places)
        if record.state is not JobState.DONE:
            self.active.emit(
                Saved,
                delivery.record,
                files=files_of(delivery.files),
                urls=addresses_of(delivery.files),
                seconds=clock.monotonic() - began,
            )
        return delivery


def _perhaps_unseen(outcome: Outcome) -> bool:
    """Return True if the job of a source may not have been looked up on the server."""
    unread = isinstance(outcome.error, InputError) and isinstance(outcome.error.__cause__, OSError)
    return unread or (outcome.status is OutcomeStatus.PENDING and outcome.task is None)


async def _ends(
    finished: AsyncGenerator[Sequence[Item], None],
) -> AsyncGenerator[list[_End], None]:
    """Yield the outcomes of items that are *finished*, with their records."""
    async with aclosing(finished):
        async for items in finished:
            saved = [None if item.planned is None else item.planned.saved for item in items]
            records = [None if job is None else job.record for job in saved]
            yield [(item.outcome, record) for item, record in zip(items, records, strict=True)]


def _task_of(call: Call | None) -> Task | None:
    """Return the newest that is known about the task of *call*."""
    if call is None or call.job is None:
        return None
    return call.job.task or as_task(call.job.record)
