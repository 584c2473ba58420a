"""Results in folders of this machine; see `Output`.

The order makes every crash harmless: a part is safe on the disk before it gets its name, and its
name is safe before the call returns.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import attrs

from comet_async._fs import file_sha256, is_inside, make_folders
from comet_async._images.rules import shorten
from comet_async._images.source import SourceImage
from comet_async._journal.records import SavedFile
from comet_async._results.files import (
    FsyncBatcher,
    Part,
    give_name,
    in_thread,
    part_stem,
    place,
)
from comet_async._results.outputs import HEAD, possible_names, sha256_of
from comet_async.errors import SaveError


@attrs.define(eq=False)
class FolderOutput:
    """Results below one folder.

    Attributes:
        root: The folder; names in full are taken as they are.
        mark: What the names of its parts end with; see `ResultSaver.mark`.
    """

    root: Path
    mark: str = ""
    _batcher: FsyncBatcher = attrs.field(factory=FsyncBatcher, init=False)

    def place(self, name: str) -> Path:
        """Return the file of this name."""
        return self.root / name

    async def part_folder(self, dest: str) -> Path:
        """Return the folder of *dest*; see `Output.part_folder`."""
        self._check_inside(dest)
        return (self.root / dest).parent

    async def obstacles(self, dest: str, n: int) -> tuple[str | None, list[str]]:
        """Look into the folder of *dest*; see `Output.obstacles`."""

        def look() -> tuple[str | None, list[str]]:
            names = possible_names(dest, n)
            there = sorted(name for name in names if self._is_there(name))
            return self._folder_problem(dest), there

        return await self._batcher.do(look)

    async def complete(self, groups: Sequence[Sequence[SavedFile]]) -> list[bool]:
        """Look at the sizes of all files at once; see `Output.complete`."""

        def there(file: SavedFile) -> bool:
            path = os.path.join(self.root, file.name)  # noqa: PTH118 - for each of very many
            return file.kept and _size(path) == file.size

        def look() -> list[bool]:
            return [all(map(there, group)) for group in groups]

        return await in_thread(look)

    async def holds(self, file: SavedFile, *, thorough: bool) -> bool:
        """Look at the file, or read it; see `Output.holds`."""
        return await in_thread(lambda: _intact(self.root / file.name, file, thorough=thorough))

    async def make_durable(self, name: str) -> None:
        """Sync the folder; see `Output.make_durable`."""
        path = self.root / name
        await self._batcher.do(lambda: _remove_part_of(path), folder=path.parent)

    async def give_names(self, parts: Sequence[tuple[SavedFile, Part]]) -> None:
        """Rename the parts; see `Output.give_names`."""

        def give_names() -> None:
            for saved, part in parts:
                self._check_inside(saved.name)
                give_name(part, self.root / saved.name, "fail")

        await self._batcher.do(give_names, folder=(self.root / parts[0][0].name).parent)

    async def copy(self, file: SavedFile, saved: SavedFile, key: str) -> bool:
        """Copy a file; see `Output.copy`."""
        source, target = self.root / file.name, self.root / saved.name

        def copy() -> bool:
            self._check_inside(saved.name)
            make_folders(target.parent)
            name = f".{part_stem(source.stem)}-copy-{key[-8:]}{self.mark}.part"
            part = _copy_part(source, target.parent / name, file)
            if part is not None:
                give_name(part, target, "fail")
            return part is not None

        return await self._batcher.do(copy, folder=target.parent)

    async def is_free_for(self, image: SourceImage, name: str) -> bool:
        """Compare what has the name with *image*; see `Output.is_free_for`."""
        return await in_thread(lambda: _is_free_for(image, self.root / name))

    async def size_of(self, name: str) -> int | None:
        """Look at the file; see `Output.size_of`."""
        return await in_thread(lambda: _size(self.root / name))

    async def head(self, name: str) -> bytes:
        """Begin to read the file; see `Output.head`."""
        return await in_thread(lambda: _head(self.root / name))

    async def save(self, image: SourceImage, name: str) -> None:
        """Write a copy of *image*; see `Output.save`."""
        target = self.root / name
        self._check_inside(name)
        part = await in_thread(lambda: _write_part(image, target, self.mark))
        await place(part, target)

    def _is_there(self, name: str) -> bool:
        return os.path.lexists(os.path.join(self.root, name))  # noqa: PTH118 - for each of very many

    def _folder_problem(self, dest: str) -> str | None:
        if not self._is_inside(dest):
            return f"{shorten(str(self.root / dest))} leads out of the output folder"
        folder = (self.root / dest).parent
        while not os.path.lexists(folder) and folder != folder.parent:  # a link may lead nowhere
            folder = folder.parent
        if not folder.is_dir():
            return f"{shorten(str(folder))} is not a folder"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{shorten(str(folder))} can't be written"
        return None

    def _is_inside(self, name: str) -> bool:
        """Return True if the folder of the file *name* is in the output folder."""
        return _is_plain(self.root, name) or is_inside((self.root / name).parent, self.root)

    def _check_inside(self, name: str) -> None:
        """Refuse the *name* of a file whose folder is not in the output folder."""
        if not self._is_inside(name):
            raise SaveError(
                f"{self.root / name} is outside the output folder",
                hint="remove the link that leads out of the folder",
            )


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


def _size(path: str | Path) -> int | None:
    """Return the size of the file at *path*, None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each of very many
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _remove_part_of(path: Path) -> None:
    """Remove the first name of a file whose process ended as soon as it had its second."""
    found = path.stat()
    if found.st_nlink == 1:
        return
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.endswith(".part") and entry.inode() == found.st_ino:
                os.unlink(entry.path)  # noqa: PTH108 - it is no Path


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _intact(path: Path, file: SavedFile, *, thorough: bool) -> bool:
    if thorough or not file.kept:
        return file_sha256(path) == file.sha256
    return _size(path) == file.size


def _copy_part(source: Path, path: Path, file: SavedFile) -> Part | None:
    if file_sha256(source) != file.sha256:
        return None
    with source.open("rb") as kept:
        _write(kept, path)
    return Part(path=path, format="", sha256=file.sha256, size=file.size)


def _is_free_for(image: SourceImage, target: Path) -> bool:
    """Return True if nothing is at *target*, or a copy of *image* that an earlier run left."""
    if not os.path.lexists(target) or not image.sha256:
        return True
    wanted = image.sha256
    try:
        if image.held:  # of a converted one, `sha256` says what it was converted from
            wanted = sha256_of(image)
        return target.is_file() and file_sha256(target) == wanted
    except OSError:
        return False


def _write_part(image: SourceImage, target: Path, mark: str) -> Part:
    make_folders(target.parent)
    path = target.with_name(f".{target.name}{mark}.part")
    with image.open() as source:
        _write(source, path)
    sha256 = file_sha256(path) or ""
    return Part(path=path, format="", sha256=sha256, size=image.size)


def _write(source: IO[bytes], path: Path) -> None:
    """Write all of *source* to *path*, durably; a failure leaves no file."""
    try:
        path.unlink(missing_ok=True)  # it may be a result's other name, see `give_name`
        with path.open("xb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
