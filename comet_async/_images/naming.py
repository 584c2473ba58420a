"""What the results of sources are called: names that every file system takes, no two alike.

Names depend on what is named together, never on the order: the same sources give the same names
in every run.

* A result is called like its source.
* Files of one folder that would share a name (``a.jpg`` and ``a.png``) are called with their
  extension: ``a-jpg``, ``a-png``. Files of several folders, named one by one, keep as many of
  their folders as distinguish them: ``a/dog``, ``b/dog``.
* Only what can't be distinguished in that way (``a.jpg`` and ``A.jpg``) gets a short hash of the
  source. Upper and lower case count as the same, because on many disks they are.
"""

# ruff: noqa: PTH119, PTH120, PTH122 - paths are text here: the user's spelling is kept

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import attrs

from comet_async._addresses import url_scheme
from comet_async._images.formats import EXTENSIONS

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),
        *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".heic", ".heif", ".heics", ".heifs", ".hif", ".avif", ".avifs"),
    }
)
"""What a file in a folder must end with, in any case, to be taken for an image."""

# Leaves room for an index, an extension, and the marks of a file that is being written:
# file systems take 255 bytes.
_LONGEST = 150
# On Windows these are devices, with any extension.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
_ODD = re.compile(r'[<>:"/\\|?*]')
# Most names: nothing in them is odd, and devices have shorter ones.
_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{5,{_LONGEST}}}")


def output_name(stem: str | PurePosixPath, index: int, n: int, format: str) -> str:  # noqa: A002 - the word of the field
    """Return the file name of one result, relative to the output folder.

    Args:
        stem: The name without extension, or a whole name as `exact` marks it.
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


def exact(path: Path | str) -> str:
    """Return the destination of a result that gets exactly this name, whatever its format."""
    return f"{path}{_EXACT}"


def is_exact(dest: str) -> bool:
    """Return True if *dest* is the whole name of a result, which may have any extension."""
    return dest.endswith(_EXACT)


@attrs.frozen(kw_only=True)
class NameRequest:
    """Something that needs a name of its own.

    Attributes:
        key: What distinguishes it from all others.
        name: What it would like to be called.
        extension: What joins the name if another of its folder has it.
        parents: The folders that it is in, the nearest first; they join if that is not enough.
        joined: True when the extension joins in any case.
    """

    key: str
    name: str
    extension: str = ""
    parents: tuple[str, ...] = ()
    joined: bool = False

    @classmethod
    def of_name(cls, name: str) -> NameRequest:
        """Return the request of a file in a folder."""
        stem, extension = os.path.splitext(name)
        return cls(key=name, name=safe_name(stem), extension=safe_name(extension[1:], ""))

    @classmethod
    def of_folder(cls, path: str) -> NameRequest:
        """Return the request of a folder."""
        name = os.path.basename(path)
        # A folder "a.png" would stand where the result "a.png" belongs.
        plain = safe_name(name.replace(".", "-") if image_suffix(name) else name)
        return cls(key=path, name=plain, parents=_parents(path))

    @classmethod
    def of_file(cls, key: str, out: str) -> NameRequest:
        """Return the request of a file or URL that is named by itself."""
        scheme = url_scheme(key)
        if not scheme:
            # Its result must not be called like itself.
            own = "\0" not in key and os.path.realpath(os.path.dirname(key)) == out
            base = cls.of_name(os.path.basename(key))
            return attrs.evolve(base, key=key, joined=own, parents=_parents(key))
        if scheme == "data":
            return cls(key=key, name="image")
        address, _, query = key.partition("?")
        parts = [part for part in unquote(address.partition("#")[0]).split("/") if part]
        name = parts[-1]
        # Only what is an image's: "render.php" has no extension that says anything.
        base = cls.of_name(name if image_suffix(name) else f"{name}.")
        readable = len(query) < _LONGEST // 3 and re.fullmatch(r"[\w=&.+-]+", query)
        return attrs.evolve(
            base,
            key=key,
            extension=base.extension or (safe_name(query) if readable else ""),
            parents=tuple(map(safe_name, reversed(parts[1:-1]))),
        )

    @classmethod
    def of_object(cls, key: str, out: str) -> NameRequest:
        """Return the request of an object in a store that is named by itself."""
        folder, _, name = key.rpartition("/")
        base = cls.of_name(name)
        return attrs.evolve(base, key=key, joined=folder == out, parents=_parents(key))


def _parents(path: str) -> tuple[str, ...]:
    return tuple(safe_name(part) for part in reversed(path.split("/")[:-1]) if part)


def image_suffix(name: str) -> str:
    """Return the suffix of *name* in lower case if it is an image's, else an empty text."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in SUFFIXES else ""


def wished_name(file: str) -> str:
    """Return what the result of *file* would like to be called."""
    return safe_name(os.path.splitext(file)[0])


def safe_name(text: str, default: str = "image") -> str:
    """Return *text* as a name that every file system takes, and not a path."""
    if _PLAIN.fullmatch(text):
        return text
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


def fold(name: str) -> str:
    """Return *name* so that names that some disk holds for the same are equal."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def names_in_folder(files: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return a name for each of the *files* of one folder, as `unique_names` does.

    Cheaper than it for very many files, most of which get the name that they would like.

    Args:
        files: Their names, with extensions.
        taken: Names that are used already, folded.
    """
    names = {file: wished_name(file) for file in files}
    wanted = Counter(map(fold, names.values()))
    if len(wanted) == len(names) and not any(name in wanted for name in taken):
        return names
    shared = {name for name, number in wanted.items() if number > 1 or name in taken}
    contested = [file for file, name in names.items() if fold(name) in shared]
    kept = wanted.keys() - shared
    return names | unique_names(map(NameRequest.of_name, contested), {*taken, *kept})


def unique_names(requests: Iterable[NameRequest], taken: Collection[str] = ()) -> dict[str, str]:
    """Return a name for each request's key, no two alike, whatever the order of the requests.

    Args:
        requests: What needs names.
        taken: Names that are used already, folded.
    """
    requests = list(requests)
    groups: defaultdict[str, list[NameRequest]] = defaultdict(list)
    for request in requests:
        groups[fold(request.name)].append(request)
    names: dict[str, str] = {}
    for wish, group in groups.items():
        if len(group) > 1 or wish in taken or group[0].joined:
            names |= _apart(group)
    # Those that have their wish keep it; the others must not meet them, nor each other.
    used = Counter(groups.keys()) + Counter(map(fold, names.values()))
    for request in requests:
        name = names.get(request.key)
        if name is not None and (used[fold(name)] > 1 or fold(name) in taken):
            names[request.key] = f"{name}-{_hash(request.key)}"
    return {request.key: names.get(request.key, request.name) for request in requests}


def unique_folders(requests: Iterable[NameRequest]) -> dict[str, str]:
    """Return a name for each folder's key as `unique_names` does, none of them within another.

    Else what is below ``a`` could meet what is in ``a/dog``.
    """
    names = unique_names(requests)
    outer = {
        "/".join(parts[:depth])
        for parts in (fold(name).split("/") for name in names.values())
        for depth in range(1, len(parts))
    }
    return {
        key: f"{name}-{_hash(key)}" if fold(name) in outer else name for key, name in names.items()
    }


def _apart(group: list[NameRequest]) -> dict[str, str]:
    """Return names for requests that share one: with folders, with extensions, or with both."""
    folders = {request.parents for request in group}
    depth = _depth(folders) if len(folders) > 1 else 0
    lone = Counter(tuple(map(fold, request.parents[:depth])) for request in group)
    names: dict[str, str] = {}
    for request in group:
        parents = request.parents[:depth]
        alone = depth and lone[tuple(map(fold, parents))] == 1 and not request.joined
        name = request.name if alone else f"{request.name}-{request.extension}".removesuffix("-")
        path = "/".join((*reversed(parents), name))
        names[request.key] = path
    return names


def _depth(folders: Collection[tuple[str, ...]]) -> int:
    """Return how many folders are needed to distinguish *folders*."""
    folded = [tuple(map(fold, folder)) for folder in folders]
    longest = max(map(len, folded))
    for depth in range(1, longest):
        if len({folder[:depth] for folder in folded}) == len(set(folded)):
            return depth
    return longest
