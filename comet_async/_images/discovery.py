"""Which images a command names: files, folders, URLs, and lists on the standard input.

A source is a file, a folder, a URL, or ``-`` (one of the former on each line of the standard
input). Several folders get a folder each in the output, called like themselves; all other names
are those of `comet_async._images.naming`. What is left out of a folder is counted, by reason.
"""

# ruff: noqa: PTH100, PTH112, PTH118, PTH122 - paths are text here: the
# user's spelling is kept, and there may be 100,000 of them

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import select
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import attrs

from comet_async._addresses import url_scheme
from comet_async._images.naming import (
    NameRequest,
    fold,
    image_suffix,
    names_in_folder,
    unique_folders,
    unique_names,
    wished_name,
)
from comet_async._images.rules import ImageRules
from comet_async._images.source import FileIdentity
from comet_async._images.stored import identity_of
from comet_async.errors import InputError
from comet_async.secret import repr_redacted
from comet_async.stores import Listing, ObjectInfo, Store, Stores

OURS = ".comet-async"
"""The folder in each output folder that holds its journal."""

SYSTEM_FOLDERS = frozenset(
    {
        # Synology, QNAP and other network storage: thumbnails, deleted files, snapshots
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb"),
        *(".@__thumb", "@tmp", "@sharesnap", "@sharebin", "@snapshots", "~snapshot"),
        *(".snapshot", ".snapshots", ".zfs", ".recycle", ".recycle.bin", "lost+found"),
        # Windows
        *("$recycle.bin", "recycler", "recycled", "system volume information"),
        # macOS and Linux desktops
        *("__macosx", ".appledouble", ".appledb", ".appledesktop", ".trashes", ".trash"),
        *(".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100"),
        *(".thumbnails", ".thumbs", ".picasaoriginals", ".xvpics", "network trash folder"),
    }
)
"""Folders of thumbnails, deleted files and snapshots, in lower case: taken only if they are named
as sources, like those whose names begin with ``.trash-``."""

_TICK = 0.2
_ELSEWHERE = "choose another output folder"
_NAME_THEM = "check your rights, or name its images one by one"


@attrs.frozen(kw_only=True)
class Found:
    """One image to expand.

    Attributes:
        source: The image as the user named it; below a folder, with the folder's name.
        image: The same, to be loaded.
        stem: Where its results go: a name with "/" and without extension, relative to the output
            folder.
        error: Why it can't be used, or None.
        plain: The stem that it would have if no other source wanted the same; None if it has it.
        identity: What an object in a store is recognised by.
    """

    source: str = attrs.field(repr=repr_redacted)
    stem: str
    error: InputError | None = None
    plain: str | None = None
    identity: FileIdentity | None = None

    @property
    def image(self) -> str:
        """What to load: a path or a URL."""
        return self.source

    @property
    def others(self) -> tuple[str, ...]:
        """The stems that the same source gets when it has other neighbours; often none.

        An earlier result under one of them stays where it is.
        """
        if self.plain is None or self.error is not None:
            return ()
        extension = os.path.splitext(self.source)[1][1:]
        wishes = (self.plain, f"{self.plain}-{extension}")
        return tuple(each for each in wishes if each != self.stem)


@attrs.define(kw_only=True)
class SkipReport:
    """What was left out of folders so far, by reason.

    Attributes:
        other_types: Files that are not images by their suffix; how many of each suffix, in lower
            case, "" for none.
        hidden: Images and folders whose names begin with a dot.
        broken_links: Links that lead nowhere.
        links: Links that lead out of the folder, or to another folder; see ``follow_links``.
        system_folders: Folders of thumbnails, deleted files and snapshots, by name.
        excluded: What ``exclude`` or ``include`` left out.
    """

    other_types: Counter[str] = attrs.field(factory=Counter)
    hidden: int = 0
    broken_links: int = 0
    links: int = 0
    system_folders: Counter[str] = attrs.field(factory=Counter)
    excluded: int = 0

    @property
    def total(self) -> int:
        """How many files, links and folders were left out."""
        counted = self.hidden + self.broken_links + self.links + self.excluded
        return counted + self.other_types.total() + self.system_folders.total()

    def __str__(self) -> str:
        """Return one line, such as ``3 other files (2 .cr2, 1 .mp4), 1 broken link``."""
        types = sorted(self.other_types.items(), key=_most_first)
        kinds = ", ".join(
            f"{count} {suffix or 'without suffix'}" for suffix, count in types[:_TYPES]
        )
        if len(types) > _TYPES:
            kinds += ", …"
        folders = ", ".join(sorted(self.system_folders))
        parts = (
            (self.other_types.total(), "other file", f" ({kinds})"),
            (self.hidden, "hidden", None),
            (self.broken_links, "broken link", ""),
            (self.links, "link out of the folder", ""),
            (self.system_folders.total(), "system folder", f" ({folders})"),
            (self.excluded, "excluded", None),
        )
        return ", ".join(_counted(*part) for part in parts if part[0])


_TYPES = 5  # as many as are named


def _most_first(item: tuple[str, int]) -> tuple[int, bool, str]:
    suffix, count = item
    return -count, not suffix, suffix


def _counted(count: int, noun: str, detail: str | None) -> str:
    if detail is None:  # not a noun
        return f"{count} {noun}"
    first, space, rest = noun.partition(" out")  # links out of the folder
    return f"{count} {first}{'s' if count != 1 else ''}{space}{rest}{detail}"


@attrs.frozen(kw_only=True)
class Selection:
    """Which files of a folder are taken.

    A pattern is a shell pattern (``*.png``, ``drafts``, ``2024/*``), in any case. One without a
    slash is matched with the names of files and folders, one with a slash with the path below
    the source folder, in which ``*`` matches slashes as well.

    Attributes:
        include: Only files that match one of these; all by default.
        exclude: No files and no folders that match one of these.
        follow_links: Follow links to other folders, and to files outside the folder.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow_links: bool = False

    def takes_file(self, path: str) -> bool:
        """Return True if the file at *path*, below the source folder, is taken."""
        wanted = not self.include or _matches(path, self.include)
        return wanted and not _matches(path, self.exclude)

    def takes_folder(self, path: str) -> bool:
        """Return True if the folder at *path*, below the source folder, is read."""
        return not _matches(path, self.exclude)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return False
    path = fold(path)
    name = path.rpartition("/")[2]
    for pattern in patterns:
        wanted = fold(pattern).strip("/")
        if fnmatch.fnmatchcase(path if "/" in wanted else name, wanted):
            return True
    return False


def scan(
    sources: Iterable[str],
    *,
    out: str | os.PathLike[str],
    stdin: IO[Any] | None = None,
    selection: Selection | None = None,
    skipped: SkipReport | None = None,
    stores: Stores | None = None,
) -> Scan:
    """Return an iterator over the images that *sources* lead to.

    Folders are read one at a time while the iterator is used, which takes a while: use it in
    a thread. Hidden files, system folders, the folder *out*, subfolders that are output folders
    of other runs, links that lead elsewhere, and files without an image's suffix are left out
    and counted; what is named by itself is always taken.

    Args:
        sources: Files, folders, URLs, addresses in stores, or ``-``.
        out: Where results go: a folder, or its address in a store. It need not exist.
        stdin: What ``-`` reads; the standard input by default. It is read to its end first.
        selection: Which files of folders are taken; all images by default.
        skipped: Where to count what is left out; a new report by default.
        stores: The stores that are known; those that are built in by default.
    """
    scanned = Scan(sources, os.fspath(out), stdin, selection or Selection(), stores or Stores())
    if skipped is not None:
        scanned.skipped = skipped
    return scanned


@attrs.frozen
class _Stored:
    """A source in a store."""

    address: str
    store: Store
    name: str
    is_folder: bool = attrs.field(kw_only=True)
    identity: FileIdentity | None = attrs.field(default=None, kw_only=True)


class Scan(Iterator[Found]):
    """The images that some sources lead to; made by `scan`.

    Attributes:
        skipped: What was left out so far.
    """

    def __init__(
        self,
        sources: Iterable[str],
        out: str,
        stdin: IO[Any] | None,
        selection: Selection,
        stores: Stores,
    ) -> None:
        self.skipped: SkipReport = SkipReport()
        self._selection = selection
        self._stores = stores
        self._out = out.rstrip("/") if stores.knows(out) else os.path.realpath(out)
        self._inside: tuple[str, ...] = ()  # sources in the output folder
        self._closed = False
        self._found = self._walk(sources, stdin)

    def __next__(self) -> Found:
        if self._closed:
            raise StopIteration
        return next(self._found)

    def close(self) -> None:
        """Stop, even while another thread waits for the standard input."""
        self._closed = True

    def _walk(self, sources: Iterable[str], stdin: IO[Any] | None) -> Iterator[Found]:
        named = self._named(sources, stdin)
        stored, refused = self._stored_among(named)
        folders = _folders_among(named, stored)
        inside = {path for path in map(self._real, folders) if path.startswith(self._real())}
        self._inside = tuple(inside - {self._real()})
        files = [
            NameRequest.of_object(key, self._out)
            if key in stored
            else NameRequest.of_file(key, self._out)
            for key in named
            if key not in folders
        ]
        wishes = {request.key: request.name for request in files}
        stems, labels = unique_names(files), unique_folders(folders.values())
        taken: defaultdict[str, set[str]] = defaultdict(set)  # names, by folder
        for stem in stems.values():
            folder, _, name = stem.rpartition("/")
            taken[fold(folder)].add(fold(name))
        for key, source in named.items():
            if key not in folders:
                plain = wishes[key] if wishes[key] != stems[key] else None
                identity = stored[key].identity if key in stored else None
                yield Found(
                    source=source,
                    stem=stems[key],
                    error=refused.get(key),
                    plain=plain,
                    identity=identity,
                )
                continue
            base = labels[key] if len(folders) > 1 else ""
            if key in stored:
                yield from self._stored_folder(stored[key], base, taken, named)
            else:
                yield from self._folder(source, base, taken, named)

    def _named(self, sources: Iterable[str], stdin: IO[Any] | None) -> dict[str, str]:
        """Return what *sources* name, by absolute path or URL: named twice is taken once."""
        named: dict[str, str] = {}
        for source in sources:
            for each in self._lines(stdin) if source == "-" else (source,):
                # The absolute path of "" would be the working folder, all of it.
                is_path = each and not url_scheme(each)
                named.setdefault(os.path.abspath(each) if is_path else each, each)
        return named

    def _folder(
        self, root: str, base: str, taken: Mapping[str, set[str]], named: Collection[str]
    ) -> Iterator[Found]:
        """Yield what is in the folder *root*; its results go below *base*."""
        real = os.path.realpath(root)
        if real == self._out:
            yield _refused(root, base, "is the output folder", _ELSEWHERE)
            return
        seen = {real}  # through links a folder may lead to itself
        waiting = [("", base)]  # the folders not read yet, the next one last
        while waiting:
            inner, below = waiting.pop()
            try:
                files, folders = self._listing(root, inner, real)
            except OSError as exc:
                problem = f"can't be listed: {exc.strerror}"
                yield _refused(
                    os.path.join(root, inner), below, problem, "check its permissions", exc
                )
                continue
            if files and self._meets_sources(below):
                problem = "would have its results among the sources, and they would be bought next"
                yield _refused(os.path.join(root, inner), below, problem, _ELSEWHERE)
                files = []
            here = os.path.join(root, inner, "")
            absolute = os.path.join(os.path.abspath(here), "")
            stems = names_in_folder(files, taken.get(fold(below), ()))
            for name, stem in stems.items():
                if absolute + name not in named:
                    yield _found(here, name, below, stem)
            labels = unique_names(map(NameRequest.of_folder, folders))
            for name in reversed(folders):
                path = os.path.join(inner, name)
                where = os.path.realpath(os.path.join(root, path))
                if where != self._out and (not self._selection.follow_links or where not in seen):
                    seen.add(where)
                    waiting.append((path, _join(below, labels[name])))

    def _meets_sources(self, below: str) -> bool:
        """Return True if results in *below* would be found as sources by the next run."""
        place = os.path.join(self._out, below)
        return bool(self._inside) and self._real(place).startswith(self._inside)

    def _real(self, folder: str | None = None) -> str:
        """Return the real path of *folder*, ending so that what is in it begins like it.

        Of the output folder, if none is named.
        """
        folder = self._out if folder is None else folder
        stored = self._stores.knows(folder)
        return os.path.join(folder if stored else os.path.realpath(folder), "")

    # In a store ---------------------------------------------------------------------------

    def _stored_among(
        self, named: Iterable[str]
    ) -> tuple[dict[str, _Stored], dict[str, InputError]]:
        """Return what is in stores, and why the rest of what should be there can't be."""
        stored: dict[str, _Stored] = {}
        refused: dict[str, InputError] = {}
        for key in filter(self._stores.knows, named):
            try:
                stored[key] = self._stored(key)
            except InputError as error:
                refused[key] = error
        return stored, refused

    def _stored(self, address: str) -> _Stored:
        """Find out what is at *address*: an object, or else a folder."""
        store, name = self._stores.at(address)
        info = None
        if name and not name.endswith("/"):
            # What can't be asked for is said when it is read.
            with contextlib.suppress(OSError):
                info = store.find(name)
            if info is None and image_suffix(name):
                return _Stored(address, store, name, is_folder=False)
        identity = None if info is None else identity_of(address, info)
        return _Stored(address, store, name, is_folder=info is None, identity=identity)

    def _stored_folder(
        self,
        root: _Stored,
        base: str,
        taken: Mapping[str, set[str]],
        named: Collection[str],
    ) -> Iterator[Found]:
        """Yield what is in a folder of a store; its results go below *base*."""
        top = root.address.rstrip("/")
        if top == self._out:
            yield _refused(top, base, "is the output folder", _ELSEWHERE)
            return
        waiting = [("", base)]  # the folders not read yet, the next one last
        while waiting:
            inner, below = waiting.pop()
            here = os.path.join(top, inner, "")
            if here == self._real():
                continue
            try:
                listing = root.store.list(os.path.join(root.name, inner))
            except OSError as exc:
                problem = f"can't be listed: {exc.strerror}"
                yield _refused(here, below, problem, _NAME_THEM, exc)
                continue
            if not (inner or listing.objects or listing.folders):
                yield _refused(top, base, "is not in the store", "check the address")
            files, folders = self._sorted(listing, inner)
            if files and self._meets_sources(below):
                problem = "would have its results among the sources, and they would be bought next"
                yield _refused(here, below, problem, _ELSEWHERE)
                files = {}
            stems = names_in_folder(files, taken.get(fold(below), ()))
            for name, stem in stems.items():
                if here + name not in named:
                    identity = identity_of(here + name, files[name])
                    yield _found(here, name, below, stem, identity)
            labels = unique_names(map(NameRequest.of_folder, folders))
            waiting += [
                (os.path.join(inner, name), _join(below, labels[name]))
                for name in reversed(folders)
            ]

    def _sorted(self, listing: Listing, inner: str) -> tuple[dict[str, ObjectInfo], list[str]]:
        """Return the images and the folders of *listing* that are taken, sorted by name."""
        objects = {each.name.rpartition("/")[2]: each for each in listing.objects}
        if OURS in objects and inner:
            return {}, []  # the output folder of another run
        objects.pop(OURS, None)
        files = {
            name: objects[name]
            for name in sorted(objects)
            if self._takes_stored(name, os.path.join(inner, name), is_folder=False)
        }
        folders = [
            name
            for name in sorted(listing.folders)
            if self._takes_stored(name, os.path.join(inner, name), is_folder=True)
        ]
        return files, folders

    def _takes_stored(self, name: str, path: str, *, is_folder: bool) -> bool:
        if is_folder and _is_system(name):
            self.skipped.system_folders[name] += 1
        elif name.startswith("."):
            self.skipped.hidden += is_folder or bool(image_suffix(name))
        elif not is_folder and not image_suffix(name):
            self.skipped.other_types[os.path.splitext(name)[1].lower()] += 1
        elif not (self._selection.takes_folder if is_folder else self._selection.takes_file)(path):
            self.skipped.excluded += 1
        else:
            return True
        return False

    # In a folder --------------------------------------------------------------------------

    def _listing(self, root: str, inner: str, real: str) -> tuple[list[str], list[str]]:
        """Return the images and the folders in the folder *inner* of *root*, sorted by name.

        There are none in an output folder, unless it is *root* itself, which was named.
        """
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(os.path.join(root, inner)) as entries:
            for entry in entries:
                if entry.name == OURS:
                    if inner:
                        return [], []
                    continue
                kind = self._kind(entry, os.path.join(inner, entry.name), real)
                if kind == "folder":
                    folders.append(entry.name)
                elif kind == "file":
                    files.append(entry.name)
        return sorted(files), sorted(folders)

    def _kind(self, entry: os.DirEntry[str], path: str, real: str) -> str:
        """Return ``"file"`` or ``"folder"``, or an empty text for what is left out and counted."""
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a circle of links
            is_folder = is_file = False
        if is_folder and _is_system(entry.name):
            self.skipped.system_folders[entry.name] += 1
        elif entry.name.startswith("."):
            self.skipped.hidden += is_folder or bool(image_suffix(entry.name))
        elif entry.is_symlink() and not (is_folder or is_file):
            self.skipped.broken_links += 1
        elif is_folder:
            return "folder" if self._takes_folder(entry, path) else ""
        elif is_file and image_suffix(entry.name):
            return "file" if self._takes_file(entry, path, real) else ""
        else:
            self.skipped.other_types[os.path.splitext(entry.name)[1].lower()] += 1
        return ""

    def _takes_folder(self, entry: os.DirEntry[str], path: str) -> bool:
        if entry.is_symlink() and not self._selection.follow_links:
            self.skipped.links += 1
        elif not self._selection.takes_folder(path):
            self.skipped.excluded += 1
        else:
            return True
        return False

    def _takes_file(self, entry: os.DirEntry[str], path: str, real: str) -> bool:
        followed = self._selection.follow_links or not entry.is_symlink()
        if not self._selection.takes_file(path):
            self.skipped.excluded += 1
        elif not followed and _leads_out(entry.path, real):
            # It could send any file of this machine to the provider.
            self.skipped.links += 1
        else:
            return True
        return False

    def _lines(self, stdin: IO[Any] | None) -> list[str]:
        """Return the lines of the standard input that are not empty."""
        stream = stdin or sys.stdin or io.StringIO()
        try:
            data = b"".join(self._pieces(stream.fileno()))
        except (OSError, ValueError):  # no file behind it: a stream made by a program
            text = stream.read()
            data = text if isinstance(text, bytes) else text.encode()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes lists
            data = data.decode("utf-16", "replace").encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
        lines = (os.fsdecode(line.rstrip(b"\r")) for line in data.split(b"\n"))
        return [line for line in lines if line.strip()]

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        while not self._closed:
            # In short waits, so that `close` ends it: a read could wait forever.
            ready, _, _ = select.select([descriptor], [], [], _TICK)
            if ready:
                piece = os.read(descriptor, 65536)
                if not piece:
                    return
                yield piece


def _folders_among(named: Iterable[str], stored: Mapping[str, _Stored]) -> dict[str, NameRequest]:
    """Return what the folders of this machine and of stores would like to be called, by key."""
    folders = {key: NameRequest.of_folder(key) for key in named if os.path.isdir(key)}
    return folders | {
        key: attrs.evolve(NameRequest.of_folder(key.rstrip("/")), key=key)
        for key, each in stored.items()
        if each.is_folder
    }


def _is_system(name: str) -> bool:
    name = name.lower()
    return name in SYSTEM_FOLDERS or name.startswith(".trash-")


def _found(
    here: str, name: str, below: str, stem: str, identity: FileIdentity | None = None
) -> Found:
    wish = stem if name.rpartition(".")[0] == stem else wished_name(name)
    plain = None if stem == wish else _join(below, wish)
    return Found(source=here + name, stem=_join(below, stem), plain=plain, identity=identity)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _leads_out(path: str, root: str) -> bool:
    return not os.path.realpath(path).startswith(os.path.join(root, ""))


def _refused(path: str, stem: str, problem: str, hint: str, cause: OSError | None = None) -> Found:
    error = ImageRules(source=path).refuse(problem, limit="a readable image", hint=hint)
    error.__cause__ = cause
    return Found(source=path, stem=stem, error=error)
