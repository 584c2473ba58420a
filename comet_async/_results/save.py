"""Finished jobs become files: fetched, named, and recorded before and after they are named.

The order makes every crash harmless: a part is safe on the disk before the journal names it
(``saving``), and it has its name before the journal calls it kept (``done``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import attrs

from comet_async._backoff import with_retries
from comet_async._http.api import Api
from comet_async._images.formats import EXTENSIONS, sniff
from comet_async._images.naming import is_exact, output_name
from comet_async._images.rules import shorten
from comet_async._images.source import SourceImage
from comet_async._journal.records import Destination, JobRecord, Journal, SavedFile, StoredImage
from comet_async._journal.states import FINAL, JobState
from comet_async._journal.transitions import check_task_of, taken
from comet_async._results.download import Downloader
from comet_async._results.files import Part, another_file, in_thread, part_stem
from comet_async._results.folder import FolderOutput
from comet_async._results.outputs import Output, StoreOutput
from comet_async.clock import Clock
from comet_async.errors import (
    CometError,
    DownloadError,
    InputError,
    NotFoundError,
    ResultExpiredError,
)
from comet_async.models import Task, TaskKind
from comet_async.requests import MAX_N
from comet_async.stores import Place, Stores

LIFETIME = 30 * 86400.0
"""Seconds that the server keeps results (Kling, "Image expansion")."""


@attrs.frozen(kw_only=True)
class Delivery:
    """The saved results of one job under one name.

    Attributes:
        record: The job, now ``done``.
        files: Where they are, in the order of the images.
        already_there: True when nothing had to be fetched or copied.
    """

    record: JobRecord
    files: tuple[Place, ...]
    already_there: bool


@attrs.define(eq=False)
class ResultSaver:
    """Saves the results of one journal's jobs below one folder, and in stores.

    Attributes:
        journal: The journal.
        downloader: Fetches results.
        api: Gets a task again for its results' new URLs.
        clock: The source of time.
        root: The folder; names in full are taken as they are.
        stores: The stores, in which names are addresses.
        shared: True if other processes work on the journal's jobs, too.
    """

    journal: Journal
    downloader: Downloader
    api: Api
    clock: Clock
    root: Path
    stores: Stores = attrs.field(factory=Stores)
    shared: bool = False
    folder: FolderOutput = attrs.field(init=False)
    stored: StoreOutput = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder = FolderOutput(self.root, self.mark)
        self.stored = StoreOutput(self.stores)

    @property
    def mark(self) -> str:
        """What the names of this worker's parts end with, "" if the journal has no other worker.

        A worker that was suspended and wakes up must not touch the part of the one that took its
        job over, on a disk that both write to.
        """
        return f"-{self.journal.boot}" if self.shared else ""

    def output(self, name: str) -> Output:
        """Return where *name* is saved: a file's name, or a result's without its extension."""
        return self.stored if self.stores.knows(name) else self.folder

    def identity(self, dest: str) -> str:
        """Return what is the same for all spellings of *dest*: ``..`` and links in its folders."""
        if self.stores.knows(dest):
            return dest
        folder, name = os.path.split(self.root / dest)
        return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - text for text

    async def deliver(
        self,
        record: JobRecord,
        dest: str,
        kind: TaskKind,
        places: Sequence[Destination] | None = None,
    ) -> Delivery:
        """Save the images of *record* under the name *dest*; what is there already is kept.

        Args:
            record: A job in ``succeeded``, ``saving`` or ``done``.
            dest: The name, relative to the folder, without its extension.
            kind: The job's kind.
            places: Where the job's images belong and what is there, if the caller knows it.

        Raises:
            DownloadError: A file can't be fetched or saved; the job stays as it is.
            ResultExpiredError: The server no longer holds the result; the job is ``expired``.
        """
        if places is None:
            places = await self.journal.destinations(record.key)
        destination = next((place for place in places if place.dest == dest), None)
        if destination is None:
            raise DownloadError(
                f"the journal has no output {dest!r} for {record.key}", task_id=record.task_id
            )
        kept = await self._kept(record, destination)
        missing = [image for image in _wanted(record) if image.index not in kept]
        complete = not missing
        if missing:
            copied = await self._copy(record, destination, missing, places)
            kept |= copied
            missing = [image for image in missing if image.index not in copied]
        if missing:
            record, fetched = await self._fetch_all(record, destination, missing, kind)
            kept |= fetched
        if record.state is JobState.SUCCEEDED:
            record = await self._move(record, JobState.SAVING, "files are complete")
        if record.state is JobState.SAVING:
            record = await self._move(record, JobState.DONE, "files are in place")
        place = self.output(dest).place
        files = tuple(place(kept[index].name) for index in sorted(kept))
        return Delivery(record=record, files=files, already_there=complete)

    async def intact(self, places: Sequence[Destination]) -> dict[str, tuple[Place, ...]]:
        """Return the files of those *places* whose files are all there, by destination.

        They are recognised by their sizes, as those of a job that is done are.
        """
        found: dict[str, tuple[Place, ...]] = {}
        for output in (self.folder, self.stored):
            group = [place for place in places if self.output(place.dest) is output]
            complete = await output.complete([place.files for place in group]) if group else []
            for place, there in zip(group, complete, strict=True):
                if there:
                    found[place.dest] = tuple(output.place(file.name) for file in place.files)
        return found

    async def foresee(self, record: JobRecord, dest: str) -> bool:
        """Return True if `deliver` would find or copy all images of *record*, which is done.

        Raises:
            DownloadError: It could not save those that are missing: another file has a name.
        """
        places = await self.journal.destinations(record.key)
        there = {place.dest: await self._there(place) for place in places}
        missing = {image.index for image in _wanted(record)} - there.get(dest, {}).keys()
        if not missing:
            return True
        ours = {file.name for file in there.get(dest, {}).values()}
        suffixes = {PurePosixPath(file.name).suffix for place in places for file in place.files}
        _, names = await self.output(dest).obstacles(dest, record.n)
        for name in names:
            await self._check_name(record, name)
            if name not in ours and PurePosixPath(name).suffix in suffixes:
                raise another_file(self.output(name).place(name))
        return missing <= {index for files in there.values() for index in files}

    async def _there(self, place: Destination) -> dict[int, SavedFile]:
        """Return the files of *place* that are there, by their sizes."""
        found = await self.output(place.dest).complete([[file] for file in place.files])
        return {file.index: file for file, there in zip(place.files, found, strict=True) if there}

    async def check_free(self, dest: str, key: str, n: int, *, adopt: bool = False) -> None:
        """Refuse a job that was never sent if its results could not be saved as *dest*.

        Args:
            dest: The result's name, without extension.
            key: The job that wants it.
            n: How many images the job makes.
            adopt: True to accept files that the journal does not know: it may have been lost.

        Raises:
            InputError: The folder can't be written, or leads out of the output folder, or a
                file that is not this job's has the name.
        """
        output = self.output(dest)
        problem, taken_names = await output.obstacles(dest, n)
        if problem is None and not taken_names:
            return
        if await self._may_be_billed(key):
            return  # what is in the way is reported when it is saved
        if problem is not None:
            raise InputError(
                problem,
                field="out",
                value=dest,
                limit="a folder inside the output folder that can be written",
                hint="nothing was sent: remove what is in the way, or choose another folder",
                external_task_id=key,
            )
        for name in taken_names if not adopt else ():
            owner = await self.journal.owner_of(name)
            if owner == key:
                continue
            known = "is the result of another request" if owner else "the journal does not know it"
            hint = "nothing was sent: move it away, or choose another folder"
            if owner is None:
                hint += "; if the journal was lost, run with verify_remote"
            raise InputError(
                f"{shorten(str(output.place(name)))} exists already, and {known}",
                field="out",
                value=name,
                limit="a name that is free",
                hint=hint,
                external_task_id=key,
            )

    async def refuse_unsent(self, dest: str, key: str) -> None:
        """Refuse a job that was never sent, because another one is to be saved as *dest*.

        Raises:
            InputError: It was never sent.
        """
        if not await self._may_be_billed(key):
            raise InputError(
                f"another request in progress is to be saved as {dest.removesuffix(':')}",
                field="out",
                value=dest,
                limit="a name that is free",
                hint="nothing was sent: choose another name or another folder",
                external_task_id=key,
            )

    async def _may_be_billed(self, key: str) -> bool:
        record = await self.journal.get(key)
        return record is not None and record.state not in {JobState.PLANNED, JobState.REJECTED}

    async def check_copy(self, image: SourceImage, dest: str) -> None:
        """Refuse a name that *image*, which needs no expansion, can't be saved under.

        Raises:
            InputError: Another file has the name.
        """
        output, name = self.output(dest), output_name(dest, 0, 1, image.format or "png")
        if await output.is_free_for(image, name):
            return
        target = str(output.place(name))
        raise InputError(
            f"{shorten(target)} exists already, and is another file",
            field="out",
            value=target,
            limit="a new name",
            hint="nothing was sent: move it away, or choose another folder",
        )

    async def find_copy(self, image: SourceImage, dest: str) -> Place | None:
        """Return the copy of *image* under the name *dest* if it is there, by its size."""
        output, name = self.output(dest), output_name(dest, 0, 1, image.format or "png")
        return output.place(name) if await output.size_of(name) == image.size else None

    async def copy(self, image: SourceImage, dest: str) -> Place:
        """Save *image* as it is under the name *dest*, and return the file.

        Raises:
            DownloadError: Another file has the name.
        """
        output, name = self.output(dest), output_name(dest, 0, 1, image.format or "png")
        await output.save(image, name)
        return output.place(name)

    async def _kept(self, record: JobRecord, destination: Destination) -> dict[int, SavedFile]:
        """Return the files that are there and complete, by index."""
        # A job that was done is trusted by its files' size, so that a second run over
        # 100,000 images need not read them all; one that was interrupted is read.
        thorough = record.state is not JobState.DONE
        kept = {}
        for file in destination.files:
            output = self.output(file.name)
            if await output.holds(file, thorough=thorough):
                if not file.kept:  # the process may have ended before its name was safe
                    await output.make_durable(file.name)
                    file = attrs.evolve(file, kept=True)  # noqa: PLW2901 - the same file, kept
                    await self.journal.save_file(record.key, destination.dest, file)
                kept[file.index] = file
        return kept

    async def _copy(
        self,
        record: JobRecord,
        destination: Destination,
        missing: Sequence[StoredImage],
        places: Sequence[Destination],
    ) -> dict[int, SavedFile]:
        """Copy what the same job already saved under another name."""
        copied: dict[int, SavedFile] = {}
        wanted = {image.index for image in missing}
        for other in places:
            for file in other.files:
                fresh = file.index in wanted and file.index not in copied
                if other.dest == destination.dest or not file.kept or not fresh:
                    continue
                output = self.output(file.name)
                if output is not self.output(destination.dest):
                    continue  # fetched again, from the server
                format_ = await _format_of(output, file, other.dest)
                if format_ is None:
                    continue  # damaged, or gone
                name = _name_of(record, destination, file.index, format_)
                await self._check_name(record, name)
                saved = attrs.evolve(file, name=name, kept=False)
                await self.journal.save_file(record.key, destination.dest, saved)
                if await output.copy(file, saved, record.key):
                    copied[file.index] = saved = attrs.evolve(saved, kept=True)
                    await self.journal.save_file(record.key, destination.dest, saved)
        return copied

    async def _fetch_all(
        self,
        record: JobRecord,
        destination: Destination,
        missing: Sequence[StoredImage],
        kind: TaskKind,
    ) -> tuple[JobRecord, dict[int, SavedFile]]:
        """Fetch what is missing: the job is done then."""
        if record.state is not JobState.SUCCEEDED:
            if record.state is JobState.DONE:  # and stays so if another file has its name by now
                await self._check_names_there(record, destination, missing)
            record = await self._move(record, JobState.SUCCEEDED, "a file is missing")
        parts: list[tuple[SavedFile, Part]] = []
        try:
            for image in missing:
                record, part = await self._fetch(record, destination, image, kind)
                parts.append((self._named(record, destination, image.index, part), part))
            # The names are recorded before the files have them.
            place = attrs.evolve(destination, files=tuple(saved for saved, _ in parts))
            record = await self._record_names(record, place)
            await self.output(destination.dest).give_names(parts)
        except BaseException:
            await in_thread(functools.partial(_discard, [part for _, part in parts]))
            raise
        files = tuple(attrs.evolve(saved, kept=True) for saved in place.files)
        place = attrs.evolve(destination, files=files)
        record = await self._move(record, JobState.DONE, "files are in place", place)
        return record, {file.index: file for file in files}

    async def _record_names(self, record: JobRecord, place: Destination) -> JobRecord:
        """Record the files that are about to get their names."""
        why = "files are complete"
        try:
            return await self._move(record, JobState.SAVING, why, place)
        except DownloadError:  # one is another job's, which is rare: looked at only then
            for file in place.files:
                await self._check_name(record, file.name)
                await self.journal.save_file(record.key, place.dest, file)
        return await self._move(record, JobState.SAVING, why, place)

    async def _check_names_there(
        self, record: JobRecord, destination: Destination, missing: Sequence[StoredImage]
    ) -> None:
        """Refuse to replace a file that is there by now: another job's, or one that was edited.

        Raises:
            DownloadError: There is one. The server, which may no longer hold the result, is not
                asked for what could not be saved.
        """
        dest, wanted = destination.dest, {image.index for image in missing}
        _, there = await self.output(dest).obstacles(dest, record.n)
        for name in there:
            await self._check_name(record, name)
        for file in destination.files:
            output = self.output(file.name)
            if file.index in wanted and await output.size_of(file.name) is not None:
                raise another_file(output.place(file.name))

    async def _check_name(self, record: JobRecord, name: str) -> None:
        """Refuse a name that another job's file has; it is free if that file was removed.

        Raises:
            DownloadError: Another job has it, or may be about to.
        """
        owner = await self.journal.owner_of(name)
        if owner is None or owner == record.key:
            return
        other = await self.journal.get(owner)
        at_work = other is not None and other.state not in FINAL
        if at_work or await self.output(name).size_of(name) is not None:
            raise taken(record, name)

    async def _fetch(
        self, record: JobRecord, destination: Destination, image: StoredImage, kind: TaskKind
    ) -> tuple[JobRecord, Part]:
        """Fetch one image; return the record, which may have got new URLs, and the part."""
        folder = await self.output(destination.dest).part_folder(destination.dest)
        stem = PurePosixPath(destination.dest).name
        name = f"{part_stem(stem)}-{image.index}-{record.key[-8:]}"
        if self.shared and record.boot not in {None, self.journal.boot}:
            left = folder / f".{name}-{record.boot}.part"  # by a worker that was lost
            await in_thread(functools.partial(left.unlink, missing_ok=True))
        name += self.mark
        fetch = functools.partial(self.downloader.fetch, folder=folder, name=name)

        async def renew() -> str:
            nonlocal record
            record = await self._refresh(record, kind)
            return _url_of(record, image.index)

        try:
            # Another image of the task may have brought new URLs.
            url = _url_of(record, image.index)
            part = await self.downloader.with_renewals(url, renew, fetch)
        except (ResultExpiredError, NotFoundError) as error:
            gone = error
        except CometError as error:
            error.task_id = error.task_id or record.task_id
            error.external_task_id = error.external_task_id or record.key
            raise
        else:
            return record, part  # not before: `renew` may have got another record
        return await self._expired(record, gone)

    async def _refresh(self, record: JobRecord, kind: TaskKind) -> JobRecord:
        """Get the task again: it comes with new URLs."""

        async def get() -> Task:
            task = await self.api.get(record.task_id or "", kind=kind)
            check_task_of(record, task)
            return task

        task = await with_retries(get, clock=self.clock, backoff=self.downloader.backoff)
        fresh = {image.index: StoredImage.of(image) for image in task.images if image.url}
        if not fresh:
            return record
        known = {image.index: image for image in record.images}
        if len(fresh) < len(known):  # what is not shown now may be shown again
            fresh = known | fresh
        images, now = tuple(fresh.values()), self.clock.time()
        return await self.journal.note(record, now=now, images=images, images_seen_at=now)

    async def _expired(self, record: JobRecord, error: CometError) -> tuple[JobRecord, Part]:
        # A younger one is not given up: gateways lose sight of tasks, and of files, for a while.
        age = self.clock.time() - (record.sent_at or record.created_at)
        if age > LIFETIME:
            await self._move(record, JobState.EXPIRED, "the server no longer holds the result")
            raise ResultExpiredError(
                "the result is paid, and the server no longer holds it (30 days)",
                task_id=record.task_id,
                external_task_id=record.key,
                hint=error.message,
            )
        raise DownloadError(
            "the server's URLs for the result are not valid",
            task_id=record.task_id,
            external_task_id=record.key,
            hint="the task is paid and safe: run again later",
        )

    def _named(
        self, record: JobRecord, destination: Destination, index: int, part: Part
    ) -> SavedFile:
        name = _name_of(record, destination, index, part.format)
        return SavedFile(index=index, name=name, sha256=part.sha256, size=part.size)

    async def _move(
        self, record: JobRecord, state: JobState, why: str, place: Destination | None = None
    ) -> JobRecord:
        now = self.clock.time()
        return await self.journal.move(record, state, now=now, why=why, place=place)


def _wanted(record: JobRecord) -> tuple[StoredImage, ...]:
    """Return the images to save, one for each index, and no more than a request may ask for."""
    by_index = {image.index: image for image in reversed(record.images)}
    return tuple(by_index[index] for index in sorted(by_index)[: max(record.n, MAX_N)])


def _name_of(record: JobRecord, destination: Destination, index: int, format_: str) -> str:
    """Return the file name of one image; images beyond those ordered are always numbered."""
    rank = sum(image.index < index for image in _wanted(record))
    return output_name(destination.dest, index, max(record.n, rank + 1), format_)


def _url_of(record: JobRecord, index: int) -> str:
    return next((image.url for image in record.images if image.index == index), "")


_FORMATS = {extension: name for name, extension in EXTENSIONS.items()}


async def _format_of(output: Output, file: SavedFile, dest: str) -> str | None:
    """Return the format of a saved file; a name that was given as a whole does not tell it."""
    if is_exact(dest):
        return sniff(await output.head(file.name))
    return _FORMATS[Path(file.name).suffix.lstrip(".")]


def _discard(parts: Sequence[Part]) -> None:
    for part in parts:
        part.path.unlink(missing_ok=True)
