"""Finished jobs become files: fetched, named, and recorded before and after they are named.

The order makes every crash harmless: a part is safe on the disk before the journal names it
(``saving``), and it has its name before the journal calls it kept (``done``).
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import attrs

from comet_async._backoff import with_retries
from comet_async._fs import file_sha256, make_folders
from comet_async._http.api import Api
from comet_async._images.formats import EXTENSIONS
from comet_async._images.load import SourceImage
from comet_async._images.naming import output_name
from comet_async._images.rules import shorten
from comet_async._journal.records import Destination, JobRecord, Journal, SavedFile, StoredImage
from comet_async._journal.states import JobState
from comet_async._journal.transitions import taken
from comet_async._results.download import Downloader
from comet_async._results.files import FsyncBatcher, Part, give_name, in_thread, place
from comet_async.clock import Clock
from comet_async.errors import (
    CometError,
    DownloadError,
    InputError,
    NotFoundError,
    ResultExpiredError,
    SaveError,
)
from comet_async.requests import MAX_N, TaskKind

LIFETIME = 30 * 86400.0
"""Seconds that the server keeps results (Kling, "Image expansion")."""


@attrs.define(eq=False)
class ResultSaver:
    """Saves the results of one journal's jobs below one folder."""

    journal: Journal
    downloader: Downloader
    api: Api
    clock: Clock
    root: Path
    _shelf: FsyncBatcher = attrs.field(factory=FsyncBatcher, init=False)

    async def deliver(
        self, record: JobRecord, dest: str, kind: TaskKind, known: Destination | None = None
    ) -> tuple[JobRecord, tuple[Path, ...]]:
        """Save the images of *record* under the name *dest*; what is there already is kept.

        Args:
            record: A job in ``succeeded``, ``saving`` or ``done``.
            dest: The name, relative to the folder, without its extension.
            kind: The job's kind.
            known: What the journal has at *dest*, if the job has no files anywhere else and
                the caller knows.

        Returns:
            The record, now ``done``, and the files in the order of the images.

        Raises:
            DownloadError: A file can't be fetched or saved; the job stays as it is.
            ResultExpiredError: The server no longer holds the result; the job is ``expired``.
        """
        places = await self.journal.destinations(record.key) if known is None else (known,)
        destination = next((place for place in places if place.dest == dest), None)
        if destination is None:
            raise DownloadError(
                f"the journal has no output {dest!r} for {record.key}", task_id=record.task_id
            )
        kept = await self._kept(record, destination)
        missing = [image for image in _wanted(record) if image.index not in kept]
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
        return record, tuple(self.root / kept[index].name for index in sorted(kept))

    async def intact(self, places: Sequence[Destination]) -> dict[str, tuple[Path, ...]]:
        """Return the files of those *places* whose files are all there, by destination.

        They are recognised by their sizes, as those of a job that is done are.
        """

        def look() -> dict[str, tuple[Path, ...]]:
            return {
                place.dest: tuple(self.root / file.name for file in place.files)
                for place in places
                if all(_intact(self.root / file.name, file, thorough=False) for file in place.files)
            }

        return await _off_loop(look) if places else {}

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
        problem, taken_names = await self._shelf.do(lambda: self._obstacles(dest, n))
        if problem is None and not taken_names:
            return
        record = await self.journal.get(key)
        if record is not None and record.state not in {JobState.PLANNED, JobState.REJECTED}:
            return  # it may be billed already: what is in the way is reported when it is saved
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
                f"{shorten(str(self.root / name))} exists already, and {known}",
                field="out",
                value=name,
                limit="a name that is free",
                hint=hint,
                external_task_id=key,
            )

    async def check_copy(self, image: SourceImage, dest: str) -> None:
        """Refuse a name that *image*, which needs no expansion, can't be saved under.

        Raises:
            InputError: Another file has the name.
        """
        target = self.root / output_name(dest, 0, 1, image.format or "png")
        if await _off_loop(_is_free_for, image, target):
            return
        raise InputError(
            f"{shorten(str(target))} exists already, and is another file",
            field="out",
            value=str(target),
            limit="a new name",
            hint="nothing was sent: move it away, or choose another folder",
        )

    async def find_copy(self, image: SourceImage, dest: str) -> Path | None:
        """Return the copy of *image* under the name *dest* if it is there, by its size."""
        target = self.root / output_name(dest, 0, 1, image.format or "png")

        def find() -> Path | None:
            try:
                return target if target.stat().st_size == image.size else None
            except OSError:
                return None

        return await _off_loop(find)

    def _obstacles(self, dest: str, n: int) -> tuple[str | None, list[str]]:
        """Return what is wrong with the folder of *dest*, and the names that are taken."""
        names = {output_name(dest, 0, n, format_) for format_ in EXTENSIONS}
        there = sorted(name for name in names if os.path.lexists(self.root / name))
        return self._folder_problem(dest), there

    def _folder_problem(self, dest: str) -> str | None:
        if not self._is_inside(dest):
            return f"{shorten(str(self.root / dest))} leads out of the output folder"
        folder = (self.root / dest).parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            return f"{shorten(str(folder))} is not a folder"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{shorten(str(folder))} can't be written"
        return None

    async def copy(self, image: SourceImage, dest: str) -> Path:
        """Save *image* as it is under the name *dest*, and return the file.

        Raises:
            DownloadError: Another file has the name.
        """
        target = self.root / output_name(dest, 0, 1, image.format or "png")
        self._check_inside(dest)
        part = await _off_loop(_write_part, image, target)
        await place(part, target)
        return target

    async def _kept(self, record: JobRecord, destination: Destination) -> dict[int, SavedFile]:
        """Return the files that are there and complete, by index."""
        # A job that was done is trusted by its files' size, so that a second run over
        # 100,000 images need not read them all; one that was interrupted is read.
        thorough = record.state is not JobState.DONE
        kept = {}
        for file in destination.files:
            if await _off_loop(_intact, self.root / file.name, file, thorough):
                if not file.kept:  # the process may have ended before its name was safe
                    folder = (self.root / file.name).parent
                    await self._shelf.do(lambda: None, folder=folder)
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
                name = _name_of(record, destination, file.index, _format_of(file.name))
                owner = await self.journal.owner_of(name)
                if owner is not None and owner != record.key:
                    raise taken(record, name)
                saved = attrs.evolve(file, name=name, kept=False)
                await self.journal.save_file(record.key, destination.dest, saved)
                if await self._copy_file(file, saved, record.key):
                    copied[file.index] = saved = attrs.evolve(saved, kept=True)
                    await self.journal.save_file(record.key, destination.dest, saved)
        return copied

    async def _copy_file(self, file: SavedFile, saved: SavedFile, key: str) -> bool:
        """Copy *file* under the name of *saved*, durably; return False if it is damaged."""
        source, target = self.root / file.name, self.root / saved.name

        def copy() -> bool:
            self._check_inside(saved.name)
            make_folders(target.parent)
            part = _copy_part(source, target.parent, file, key)
            if part is not None:
                give_name(part, target, "fail")
            return part is not None

        return await self._shelf.do(copy, folder=target.parent)

    async def _fetch_all(
        self,
        record: JobRecord,
        destination: Destination,
        missing: Sequence[StoredImage],
        kind: TaskKind,
    ) -> tuple[JobRecord, dict[int, SavedFile]]:
        """Fetch what is missing: the job is done then."""
        if record.state is not JobState.SUCCEEDED:
            record = await self._move(record, JobState.SUCCEEDED, "a file is missing")
        parts: list[tuple[SavedFile, Part]] = []
        try:
            for image in missing:
                record, part = await self._fetch(record, destination, image, kind)
                parts.append((self._named(record, destination, image.index, part), part))
            # The names are written down before the files have them.
            place = attrs.evolve(destination, files=tuple(saved for saved, _ in parts))
            record = await self._move(record, JobState.SAVING, "files are complete", place)
            await self._place(parts)
        except BaseException:
            await _off_loop(_discard, [part for _, part in parts])
            raise
        files = tuple(attrs.evolve(saved, kept=True) for saved in place.files)
        place = attrs.evolve(destination, files=files)
        record = await self._move(record, JobState.DONE, "files are in place", place)
        return record, {file.index: file for file in files}

    async def _fetch(
        self, record: JobRecord, destination: Destination, image: StoredImage, kind: TaskKind
    ) -> tuple[JobRecord, Part]:
        """Fetch one image; return the record, which may have got new URLs, and the part."""
        stem = self.root / destination.dest
        self._check_inside(destination.dest)
        name = f"{stem.name[:80]}-{image.index}-{record.key[-8:]}"

        async def use(url: str) -> Part:
            fetch = functools.partial(self.downloader.fetch, url, stem.parent, name=name)
            return await with_retries(fetch, clock=self.clock, backoff=self.downloader.backoff)

        async def renew() -> str:
            nonlocal record
            record = await self._refresh(record, kind)
            return _url_of(record, image.index)

        try:
            # Another image of the task may have brought new URLs.
            url = _url_of(record, image.index)
            part = await self.downloader.with_renewals(url, renew, use)
        except ResultExpiredError as error:
            expired = error
        except CometError as error:
            error.task_id = error.task_id or record.task_id
            error.external_task_id = error.external_task_id or record.key
            raise
        else:
            return record, part  # not before: `renew` may have got another record
        return await self._expired(record, expired)

    async def _refresh(self, record: JobRecord, kind: TaskKind) -> JobRecord:
        """Get the task again: it comes with new URLs."""
        get = functools.partial(self.api.get, record.task_id or "", kind=kind)
        try:
            task = await with_retries(get, clock=self.clock, backoff=self.downloader.backoff)
        except NotFoundError as error:
            await self._expired(record, error)
            raise
        images = tuple(map(StoredImage.of, task.images))
        if not images:
            return record
        now = self.clock.time()
        return await self.journal.note(record, now=now, images=images, images_seen_at=now)

    async def _expired(self, record: JobRecord, error: CometError) -> tuple[JobRecord, Part]:
        age = self.clock.time() - (record.sent_at or record.created_at)
        if age > LIFETIME or isinstance(error, NotFoundError):
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

    async def _place(self, parts: Sequence[tuple[SavedFile, Part]]) -> None:
        """Give the files of one destination their names, safely on the disk."""

        def give_names() -> None:
            for saved, part in parts:
                self._check_inside(saved.name)
                give_name(part, self.root / saved.name, "fail")

        await self._shelf.do(give_names, folder=(self.root / parts[0][0].name).parent)

    def _is_inside(self, name: str) -> bool:
        """Return True if the folder of the file *name* is in the output folder."""
        path = self.root / name
        plain = _is_plain(self.root, name)
        return plain or path.parent.resolve().is_relative_to(self.root.resolve())

    def _check_inside(self, name: str) -> None:
        """Refuse the *name* of a file whose folder is not in the output folder."""
        if not self._is_inside(name):
            raise SaveError(
                f"{self.root / name} lies outside the output folder",
                hint="remove the link that leads out of the folder",
            )

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


_P = ParamSpec("_P")
_R = TypeVar("_R")


async def _off_loop(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run *work* in a thread; what the disk refuses becomes a `SaveError`."""
    return await in_thread(functools.partial(work, *args, **kwargs))


def _is_plain(root: Path, name: str) -> bool:
    """Return True if *name* surely stays in *root*: no link and no ".." in its folders.

    Cheaper than resolving the whole path, which looks at each part of *root* as well.
    """
    folder = os.fspath(root)
    for part in name.split("/")[:-1]:
        folder = f"{folder}/{part}"
        if part in {"", ".", ".."} or os.path.islink(folder):  # noqa: PTH114 - as cheap as it goes
            return False
    return True


def _intact(path: Path, file: SavedFile, thorough: bool) -> bool:  # noqa: FBT001
    if thorough or not file.kept:
        return file_sha256(path) == file.sha256
    try:
        return path.is_file() and path.stat().st_size == file.size
    except OSError:
        return False


_FORMATS = {extension: name for name, extension in EXTENSIONS.items()}


def _format_of(name: str) -> str:
    return _FORMATS[Path(name).suffix.lstrip(".")]


def _copy_part(source: Path, folder: Path, file: SavedFile, key: str) -> Part | None:
    if file_sha256(source) != file.sha256:
        return None
    path = folder / f".{source.stem[:80]}-copy-{key[-8:]}.part"
    with source.open("rb") as kept:
        _write(kept, path)
    format_ = _format_of(file.name)
    return Part(path=path, format=format_, sha256=file.sha256, size=file.size)


def _is_free_for(image: SourceImage, target: Path) -> bool:
    """Return True if nothing is at *target*, or a copy of *image* that an earlier run left."""
    if not os.path.lexists(target) or not image.sha256:
        return True
    # Of a converted image, `sha256` says what it was converted from.
    wanted = image.sha256 if image.data is None else hashlib.sha256(image.data).hexdigest()
    try:
        return target.is_file() and file_sha256(target) == wanted
    except OSError:
        return False


def _write_part(image: SourceImage, target: Path) -> Part:
    make_folders(target.parent)
    path = target.with_name(f".{target.name}.part")
    with image.open() as source:
        _write(source, path)
    sha256 = file_sha256(path) or ""
    return Part(path=path, format="", sha256=sha256, size=image.size)


def _write(source: IO[bytes], path: Path) -> None:
    """Write all of *source* to *path*, durably; a failure leaves no file."""
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _discard(parts: Sequence[Part]) -> None:
    for part in parts:
        part.path.unlink(missing_ok=True)
