"""Planning: an image is loaded, checked, named, and looked up in the journal.

Nothing is sent here, and nothing is written but what is remembered of source files.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import attrs

from comet_async._images.source import SourceImage
from comet_async._jobs.active import ActiveJobs
from comet_async._jobs.loader import Loader
from comet_async._journal.keys import content_key, next_attempt, random_key
from comet_async._journal.memory import ForgettingJournal, MemoryJournal
from comet_async._journal.records import CALLBACK, Destination, JobRecord, NewJob, SavedJob
from comet_async._journal.states import WITHOUT_RESULT, JobState
from comet_async._results.save import ResultSaver
from comet_async._runs.items import Item, Planned
from comet_async._runs.source_memory import SourceMemory
from comet_async.errors import CometError, DownloadError, InputError
from comet_async.models import JSON
from comet_async.outcomes import from_record
from comet_async.requests import TaskRequest
from comet_async.stores import Place


@attrs.define(eq=False)
class Planner:
    """Plans the jobs of a run.

    Attributes:
        active: The journal's jobs.
        loader: Loads images.
        saver: Saves results; None when no files are wanted.
        fresh: A label; with another one, the same request is bought once more.
        retry_failed: Buy again what failed in an earlier run.
        adopt: Accept files that the journal does not know, because it may have been lost.
        run: The name of the run, by which its own jobs are known.
        memory: Recognises source files.
    """

    active: ActiveJobs
    loader: Loader
    saver: ResultSaver | None
    fresh: str = ""
    retry_failed: bool = False
    adopt: bool = False
    run: str = ""
    memory: SourceMemory = attrs.field(init=False)
    _began: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Without a journal on the disk nothing is recognised later.
        lasting = not isinstance(self.active.journal, MemoryJournal)
        self.memory = SourceMemory(self.active.journal, self.loader.prepare, writable=lasting)
        self._began = self.active.services.clock.time()

    # Recognising what is known ------------------------------------------------------------

    async def recognised(
        self, pages: AsyncGenerator[list[Item], None]
    ) -> AsyncGenerator[Item, None]:
        """Yield the items of *pages* with all that is known of those whose files are unchanged."""
        async with aclosing(pages):
            async for page in pages:
                for item in await self.recall(page):
                    yield item

    async def recall(self, page: Sequence[Item]) -> list[Item]:
        """Return *page* with all that is known of items whose files are unchanged."""
        named = {item.identity.path: item.source for item in page if item.identity is not None}
        files = {item.identity.path: item.identity for item in page if item.identity is not None}
        images = await self.memory.recall(files, named)
        if not images or self.retry_failed:
            return list(page)
        return await self._with_jobs([(item, self._plan_unread(item, images)) for item in page])

    async def finished(self, items: Sequence[Item]) -> list[Item]:
        """Return *items* with the outcome of those that are planned and whose results are there."""
        return await self._with_jobs([(item, item.planned) for item in items])

    def _plan_unread(self, item: Item, images: Mapping[str, SourceImage]) -> Planned | None:
        """Return *item* planned without reading its file, if that is possible."""
        image = None if item.identity is None else images.get(item.identity.path)
        request = item.request
        if image is None or request is None or item.error is not None:
            return None
        given = dict.fromkeys(request.images(), image)
        if len(given) != 1 or _own_id(request) is not None:
            return None
        try:
            if request.already_satisfied(given):
                return Planned(
                    item=item, images=given, fields={}, key="", record=None, already_satisfied=True
                )
            fields = request.fields(given)
            hashes = dict.fromkeys(given, image.sha256)
            key = content_key(request.kind.name, hashes, fields, salt=self.fresh)
        except CometError:
            return None  # it is reported when its turn comes
        return Planned(item=item, images=given, fields=fields, key=key, record=None)

    async def _with_jobs(self, known: Sequence[tuple[Item, Planned | None]]) -> list[Item]:
        """Return items with what was planned, and the outcome of those that are done."""
        saved = await self._saved([planned for _, planned in known if planned is not None])
        found = [(item, self._with_job(planned, saved)) for item, planned in known]
        places = {
            item.dest: place
            for item, planned in found
            if planned is not None and (place := _saved_place(item, planned)) is not None
        }
        files = {} if self.saver is None else await self.saver.intact(list(places.values()))
        return [
            item if planned is None else _with_outcome(item, planned, places, files)
            for item, planned in found
        ]

    async def _saved(self, plans: Sequence[Planned]) -> dict[str, SavedJob]:
        """Return those jobs of *plans* that are done, with either choice of ``prepare``."""
        saved = await self.active.journal.saved({planned.key for planned in plans} - {""})
        left = (planned for planned in plans if planned.key not in saved)
        others = {other.key for planned in left if (other := self._otherwise(planned)) is not None}
        return saved | await self.active.journal.saved(others) if others else saved

    def _with_job(self, planned: Planned | None, saved: Mapping[str, SavedJob]) -> Planned | None:
        if planned is None:
            return None
        plan = planned if planned.key in saved else self._otherwise(planned)
        job = None if plan is None else saved.get(plan.key)
        if plan is None or job is None or not self.is_ours(job.record):
            return planned
        return attrs.evolve(plan, record=job.record, saved=job)

    def is_ours(self, record: JobRecord) -> bool:
        """Return True if a job belongs to the session's account."""
        return record.account == self.active.services.account

    # One image ----------------------------------------------------------------------------

    async def plan(self, item: Item) -> Planned:
        """Load and check *item* as a run does, and look it up; nothing is written or sent.

        Raises:
            InputError: The item breaks a rule; it says which.
            DownloadError: Its job is done, and a file that is missing could not be saved again.
        """
        planned = await self.draft(item)
        if planned.already_satisfied:
            return planned
        newest = await self._newest(planned)
        if item.outcome is not None:  # its files were looked at, with those of many others
            return newest
        return await self._foresee(newest)

    async def _foresee(self, planned: Planned) -> Planned:
        """Return *planned* as ``saved`` if its job is done and its files are there."""
        record, dest = planned.record, planned.item.dest
        if record is None or record.state is not JobState.DONE:
            return planned
        if self.saver is None or dest is None:
            return planned
        try:
            there = await self.saver.foresee(record, dest)
        except DownloadError as error:
            error.task_id, error.external_task_id = record.task_id, record.key
            raise
        places = await self.active.journal.destinations(record.key)
        saved = SavedJob(record=record, destinations=places) if there else None
        return attrs.evolve(planned, saved=saved)

    async def draft(self, item: Item) -> Planned:
        """Load and check *item* as a run does, without looking it up.

        Raises:
            InputError: The item breaks a rule; it says which.
        """
        planned = await self.prepare(item)
        await self.check(planned)
        return planned

    async def prepare(self, item: Item) -> Planned:
        """Load and check *item*, but not the name of its result.

        The journal is read only if the key or the name depends on it.

        Raises:
            InputError: The item breaks a rule; it says which.
        """
        return await self._keep_name(await self._as_bought(await self._plan_loaded(item)))

    async def _plan_loaded(self, item: Item) -> Planned:
        if item.error is not None:
            raise item.error
        if item.planned is not None:
            return item.planned
        request = item.wanted
        # Without a journal nothing is recognised later, so nothing need be hashed.
        forgets = isinstance(self.active.journal, ForgettingJournal)
        hashed = not forgets or _own_id(request) is not None
        images = {
            name: await self.loader.load(given, name, hashed=hashed)
            for name, given in request.images().items()
        }
        await self.memory.remember(images.values())
        if request.already_satisfied(images):
            return Planned(
                item=item, images=images, fields={}, key="", record=None, already_satisfied=True
            )
        fields = request.fields(images)
        key, record = _own_id(request), None
        if key is None and forgets:
            key = random_key()
        hashes = {name: image.sha256 for name, image in images.items()}
        attempts = itertools.count(1)
        while key is None or (record is not None and self._failed_earlier(record)):
            attempt = next(attempts)
            key = content_key(request.kind.name, hashes, fields, salt=self.fresh, attempt=attempt)
            record = await self.active.journal.get(key) if self.retry_failed else None
        return Planned(item=item, images=images, fields=fields, key=key, record=record)

    def _failed_earlier(self, record: JobRecord) -> bool:
        """Return True if a job has no result, and was not sent in this run: for a copy's image."""
        # Runs with one budget have one name; a clock that was set back must not hide a failure.
        sent_at = record.sent_at or record.created_at
        here = record.run == self.run and sent_at >= self._began
        return record.state in WITHOUT_RESULT and not here

    async def _as_bought(self, planned: Planned) -> Planned:
        """Return *planned* as an earlier run with the other choice of ``prepare`` bought it, if so.

        It is the same image, and the result has its name: it must not be bought twice.
        """
        other = self._otherwise(planned)
        if other is None or planned.saved is not None:
            return planned
        for each in (planned, other):
            newest = await self._newest(each)
            if newest.record is not None and newest.record.state not in _NOT_BOUGHT:
                return newest
        return planned

    async def _newest(self, planned: Planned) -> Planned:
        """Return *planned* with its record: that of its last purchase, if it was bought again."""
        record = planned.record or await self.active.journal.get(planned.key)
        while record is not None and (later := await self.bought_again(planned, record)):
            planned, record = later, later.record
        return attrs.evolve(planned, record=record)

    def _otherwise(self, planned: Planned) -> Planned | None:
        """Return *planned* with the other choice of ``prepare``, or None if that is the same."""
        if not planned.key or not any(image.other_sha256 for image in planned.images.values()):
            return None
        request = planned.item.wanted
        if _own_id(request) is not None:
            return None
        images = {name: _otherwise(image) for name, image in planned.images.items()}
        hashes = {name: image.sha256 for name, image in images.items()}
        key = content_key(request.kind.name, hashes, planned.fields, salt=self.fresh)
        return attrs.evolve(planned, images=images, key=key, record=None)

    async def bought_again(self, planned: Planned, record: JobRecord) -> Planned | None:
        """Return the next purchase of a job without a result, if an earlier run made one."""
        if record.state not in WITHOUT_RESULT or _own_id(planned.item.wanted) is not None:
            return None
        key = next_attempt(record.key)
        later = await self.active.journal.get(key)
        if later is None or later.state in {JobState.PLANNED, JobState.REJECTED}:
            return None
        return await self._keep_name(attrs.evolve(planned, key=key, record=later))

    async def _keep_name(self, planned: Planned) -> Planned:
        """Return *planned* with the name that an earlier run gave its result.

        A file that appears later may want the same name; what is saved is not renamed for it.
        """
        item = planned.item
        if not item.others or planned.already_satisfied:
            return planned
        places = {place.dest for place in await self.active.journal.destinations(planned.key)}
        kept = next((name for name in item.others if name in places), None)
        if kept is None or item.dest in places:
            return planned
        return attrs.evolve(planned, item=attrs.evolve(item, dest=kept))

    async def check(self, planned: Planned) -> None:
        """Refuse a name that the result can't have, before anything is paid.

        Raises:
            InputError: Something else has it, or nothing can be written there.
        """
        if planned.already_satisfied:
            await self._check_copy(planned)
        elif planned.saved is None:
            await self._check_free(planned)

    async def _check_copy(self, planned: Planned) -> None:
        if self.saver is not None and planned.item.dest is not None:
            image, dest = next(iter(planned.images.values())), planned.item.dest
            if not image.remembered or await self.saver.find_copy(image, dest) is None:
                await self.saver.check_copy(image, dest)

    async def _check_free(self, planned: Planned) -> None:
        if self.saver is not None and planned.item.dest is not None:
            n = planned.item.wanted.n
            await self.saver.check_free(planned.item.dest, planned.key, n, adopt=self.adopt)

    async def read(self, images: Mapping[str, SourceImage]) -> Mapping[str, SourceImage]:
        """Read the files of *images* that were only recognised.

        Raises:
            InputError: One of them is another image now.
        """
        read = {}
        for name, image in images.items():
            read[name] = image
            place = image.address or image.path
            if image.remembered and place is not None:
                loaded = await self.loader.load(place, name)
                if image.sha256 not in {loaded.sha256, loaded.other_sha256}:
                    await self.memory.remember([loaded])
                    await self.memory.flush()
                    raise InputError(
                        f"{image.source} changed, although its size and times did not",
                        field=name,
                        value=image.source,
                        limit="an unchanged file",
                        hint="nothing was sent: run again with checksum=True",
                    )
                read[name] = attrs.evolve(loaded, source=image.source, sha256=image.sha256)
        return read

    def as_job(self, planned: Planned) -> NewJob:
        """Return *planned* as a job for the journal."""
        item = planned.item
        request = item.wanted
        return NewJob(
            key=planned.key,
            kind=request.kind.name,
            account=self.active.services.account,
            params=_params(planned.fields, request.callback_url),
            n=request.n,
            source=item.source,
            image_sha=":".join(image.sha256 for image in planned.images.values()),
            dest=item.dest,
        )


_NOT_BOUGHT = WITHOUT_RESULT | {JobState.PLANNED, JobState.REJECTED}


def _otherwise(image: SourceImage) -> SourceImage:
    """Return *image* by the hash that it has with the other choice of ``prepare``."""
    if not image.other_sha256:
        return image
    return attrs.evolve(image, sha256=image.other_sha256, other_sha256=image.sha256, notes=())


def _saved_place(item: Item, planned: Planned) -> Destination | None:
    """Return where all images of *item* were saved, if its job is done."""
    job = planned.saved
    if job is None:
        return None
    wanted = {image.index for image in job.record.images}
    for place in job.destinations:
        if (place.dest, place.source) == (item.dest, item.source):
            kept = {file.index for file in place.files if file.kept}
            return place if kept == wanted else None
    return None


def _with_outcome(
    item: Item,
    planned: Planned,
    places: Mapping[str | None, Destination],
    files: Mapping[str, tuple[Place, ...]],
) -> Item:
    """Return *item* as planned, with its outcome if the *files* of its place are there."""
    place, outcome = places.get(item.dest), None
    if place is not None and place.dest in files and planned.saved is not None:
        notes = tuple(note for image in planned.images.values() for note in image.notes)
        record, saved = planned.saved.record, files[place.dest]
        outcome = from_record(item.source, record, saved, notes, already_there=True)
    return attrs.evolve(item, planned=planned, outcome=outcome)


def _own_id(request: TaskRequest) -> str | None:
    """Return the caller's id of *request*; empty counts as none, as in Kling's own sample."""
    return request.external_task_id or None


def _params(fields: Mapping[str, JSON], callback_url: str | None) -> Mapping[str, JSON]:
    """Return what the journal keeps of a request: all that it takes to send it later."""
    return fields if callback_url is None else {**fields, CALLBACK: callback_url}
