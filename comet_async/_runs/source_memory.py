"""Source files that need not be read again, recognised as git's index recognises them.

A file is unchanged if its size, both of its times and its inode are those of the last reading. A
file that was written to at the moment it was read could look unchanged afterwards; such an
entry is not trusted, and the file is read again. An object in a store is recognised by its version.
What is recognised is good for planning only: before a request is sent, the file is read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs

from comet_async._images.source import FileIdentity, SourceImage
from comet_async._journal.records import Journal, KnownSource
from comet_async.errors import JournalError

# Of the facts; other ones are not understood. Those of scaled images hold their original size.
_VERSION, _SCALED_VERSION = 1, 2
_PAGE = 256  # entries that are written at once: losing them costs reading those files again

# How exact a file system's times are, at worst: a tick of the system's clock; if it keeps whole
# seconds, two of them (FAT).
_TICK = 20_000_000
_COARSE = 2_000_000_000
_SECOND = 1_000_000_000


@attrs.define(eq=False)
class SourceMemory:
    """What a journal knows of source files.

    Attributes:
        journal: The journal.
        prepare: Whether images are converted where necessary; it is part of what was found.
        trusted: False to read every file.
        writable: False to keep nothing.
    """

    journal: Journal
    prepare: bool
    trusted: bool = True
    writable: bool = True
    _found: list[KnownSource] = attrs.field(factory=list, init=False)

    async def recall(
        self, files: Mapping[str, FileIdentity], names: Mapping[str, str]
    ) -> dict[str, SourceImage]:
        """Return those of *files*, by absolute path, that are known and unchanged.

        Args:
            files: What they are recognised by.
            names: What they are called.
        """
        unchanged = await self._unchanged(files)
        return {path: _image(source, names[path]) for path, source in unchanged.items()}

    async def known(self, files: Mapping[str, FileIdentity]) -> Collection[str]:
        """Return the absolute paths of those of *files* that are known and unchanged."""
        return (await self._unchanged(files)).keys()

    async def _unchanged(self, files: Mapping[str, FileIdentity]) -> dict[str, KnownSource]:
        if not self.trusted or not files:
            return {}
        known = await self.journal.known_sources(files.keys(), variant=self._variant)
        return {path: source for path, source in known.items() if _is_current(source, files[path])}

    async def remember(self, images: Iterable[SourceImage]) -> None:
        """Keep what was found in *images* that were read from files."""
        for image in images:
            if self.writable and image.identity is not None and image.sha256:
                self._found.append(known_source(image, self._variant))
        if len(self._found) >= _PAGE:
            await self.flush()

    async def flush(self) -> None:
        """Write what has not been written yet; if that fails, the files are read again."""
        found, self._found = self._found, []
        if found:
            with contextlib.suppress(JournalError):
                await self.journal.remember_sources(found)

    @property
    def _variant(self) -> str:
        return "prepare" if self.prepare else ""


def known_source(image: SourceImage, variant: str) -> KnownSource:
    """Return what the journal keeps of *image*, which was read from a file."""
    identity = image.identity
    if identity is None:
        raise AssertionError
    version = _VERSION if image.scaled_from is None else _SCALED_VERSION
    facts = [version, image.sha256, image.size, image.width, image.height, image.format]
    other = [image.other_sha256, *(image.scaled_from or ())]
    return KnownSource(
        path=identity.path,
        variant=variant,
        size=identity.size,
        mtime_ns=identity.mtime_ns,
        ctime_ns=identity.ctime_ns,
        inode=identity.inode,
        read_at_ns=image.read_at_ns,
        facts=json.dumps([*facts, list(image.notes), *(other if any(other) else ())]),
    )


def _image(source: KnownSource, name: str) -> SourceImage:
    _, sha256, size, width, height, format_, notes, *other = json.loads(source.facts)
    scaled_from = tuple(other[1:])
    stored = "://" in source.path
    return SourceImage(
        source=name,
        sha256=sha256,
        path=None if stored else Path(source.path),
        address=source.path if stored else None,
        size=size,
        mtime_ns=source.mtime_ns,
        width=width,
        height=height,
        format=format_,
        notes=tuple(notes),
        scaled_from=scaled_from or None,
        other_sha256=other[0] if other else "",
        remembered=True,
    )


def _is_current(source: KnownSource, now: FileIdentity) -> bool:
    then = source.size, source.mtime_ns, source.ctime_ns, source.inode
    unchanged = then == (now.size, now.mtime_ns, now.ctime_ns, now.inode)
    return unchanged and not _is_racy(source) and _is_understood(source.facts)


def _is_understood(facts: str) -> bool:
    # A scaled image without its original size was kept by an earlier version.
    plain = facts.startswith(f"[{_VERSION},") and '"scaled ' not in facts
    return plain or facts.startswith(f"[{_SCALED_VERSION},")


def _is_racy(source: KnownSource) -> bool:
    """Return True if the file may have been written to after it was read, without a trace."""
    if "://" in source.path:
        return False  # an object's version is its content's, whatever its times are
    latest = max(source.mtime_ns, source.ctime_ns)
    exact = source.mtime_ns % _SECOND and source.ctime_ns % _SECOND
    return latest + (_TICK if exact else _COARSE) > source.read_at_ns
