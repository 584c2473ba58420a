"""Where results are saved: below a folder of this machine, or in a store.

`ResultSaver` decides what is saved when, and records it in the journal; an `Output` saves it. All
names are the journal's: those of objects in a store begin with its address.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import attrs

from comet_async._cancellation import finished
from comet_async._images.formats import EXTENSIONS
from comet_async._images.naming import output_name
from comet_async._images.source import SourceImage
from comet_async._journal.records import SavedFile
from comet_async._results.files import Part, refused
from comet_async.errors import InputError, MissingExtraError, SaveError
from comet_async.stores import PIECE, Place, Stores, spool

T = TypeVar("T")

HEAD = 64
"""How many bytes tell a format."""


class Output(Protocol):
    """Where results are saved. What fails there raises `SaveError`, and no file is replaced."""

    def place(self, name: str) -> Place:
        """Return where *name* is."""
        ...

    async def part_folder(self, dest: str) -> Path:
        """Return where the parts of *dest* are written before they have their names.

        Raises:
            SaveError: *dest* leads out of the output folder, or the folder does not exist.
        """
        ...

    async def obstacles(self, dest: str, n: int) -> tuple[str | None, list[str]]:
        """Return why *dest* can't be used, and which names of its results are taken."""
        ...

    async def complete(self, groups: Sequence[Sequence[SavedFile]]) -> list[bool]:
        """Return, for each group, whether all of its files are there, by their sizes."""
        ...

    async def holds(self, file: SavedFile, *, thorough: bool) -> bool:
        """Return True if *file* is there: by its size, or *thorough*, by its hash."""
        ...

    async def make_durable(self, name: str) -> None:
        """Make sure that *name*, which is there, survives a power cut."""
        ...

    async def give_names(self, parts: Sequence[tuple[SavedFile, Part]]) -> None:
        """Give *parts* their names, durably. All are of one destination.

        Raises:
            SaveError: Another file has one of the names.
        """
        ...

    async def copy(self, file: SavedFile, saved: SavedFile, key: str) -> bool:
        """Copy *file* under the name of *saved*, durably; return False if it is damaged."""
        ...

    async def is_free_for(self, image: SourceImage, name: str) -> bool:
        """Return True if *name* is free, or is a copy of *image*."""
        ...

    async def size_of(self, name: str) -> int | None:
        """Return the size of *name*, or None if it is not there."""
        ...

    async def head(self, name: str) -> bytes:
        """Return the first bytes of *name*, none if it is not there."""
        ...

    async def save(self, image: SourceImage, name: str) -> None:
        """Save *image* as it is.

        Raises:
            SaveError: Another file has the name.
        """
        ...


def possible_names(dest: str, n: int) -> set[str]:
    """Return the names that the *n* results of *dest* may get."""
    return {output_name(dest, i, n, format_) for i in range(n) for format_ in EXTENSIONS}


# In a store -------------------------------------------------------------------------------


@attrs.frozen
class StoreOutput:
    """Results in a store: written to this machine first, checked there, and then put.

    An object is there whole or not at all, and `Store.put` replaces none; so there is nothing to
    rename, and nothing to sync.
    """

    stores: Stores

    def place(self, name: str) -> str:
        """Return the address, which the name is."""
        return name

    async def part_folder(self, dest: str) -> Path:  # noqa: ARG002 - the same for all
        """Return this process's folder for copies."""
        return await _in_thread(spool)  # the first time, what killed processes left is removed

    async def obstacles(self, dest: str, n: int) -> tuple[str | None, list[str]]:
        """Ask for the head of each possible name; see `Output.obstacles`."""

        def look() -> tuple[str | None, list[str]]:
            try:
                there = [name for name in possible_names(dest, n) if self._find(name) is not None]
            except (OSError, InputError, MissingExtraError) as error:
                reason = getattr(error, "strerror", None) or error
                return f"{dest} can't be looked for: {reason}", []
            return None, sorted(there)

        return await _in_thread(look)

    async def complete(self, groups: Sequence[Sequence[SavedFile]]) -> list[bool]:
        """Ask for the heads of all files; see `Output.complete`."""
        look = [_in_thread(functools.partial(self._all_there, group)) for group in groups]
        return list(await asyncio.gather(*look))

    async def holds(self, file: SavedFile, *, thorough: bool) -> bool:
        """Ask for the object's head, or read it; see `Output.holds`."""
        if thorough or not file.kept:
            return await _in_thread(lambda: self._sha256(file.name) == file.sha256)
        return await _in_thread(lambda: self._all_there([file]))

    async def make_durable(self, name: str) -> None:
        """Do nothing: what is in a store is durable."""

    async def give_names(self, parts: Sequence[tuple[SavedFile, Part]]) -> None:
        """Put each part; see `Output.give_names`."""
        for saved, part in parts:
            await _in_thread(functools.partial(self._put_part, saved.name, part))

    async def copy(self, file: SavedFile, saved: SavedFile, key: str) -> bool:
        """Copy through this machine; see `Output.copy`."""

        def copy() -> bool:
            path = spool() / f"copy-{key[-8:]}-{saved.index}-{id(saved)}"
            try:
                if self._sha256(file.name, into=path) != file.sha256:
                    return False
                part = Part(path=path, format="", sha256=file.sha256, size=file.size)
                self._put_part(saved.name, part)
            finally:
                path.unlink(missing_ok=True)
            return True

        return await _in_thread(copy)

    async def is_free_for(self, image: SourceImage, name: str) -> bool:
        """Compare what has the name with *image*; see `Output.is_free_for`."""

        def compare() -> bool:
            if self._find(name) is None:
                return True
            wanted = image.sha256 if image.remembered else sha256_of(image)
            return self._sha256(name) == wanted

        return await _in_thread(compare)

    async def size_of(self, name: str) -> int | None:
        """Ask for the object's head; see `Output.size_of`."""
        return await _in_thread(lambda: self._find(name))

    async def head(self, name: str) -> bytes:
        """Begin to read the object; see `Output.head`."""

        def read() -> bytes:
            store, inner = self.stores.at(name)
            try:
                with store.open(inner) as reader:
                    return reader.read(HEAD)
            except FileNotFoundError:
                return b""

        return await _in_thread(read)

    async def save(self, image: SourceImage, name: str) -> None:
        """Put the image; see `Output.save`."""

        def put() -> None:
            store, inner = self.stores.at(name)
            try:
                with image.open() as file:
                    store.put(inner, file, size=image.size)
            except FileExistsError:
                if self._sha256(name) != sha256_of(image):
                    raise _taken(name) from None

        await _in_thread(put)

    def _find(self, name: str) -> int | None:
        store, inner = self.stores.at(name)
        found = store.find(inner)
        return None if found is None else found.size

    def _all_there(self, files: Collection[SavedFile]) -> bool:
        return all(self._find(file.name) == file.size for file in files)

    def _sha256(self, name: str, *, into: Path | None = None) -> str | None:
        """Return the hash of an object, read in pieces; None if it is not there."""
        store, inner = self.stores.at(name)
        digest = hashlib.sha256()
        try:
            with store.open(inner) as reader, (into or Path(os.devnull)).open("wb") as copy:
                while piece := reader.read(PIECE):
                    digest.update(piece)
                    copy.write(piece)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _put_part(self, name: str, part: Part) -> None:
        store, inner = self.stores.at(name)
        try:
            with part.path.open("rb") as file:
                store.put(inner, file, size=part.size)
        except FileExistsError:
            # What an earlier attempt wrote, if its answer was lost.
            if self._sha256(name) != part.sha256:
                raise _taken(name) from None
        finally:
            part.path.unlink(missing_ok=True)


def sha256_of(image: SourceImage) -> str:
    """Return the hash of the bytes of *image*."""
    digest = hashlib.sha256()
    with image.open() as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _taken(name: str) -> SaveError:
    return SaveError(
        f"{name} exists and is another object",
        hint="the result is paid and safe: move that object away, or choose another name",
    )


async def _in_thread(work: Callable[[], T]) -> T:
    """Run *work* in a thread for stores; what the store refuses becomes a `SaveError`."""
    future = asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), work)
    problem: OSError | None = None
    try:
        return await finished(future)
    except OSError as error:
        problem = error
    if problem.errno == errno.ENOSPC:  # of this machine
        raise refused(problem)
    what = f"{problem.strerror or problem}: {problem.filename or 'the store'}"
    raise SaveError(
        f"the result can't be saved: {what}",
        hint="the task is paid and safe: check the store and your rights there, and run again",
    )


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # Each may hold an object of `comet_async.stores.CREATE` bytes. By process: threads do not
    # survive a fork.
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="comet-put")
