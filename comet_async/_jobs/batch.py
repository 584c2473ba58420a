"""Many images: each becomes one outcome, and none can stop the others.

A fixed number of workers takes images one by one from a source that may be endless; memory
follows the number of workers, not of images. Outcomes come in the order of completion.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import TypeVar, cast

import attrs

from comet_async._idempotency import content_key
from comet_async._images.load import ImageInput, SourceImage
from comet_async._jobs.runner import JobRunner
from comet_async._journal.records import Destination, JobRecord, Journal, NewJob
from comet_async._journal.states import LEFT_OVER, READY, WITHOUT_RESULT, JobState
from comet_async._results.save import ResultSaver
from comet_async._types import JSON
from comet_async.clock import Clock
from comet_async.errors import CometError, InputError, JournalError, RunStoppedError
from comet_async.outcomes import Outcome, OutcomeStatus, as_task, from_error, from_record
from comet_async.requests import TaskKind, TaskRequest

T = TypeVar("T")

Work = Callable[[], Awaitable[T]]
"""Something to do; called when its turn comes."""


async def in_parallel(works: AsyncIterator[Work[T]], workers: int) -> AsyncGenerator[T, None]:
    """Yield the results of *works* in the order of completion, at most *workers* at a time.

    The stream is read one ahead and no further. What a work raises ends the iteration; what
    is running then, or when the iteration is left early, is cancelled and waited for.
    """
    running: set[asyncio.Future[T]] = set()
    pulling: asyncio.Future[Work[T] | None] | None = None
    exhausted = False
    # Each work tells of its end, and None of the stream's next: to ask all of them what has
    # ended costs the more, the more there are.
    ended: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
    try:
        while running or not exhausted:
            if pulling is None and not exhausted and len(running) < workers:
                pulling = asyncio.ensure_future(_next(works))
                pulling.add_done_callback(lambda _: ended.put_nowait(None))
            future = await ended.get()
            if future is not None:
                running.discard(future)
                yield future.result()
            elif pulling is not None:
                work = pulling.result()
                pulling, exhausted = None, work is None
                if work is not None:
                    started = asyncio.ensure_future(work())
                    started.add_done_callback(ended.put_nowait)
                    running.add(started)
    finally:
        await _cancel(running)
        if pulling is not None:
            await _cancel({pulling})


async def _next(works: AsyncIterator[Work[T]]) -> Work[T] | None:
    return await anext(works, None)


async def _cancel(futures: set[asyncio.Future[T]]) -> None:
    for future in futures:
        future.cancel()
    if futures:
        await asyncio.wait(futures)


@attrs.frozen(kw_only=True)
class Item:
    """One image to work on.

    Attributes:
        source: How to name it in the outcome.
        request: What to ask for.
        dest: Where the result belongs, relative to the output folder and without extension;
            None when no file is wanted.
        error: Why it can't be worked on, found while the sources were read.
    """

    source: str
    request: TaskRequest | None = None
    dest: str | None = None
    error: CometError | None = None

    @property
    def wanted(self) -> TaskRequest:
        """The request.

        Raises:
            CometError: The item's error.
        """
        if self.request is None:
            raise self.error or InputError("there is nothing to do", field="request")
        return self.request


SourceImages = Mapping[str, SourceImage] | None
LoadImage = Callable[[ImageInput, str], Awaitable[SourceImage]]


@attrs.frozen(kw_only=True)
class Planned:
    """An item whose images are loaded and checked.

    Attributes:
        item: The item.
        images: Its images, by JSON field.
        fields: The fields that decide the result.
        key: The content key: the same image with the same fields has the same one.
        record: What the journal knows of it, or None when it is new.
        needless: True when the image already is what is asked for.
    """

    item: Item
    images: Mapping[str, SourceImage]
    fields: Mapping[str, JSON]
    key: str
    record: JobRecord | None
    needless: bool = False


@attrs.define(eq=False)
class Batch:
    """Runs items with a fixed number of workers; iterate over it for the outcomes.

    Leaving the iteration early stops the work: what is being sent is sent and recorded to
    its end, all else stops at once and goes on in the next run.
    """

    runner: JobRunner
    journal: Journal
    delivery: ResultSaver | None
    load: LoadImage
    account: str
    kinds: Mapping[str, TaskKind]
    clock: Clock
    workers: int
    salt: str = ""
    retry_failed: bool = False
    finish_left_over: bool = False
    _parked: list[tuple[Item, JobRecord, SourceImages]] = attrs.field(factory=list, init=False)
    _unfinished: set[str] = attrs.field(factory=set, init=False)
    _keys: dict[str, str | None] = attrs.field(factory=dict, init=False)
    _halted: bool = attrs.field(default=False, init=False)
    # The tasks of works, and those of them that `interrupt` has cancelled.
    _busy: set[asyncio.Task[Outcome | None]] = attrs.field(factory=set, init=False)
    _cut: set[asyncio.Task[Outcome | None]] = attrs.field(factory=set, init=False)

    @property
    def stopped(self) -> CometError | None:
        """The account problem that stopped this run, or None."""
        return self.runner.stopped

    def interrupt(self) -> None:
        """Stop: nothing new is sent, what is being sent is recorded, the rest is ``pending``."""
        self._halted = True
        self.runner.stop(RunStoppedError("interrupted"))
        self._cut |= self._busy
        while self._busy:
            self._busy.pop().cancel()

    async def outcomes(self, items: AsyncIterator[Item]) -> AsyncGenerator[Outcome, None]:
        """Yield one outcome for each of *items*, in the order of completion.

        Raises:
            JournalError: The journal can't be written; nothing more is sent.
        """
        for phase in (self._fresh(items), self._second_look(), self._left_over()):
            async with aclosing(in_parallel(phase, self.workers)) as outcomes:
                async for outcome in outcomes:
                    if outcome is not None:
                        yield outcome

    # Each phase is a stream of works; each gives one outcome, or None for a job that is put
    # aside until the others have shown which questions can be believed.

    async def _fresh(self, items: AsyncIterator[Item]) -> AsyncIterator[Work[Outcome | None]]:
        async for item in items:
            if self._ended():
                return
            yield self._guarded(item.source, functools.partial(self._work, item))

    async def _second_look(self) -> AsyncIterator[Work[Outcome | None]]:
        parked, self._parked = self._parked, []
        for item, record, images in parked:
            work = functools.partial(self._end_of, item, record, images)
            yield self._guarded(item.source, work)

    async def _left_over(self) -> AsyncIterator[Work[Outcome | None]]:
        """Go on with paid jobs of earlier runs whose images are no longer among the sources."""
        after = ""
        while self.finish_left_over and not self._halted:
            page = await self.journal.find(LEFT_OVER, after=after)
            for record in page:
                if record.key not in self._unfinished:
                    work = functools.partial(self._take_over, record)
                    yield self._guarded(record.source, work)
            if not page:
                return
            after = page[-1].key

    async def _take_over(self, record: JobRecord) -> Outcome | None:
        """Go on with a left-over job, unless another run of this process has it or ended it."""
        if self.runner.claims.turns.taken(record.key):
            return None
        current = await self.journal.get(record.key)
        if current is None or current.state not in LEFT_OVER:
            return None
        return await self.resume(current)

    def _ended(self) -> bool:
        return self._halted or self.runner.stopped is not None

    def _guarded(self, source: str, work: Work[Outcome | None]) -> Work[Outcome | None]:
        return lambda: self._guard(source, work)

    async def _guard(self, source: str, work: Work[Outcome | None]) -> Outcome | None:
        """Turn the end of *work*, whatever it is, into an outcome."""
        task = cast("asyncio.Task[Outcome | None]", asyncio.current_task())
        self._busy.add(task)
        self._keys[source] = None
        try:
            return await work()
        except asyncio.CancelledError:
            # Once by `interrupt`, and not by whoever leaves the iteration as well.
            if task not in self._cut or task.cancelling() > 1:
                raise
            task.uncancel()
            return await self._interrupted(source)
        except CometError as error:
            if isinstance(error, JournalError):
                self.runner.stop(error)
            return from_error(source, error)
        finally:
            self._busy.discard(task)
            self._cut.discard(task)
            self._keys.pop(source, None)

    async def _interrupted(self, source: str) -> Outcome:
        """Tell how far the job of *source* came; what was being sent is recorded first."""
        await self.runner.claims.settle()
        key = self._keys.get(source)
        record = await self.journal.get(key) if key is not None else None
        task = None if record is None else as_task(record)
        hint = "run the same command again to go on"
        if task is not None:
            hint = f"it is accepted and billed: {hint}, and nothing is paid again"
        why = RunStoppedError(
            "interrupted",
            hint=hint,
            sent=task is not None,
            task_id=None if task is None else task.id,
            external_task_id=key,
        )
        return Outcome(
            source=source,
            status=OutcomeStatus.PENDING,
            task=task,
            error=why,
            external_task_id=key,
        )

    # One item ---------------------------------------------------------------------------

    async def plan(self, item: Item) -> Planned:
        """Load and check *item*, and look it up; nothing is written and nothing is sent.

        Raises:
            InputError: The item breaks a rule; it says which.
        """
        planned = await self._prepared(item)
        if planned.needless or planned.record is not None:
            return planned
        return attrs.evolve(planned, record=await self.journal.get(planned.key))

    async def _prepared(self, item: Item) -> Planned:
        """Load and check *item*. The journal is asked only if the key depends on the answer."""
        if item.error is not None:
            raise item.error
        request = item.wanted
        images = {name: await self.load(given, name) for name, given in request.images().items()}
        if request.needless(images):
            return Planned(item=item, images=images, fields={}, key="", record=None, needless=True)
        fields = request.fields(images)
        hashes = {name: image.sha256 for name, image in images.items()}
        key, record = request.external_task_id, None
        attempts = itertools.count(1)
        while key is None or (record is not None and record.state in WITHOUT_RESULT):
            attempt = next(attempts)
            key = content_key(request.kind.name, hashes, fields, salt=self.salt, attempt=attempt)
            record = await self.journal.get(key) if self.retry_failed else None
        return Planned(item=item, images=images, fields=fields, key=key, record=record)

    async def submit(self, item: Item) -> JobRecord:
        """Plan one item and move it until the server has its task.

        Raises:
            CometError: It could not be sent, or its outcome is unknown.
        """
        planned = await self._prepared(item)
        async with self._planned(planned) as record:
            return await self.runner.run(record, planned.images, until=JobState.SUBMITTED)

    async def one(self, item: Item, *, timeout: float | None = None) -> Outcome:
        """Run one item to its end; *timeout* limits the wait, in seconds.

        Raises:
            CometError: It can't go on now; the journal says how far it came.
        """
        planned = await self._prepared(item)
        async with self._planned(planned) as record:
            return await self._end(item, record, planned.images, timeout=timeout)

    async def resume(self, record: JobRecord) -> Outcome:
        """Go on with a job of the journal, to its end, at each of its destinations.

        Raises:
            CometError: It can't go on now; the journal says how far it came.
        """
        destinations = await self.journal.destinations(record.key)
        places: list[str | None] = [place.dest for place in destinations]
        first, *others = places or [None]
        outcome = await self._end_of(Item(source=record.source, dest=first), record, None)
        for dest in others:
            outcome = await self._end_of(Item(source=record.source, dest=dest), record, None)
        return outcome

    async def _work(self, item: Item) -> Outcome | None:
        planned = await self._prepared(item)
        if planned.needless:
            return await self._copy(planned)
        if not self.runner.options.verify_remote:
            await self._check_free(planned)
        async with self._planned(planned) as record:
            return await self._finish(item, record, planned.images)

    async def _check_free(self, planned: Planned) -> None:
        """Refuse a name that is taken, before anything is paid."""
        if self.delivery is not None and planned.item.dest is not None:
            n = planned.item.wanted.n
            await self.delivery.check_free(planned.item.dest, planned.key, n)

    def _planned(self, planned: Planned) -> AbstractAsyncContextManager[JobRecord]:
        """Write an item's job down and work on it alone; gives its record as it is then."""
        item = planned.item
        self._begin(item, planned.key)
        request = item.wanted
        job = NewJob(
            key=planned.key,
            kind=request.kind.name,
            account=self.account,
            params=planned.fields,
            n=request.n,
            source=item.source,
            image_sha=":".join(image.sha256 for image in planned.images.values()),
            dest=item.dest,
        )
        return self.runner.claims.planned(job, now=self.clock.time())

    def _begin(self, item: Item, key: str) -> None:
        """Remember what the phases of `outcomes` need to know of a job; nothing for others."""
        if item.source in self._keys:
            self._keys[item.source] = key
        if self.finish_left_over:
            self._unfinished.add(key)

    async def _copy(self, planned: Planned) -> Outcome:
        """Save an image that already has the wanted shape as it is: nothing is paid."""
        item = planned.item
        files: tuple[Path, ...] = ()
        note = "it already has this shape: copied as it is, nothing was paid"
        if self.delivery is not None and item.dest is not None:
            files = (await self.delivery.copy(next(iter(planned.images.values())), item.dest),)
        return Outcome(source=item.source, status=OutcomeStatus.DONE, files=files, notes=(note,))

    async def _finish(self, item: Item, record: JobRecord, images: SourceImages) -> Outcome | None:
        """Run a job as far as it goes; None when it is put aside for a second look."""
        fresh = _never_sent(record)
        record = await self.runner.run(record, images)
        if record.state is JobState.UNKNOWN and not self._ended():
            # Its places must not keep the others from running: one of them may supply the
            # proof that this one needs.
            self.runner.quota.release(record.key)
            self._parked.append((item, record, images))
            return None
        return await self._deliver(item, record, images, fresh=fresh)

    async def _end_of(self, item: Item, record: JobRecord, images: SourceImages) -> Outcome:
        """Run a job of the journal to its end, alone."""
        self._begin(item, record.key)
        async with self.runner.claims.alone(record) as current:
            return await self._end(item, current, images)

    async def _end(
        self, item: Item, record: JobRecord, images: SourceImages, *, timeout: float | None = None
    ) -> Outcome:
        """Run a job to its end; nothing that comes later can help it."""
        fresh = _never_sent(record)
        record = await self.runner.run(record, images, timeout=timeout)
        return await self._deliver(item, record, images, fresh=fresh)

    async def _deliver(
        self, item: Item, record: JobRecord, images: SourceImages, *, fresh: bool
    ) -> Outcome:
        files: tuple[Path, ...] = ()
        if record.state is JobState.UNKNOWN:
            self.runner.quota.release(record.key)
            record = await self.runner.give_up(record)
        if record.state in READY and item.dest is not None and self.delivery is not None:
            kind = self.kinds[record.kind]
            known = Destination(source=item.source, dest=item.dest) if fresh else None
            record, files = await self.delivery.deliver(record, item.dest, kind, known)
        if record.state not in LEFT_OVER:
            self._unfinished.discard(record.key)
        notes = tuple(note for image in (images or {}).values() for note in image.notes)
        return from_record(item.source, record, files, notes)


def _never_sent(record: JobRecord) -> bool:
    """Tell whether *record* is as it was planned: no file of its job can be anywhere."""
    return record.state is JobState.PLANNED and not record.fence
