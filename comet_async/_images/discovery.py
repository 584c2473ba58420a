"""Which images a command names, and which names their results get.

A source is a file, a folder, a URL, or ``-`` (one of the former on each line of the standard
input). Names of results depend on what is named together, never on the order: the same sources
give the same names in every run.

* A result is called like its source, in the same subfolder.
* Sources that would share a name (``a.jpg`` and ``a.png``) are called with their extension:
  ``a-jpg``, ``a-png``. If that is not enough (``a.jpg`` and ``A.jpg``, or two folders' ``a.jpg``
  named one by one) a short hash of the source joins as well. Upper and lower case count as the
  same, because on many disks they are.
* Several folders get a folder each in the output, called like themselves.
"""

# ruff: noqa: PTH100, PTH112, PTH114, PTH118, PTH119, PTH120, PTH122 - paths are text here: the
# user's spelling is kept, and there may be 100,000 of them

from __future__ import annotations

import hashlib
import io
import os
import re
import select
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

import attrs

from comet_async._images.formats import EXTENSIONS
from comet_async._images.load import url_scheme
from comet_async._images.rules import ImageRules
from comet_async.errors import InputError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".tif", ".tiff", ".gif", ".bmp", ".avif"}
)
"""What a file in a folder must end with, in any case, to be taken for an image."""

OURS = ".comet-async"
"""The folder in each output folder where its journal lies."""

# Leaves room for an index, an extension, and the marks of a file that is being written:
# file systems take 255 bytes.
_LONGEST = 150
# On Windows these are devices, with any extension.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
_ODD = re.compile(r'[<>:"/\\|?*]')
_TICK = 0.2
_ELSEWHERE = "choose another output folder"


@attrs.frozen(kw_only=True)
class Found:
    """One image to expand.

    Attributes:
        source: The image as the user named it; below a folder, with the folder's name.
        image: The same, to be loaded.
        stem: Where its results go: a name without extension, relative to the output folder.
        error: Why it can't be used, or None.
    """

    source: str
    stem: PurePosixPath
    error: InputError | None = None

    @property
    def image(self) -> str:
        """What to load: a path or a URL."""
        return self.source


def output_name(stem: str | PurePosixPath, index: int, n: int, format: str) -> str:  # noqa: A002 - the word of the field
    """Return the file name of one result, relative to the output folder.

    Args:
        stem: `Found.stem`, or a whole name as `exact` marks it.
        index: The result's position among those of its task, from 0.
        n: How many results the task has; the index is only named if there are several.
        format: What the bytes are, a key of `comet_async._images.formats.EXTENSIONS`.
    """
    if str(stem).endswith(_EXACT):
        return str(stem)[: -len(_EXACT)]
    middle = "" if n == 1 else f"-{index}"
    return f"{stem}{middle}.{EXTENSIONS[format]}"


# Never at the end of a stem: it is replaced in names that are made from sources.
_EXACT = ":"


def exact(path: Path) -> str:
    """Return the destination of a result that gets exactly this name, whatever its format."""
    return f"{path}{_EXACT}"


def scan(
    sources: Iterable[str], *, out: str | os.PathLike[str], stdin: IO[Any] | None = None
) -> Scan:
    """Return an iterator over the images that *sources* lead to.

    Folders are read one at a time while the iterator is used, which takes a while: use it in
    a thread. Hidden files, the folder *out*, subfolders that are output folders of other runs,
    and files without an image's extension are left out; what is named by itself is always
    taken. A link to a file outside its folder is found with an error.

    Args:
        sources: Files, folders, URLs, or ``-``.
        out: Where results go. It need not exist.
        stdin: What ``-`` reads; the standard input by default. It is read to its end first.
    """
    return Scan(sources, Path(out), stdin)


class Scan(Iterator[Found]):
    """The images that some sources lead to; made by `scan`.

    Attributes:
        skipped: How many files in folders were left out so far for what they are.
    """

    def __init__(self, sources: Iterable[str], out: Path, stdin: IO[Any] | None) -> None:
        self.skipped = 0
        self._out = os.path.realpath(out)
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
        named: dict[str, str] = {}  # by absolute path or URL: named twice is taken once
        for source in sources:
            for each in self._lines(stdin) if source == "-" else (source,):
                # The absolute path of "" would be the working folder, all of it.
                is_path = each and not url_scheme(each)
                named.setdefault(os.path.abspath(each) if is_path else each, each)
        folders = {key: _Entry.of_folder(key) for key in named if os.path.isdir(key)}
        inside = {path for path in map(_real, folders) if path.startswith(_real(self._out))}
        self._inside = tuple(inside - {_real(self._out)})
        files = [_Entry.of_file(key, self._out) for key in named if key not in folders]
        stems, labels = _unique(files), _unique(folders.values())
        taken = frozenset(map(_fold, stems.values()))
        for key, source in named.items():
            if key not in folders:
                yield Found(source=source, stem=PurePosixPath(stems[key]))
            else:
                base = labels[key] if len(folders) > 1 else ""
                yield from self._folder(source, PurePosixPath(base), taken, named)

    def _folder(
        self, root: str, base: PurePosixPath, taken: Collection[str], named: Collection[str]
    ) -> Iterator[Found]:
        """Yield what is in the folder *root*; its results go below *base*."""
        real = os.path.realpath(root)
        if real == self._out:
            yield _refused(root, base, "is the output folder", _ELSEWHERE)
            return
        waiting = [("", base)]  # the folders not read yet, the next one last
        while waiting:
            inner, below = waiting.pop()
            try:
                files, folders = self._listing(os.path.join(root, inner), top=not inner)
            except OSError as exc:
                problem = f"can't be listed: {exc.strerror}"
                yield _refused(os.path.join(root, inner), below, problem, "check its rights")
                continue
            if files and self._meets_sources(below):
                problem = "would have its results among the sources, and they would be bought next"
                yield _refused(os.path.join(root, inner), below, problem, _ELSEWHERE)
                files = []
            stems = _unique(files, taken if str(below) == "." else ())
            here = os.path.join(root, inner, "")
            absolute = os.path.join(os.path.abspath(here), "")
            for name, stem in stems.items():
                if absolute + name not in named:
                    yield _found(here + name, below / stem, real)
            labels = _unique(map(_Entry.of_folder, folders))
            inside = [(os.path.join(inner, name), below / labels[name]) for name in folders]
            waiting += [
                (path, label)
                for path, label in reversed(inside)
                if os.path.join(real, path) != self._out
            ]

    def _meets_sources(self, below: PurePosixPath) -> bool:
        """Tell whether results in *below* would be found as sources by the next run."""
        return bool(self._inside) and _real(os.path.join(self._out, below)).startswith(self._inside)

    def _listing(self, folder: str, *, top: bool) -> tuple[list[_Entry], list[str]]:
        """Return the images and the folders in *folder*, sorted by name.

        There are none in an output folder, unless it is the *top* one, which was named.
        """
        files: list[_Entry] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == OURS and not top:
                    return [], []
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif _suffix(entry.name) and _is_file(entry):
                    files.append(_Entry.of_name(entry.name))
                else:
                    self.skipped += 1
        return sorted(files, key=lambda entry: entry.key), sorted(folders)

    def _lines(self, stdin: IO[Any] | None) -> list[str]:
        """Return the lines of the standard input that are not empty."""
        stream = stdin or sys.stdin or io.StringIO()
        try:
            data = b"".join(self._pieces(stream.fileno()))
        except (OSError, ValueError):  # no file behind it: a stream made by a program
            text = stream.read()
            data = text if isinstance(text, bytes) else text.encode()
        lines = (os.fsdecode(line.rstrip(b"\r")) for line in data.split(b"\n"))
        return [line for line in lines if line.strip()]

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        while not self._closed:
            # In short looks, so that `close` ends it: a read could wait for ever.
            ready, _, _ = select.select([descriptor], [], [], _TICK)
            if ready:
                piece = os.read(descriptor, 65536)
                if not piece:
                    return
                yield piece


def _real(folder: str) -> str:
    """Return the real path of *folder*, ending so that what is in it begins like it."""
    return os.path.join(os.path.realpath(folder), "")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circle of links
        return False


def _found(path: str, stem: PurePosixPath, root: str) -> Found:
    # A link out of the folder could send any file of this machine to the provider.
    if os.path.islink(path) and not os.path.realpath(path).startswith(os.path.join(root, "")):
        return _refused(path, stem, "is a link out of its folder", "name the file itself")
    return Found(source=path, stem=stem)


def _refused(path: str, stem: PurePosixPath, problem: str, hint: str) -> Found:
    check = ImageRules(source=path)
    return Found(
        source=path, stem=stem, error=check.refuse(problem, limit="a readable image", hint=hint)
    )


# ---------------------------------------------------------------------------- names


@attrs.frozen(kw_only=True)
class _Entry:
    """Something that needs a name of its own.

    Attributes:
        key: What tells it from all others.
        name: What it would like to be called.
        extension: What joins the name if that is taken.
        joined: True when the extension joins in any case.
    """

    key: str
    name: str
    extension: str = ""
    joined: bool = False

    @classmethod
    def of_name(cls, name: str) -> _Entry:
        """Return the entry of a file in a folder."""
        stem, extension = os.path.splitext(name)
        return cls(key=name, name=_safe(stem), extension=_safe(extension[1:], ""))

    @classmethod
    def of_folder(cls, path: str) -> _Entry:
        """Return the entry of a folder."""
        name = os.path.basename(path)
        # A folder "a.png" would stand where the result "a.png" belongs.
        return cls(key=path, name=_safe(name.replace(".", "-") if _suffix(name) else name))

    @classmethod
    def of_file(cls, key: str, out: str) -> _Entry:
        """Return the entry of a file or URL that is named by itself."""
        scheme = url_scheme(key)
        if not scheme:
            # Its result must not be called like itself.
            own = "\0" not in key and os.path.realpath(os.path.dirname(key)) == out
            return attrs.evolve(cls.of_name(os.path.basename(key)), key=key, joined=own)
        if scheme == "data":
            return cls(key=key, name="image")
        parts = unquote(re.split("[?#]", key)[0]).split("/")
        name = next(filter(None, reversed(parts)))
        # Only what is an image's: "render.php" has no extension that says anything.
        return attrs.evolve(cls.of_name(name if _suffix(name) else f"{name}."), key=key)


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in SUFFIXES else ""


def _safe(text: str, default: str = "image") -> str:
    """Return *text* as a name that every file system takes, and no path."""
    text = _ODD.sub("_", text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "_" for letter in text)
    text = re.sub(r"^\.", "_", text).rstrip(". ")
    if text.partition(".")[0].lower() in _DEVICES:
        text = f"_{text}"
    if len(os.fsencode(text)) > _LONGEST:
        short = os.fsencode(text)[:_LONGEST].decode(errors="ignore")
        text = f"{short}-{_hash(text)}"
    return text or default


def _fold(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _unique(entries: Iterable[_Entry], taken: Collection[str] = ()) -> dict[str, str]:
    """Return a name for each entry's key, no two alike, whatever the order of the entries.

    Args:
        entries: What needs names.
        taken: Names that are used already, folded.
    """
    entries = list(entries)
    wishes = Counter(_fold(entry.name) for entry in entries)
    names: dict[str, str] = {}
    for entry in entries:
        wish = _fold(entry.name)
        if wishes[wish] > 1 or wish in taken or entry.joined:
            names[entry.key] = f"{entry.name}-{entry.extension}".removesuffix("-")
    # Those that have their wish keep it; the others must not meet them, nor each other.
    used = wishes + Counter(map(_fold, names.values()))
    for key, name in names.items():
        if used[_fold(name)] > 1 or _fold(name) in taken:
            names[key] = f"{name}-{_hash(key)}"
    return {entry.key: names.get(entry.key, entry.name) for entry in entries}
