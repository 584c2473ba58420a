"""A page of all images of a folder, before and after: one HTML file that loads nothing remote.

Rule of this file: Jinja2 is imported inside a function only, because it is an extra.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import attrs

from comet_async._images.formats import read_info
from comet_async._images.rules import show
from comet_async._journal.records import Destination, JobRecord, Journal
from comet_async._journal.states import JobState
from comet_async._types import JSON
from comet_async.errors import ConfigError, InputError, MissingExtraError

NAME = "report.html"

_MARK = b'<meta name="generator" content="comet_async">'
_HEAD = 64 * 1024  # enough of an image's file to know its size
_SHOWABLE = {"png", "jpeg", "webp", "gif", "avif", "bmp"}  # by browsers


@attrs.frozen(kw_only=True)
class Shot:
    """One image file on the page.

    Attributes:
        address: Relative to the page.
        width: In pixels.
        height: In pixels.
    """

    address: str
    width: int
    height: int


@attrs.frozen(kw_only=True)
class Box:
    """Where the source lies on its canvas, in percent of the canvas."""

    left: float
    top: float
    width: float
    height: float


@attrs.frozen(kw_only=True)
class Pair:
    """One source and what became of it.

    Attributes:
        source: The source, as it was named.
        before: The source's file, or None when it can't be shown.
        after: The results.
        box: Where the source lies on the canvas.
        margins: The margins, in words.
        prompt: What was asked for.
        key: Our own id of the task.
    """

    source: str
    before: Shot | None
    after: Sequence[Shot]
    box: Box
    margins: str
    prompt: str
    key: str


async def write_report(folder: Path, journal: Journal) -> Path:
    """Write the page of *folder* and return its path; a page of an earlier time is replaced.

    Args:
        folder: The output folder. Sources with a relative path are looked for from the working
            folder.
        journal: The folder's journal.

    Raises:
        MissingExtraError: Jinja2 is not installed.
        InputError: A file of that name is there and is no page of ours.
        ConfigError: It can't be written.
    """
    finished: list[tuple[JobRecord, Sequence[Destination]]] = []
    after = ""
    while page := await journal.find({JobState.DONE}, after=after):
        finished += [(record, await journal.destinations(record.key)) for record in page]
        after = page[-1].key
    practice = await journal.read_meta("sandbox") is True
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _write, folder, finished, practice)


def _write(
    folder: Path,
    finished: Sequence[tuple[JobRecord, Sequence[Destination]]],
    practice: bool,  # noqa: FBT001 - called through run_in_executor, which takes no keywords
) -> Path:
    pairs = [_pair(folder, record, place) for record, places in finished for place in places]
    pairs = sorted((pair for pair in pairs if pair.after), key=lambda pair: pair.source)
    text = render(pairs, title=folder.absolute().name, practice=practice)
    path, refusal = folder / NAME, ""
    try:
        if path.exists() and _MARK not in path.read_bytes()[:4096]:
            msg = f"{path} is there and is not a page of ours"
            raise InputError(msg, field="report", value=str(path), hint="move it away")
        part = path.with_name(f".{NAME}.part")
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as error:
        refusal = error.strerror or type(error).__name__
    if refusal:
        raise ConfigError(f"{path} can't be written: {refusal}")
    return path


def render(pairs: Sequence[Pair], *, title: str, practice: bool = False) -> str:
    """Return the page.

    Args:
        pairs: What to show.
        title: The folder's name.
        practice: Whether the sandbox painted them.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415 - an extra
    except ImportError:
        jinja2 = None  # type: ignore[assignment]  # the error is raised outside the handler
    if jinja2 is None:
        raise MissingExtraError("the page needs Jinja2", extra="report")
    template = resources.files("comet_async").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    values = {"pairs": pairs, "title": title, "practice": practice}
    return environment.from_string(template).render(values)


def _pair(folder: Path, record: JobRecord, place: Destination) -> Pair:
    source = place.source or record.source
    files = sorted((file for file in place.files if file.kept), key=lambda file: file.index)
    shots = [_shot(folder / file.name, folder) for file in files]
    up, down, left, right = (
        _share(record.params, side) for side in ("up", "down", "left", "right")
    )
    wide, tall = 1 + left + right, 1 + up + down
    prompt = record.params.get("prompt")
    return Pair(
        source=show(source),
        before=None if "://" in source else _shot(Path(source), folder),
        after=[shot for shot in shots if shot is not None],
        box=Box(left=100 * left / wide, top=100 * up / tall, width=100 / wide, height=100 / tall),
        margins=", ".join(
            f"{name} {value:.4g}"
            for name, value in (("up", up), ("down", down), ("left", left), ("right", right))
            if value
        ),
        prompt=prompt if isinstance(prompt, str) else "",
        key=record.key,
    )


def _share(params: Mapping[str, JSON], side: str) -> float:
    value = params.get(f"{side}_expansion_ratio")
    return float(value) if isinstance(value, int | float) else 0.0


def _shot(path: Path, folder: Path) -> Shot | None:
    """Return *path* as an image on the page, or None when a browser can't show it."""
    info = None
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        info = read_info(file.read(_HEAD))
    if info is None or info.format not in _SHOWABLE:
        return None
    relative = os.path.relpath(path.absolute(), folder.absolute())
    address = quote(os.fsencode(relative.replace(os.sep, "/")))
    return Shot(address=address, width=info.width, height=info.height)
