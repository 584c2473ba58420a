"""Cards of a page, made of entries: what stands on each, and its images."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import attrs

from comet_async._images.formats import read_info
from comet_async._images.rules import show, without_source
from comet_async._tools.amounts import duration, money
from comet_async._tools.report.entries import Entry
from comet_async._tools.report.thumbnails import Thumbnail, make_thumbnail
from comet_async.geometry import Margins
from comet_async.outcomes import OutcomeStatus

LARGE = 720
"""Longest side of a preview in pixels: sharp on a card of a phone, fair when enlarged."""

_HEAD = 64 * 1024  # enough of an image's file to know its size
_SHOWABLE = {"png", "jpeg", "webp", "gif", "avif", "bmp"}  # by browsers


@attrs.frozen(kw_only=True)
class Size:
    """Width and height in pixels."""

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
class Shot:
    """One image on the page.

    Attributes:
        index: Position among the results, as in the names of the files.
        address: A ``data:`` URL, or an address relative to the page.
        width: In pixels, of what the address leads to.
        height: In pixels.
        full: Width and height of the original.
    """

    index: int = 0
    address: str = attrs.field(repr=False)
    width: int
    height: int
    full: tuple[int, int]


@attrs.frozen(kw_only=True)
class View:
    """A source and its results on one canvas.

    Attributes:
        canvas: Its shape.
        box: Where the source lies.
        before: The source, or None when it can't be shown.
        after: The results.
    """

    canvas: Size
    box: Box
    before: Shot | None
    after: tuple[Shot, ...]


@attrs.frozen(kw_only=True)
class Fact:
    """One line of what is known about an image.

    Attributes:
        name: What it is.
        value: In words.
        copy: True for an id, which people copy.
        wide: True for long texts.
        address: Where it leads, if anywhere.
    """

    name: str
    value: str
    copy: bool = False
    wide: bool = False
    address: str = ""


@attrs.frozen(kw_only=True)
class Card:
    """One source as the page shows it.

    Attributes:
        name: The source, short.
        outcome: Its outcome.
        properties: Which of ``already there``, ``copied`` and ``billed`` it has.
        summary: Its sizes and margins on one line.
        prompt: What was asked for.
        reason: Why it is not done.
        remedy: What to do about it.
        facts: All that is known, for the large view.
        seconds: How long its task took.
        when: When it came to its outcome, in seconds since 1970.
        view: Its images.
    """

    name: str
    outcome: OutcomeStatus
    properties: tuple[str, ...] = ()
    summary: str = ""
    prompt: str = ""
    reason: str = ""
    remedy: str = ""
    facts: tuple[Fact, ...] = ()
    seconds: float | None = None
    when: float | None = None
    view: View


@attrs.frozen(kw_only=True)
class CardMaker:
    """Makes the cards of one folder.

    Attributes:
        folder: The folder with the results, where the page will be.
        root: What the names of all sources begin with, which is left out.
        link: True to refer to the originals, False to embed small copies.
        simulated: True when the sandbox made the results, which cost nothing.
        words: Gives reasons and remedies in the words of the reader's program.
    """

    folder: Path
    root: str = ""
    link: bool = False
    simulated: bool = False
    words: Callable[[str], str] = str

    def make_all(self, entries: Sequence[Entry]) -> Iterator[Card]:
        """Yield a card for each of *entries*, in their order; images are made in threads."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(self.make, entries)

    def make(self, entry: Entry) -> Card:
        """Return the card of *entry*. Takes its time."""
        view = self._view(entry)
        margins = _in_words(entry.margins)
        return Card(
            name=self._name(entry.source),
            outcome=entry.outcome,
            properties=self.properties(entry),
            summary=" · ".join(filter(None, (_sizes(view), margins, *self._marks(entry)))),
            prompt=entry.prompt,
            reason=self.words(_without_names(entry.reason, entry)),
            remedy=self.words(_without_names(entry.hint, entry)),
            facts=tuple(self._facts(entry, view, margins)),
            seconds=entry.seconds,
            when=entry.at,
            view=view,
        )

    def properties(self, entry: Entry) -> tuple[str, ...]:
        """Return which properties *entry* has, as filters name them."""
        has = {
            "already there": entry.already_there,
            "copied": entry.copied,
            "billed": entry.billed and not self.simulated,
        }
        return tuple(name for name, value in has.items() if value)

    def _marks(self, entry: Entry) -> tuple[str, ...]:
        return tuple(name for name in self.properties(entry) if name != "billed")

    def _name(self, source: str) -> str:
        return show(source.removeprefix(self.root))

    # Images ---------------------------------------------------------------------------

    def _view(self, entry: Entry) -> View:
        margins = entry.margins or Margins()
        box = _box(margins)
        results = [
            attrs.evolve(shot, index=index)
            for index, name in sorted(entry.files.items())
            if (shot := self._shot(self.folder / name, LARGE)) is not None
        ]
        longest = LARGE
        if results:  # as many pixels as it has on the canvas
            width, height = results[0].width * box.width, results[0].height * box.height
            longest = math.ceil(max(width, height) / 100)
        # A copied image is the same before and after.
        before = None if entry.copied else self._before(entry.source, longest)
        canvas = _canvas(results, before, margins)
        return View(canvas=canvas, box=box, before=before, after=tuple(results))

    def _before(self, source: str, longest: int) -> Shot | None:
        path = self._find(source)
        return None if path is None else self._shot(path, longest)

    def _find(self, source: str) -> Path | None:
        """Return where the file of *source* is, or None when there is none."""
        if "://" in source:
            return None
        places = (Path(source), self.folder.absolute().parent / source)
        with contextlib.suppress(OSError):  # longer than a name can be
            return next(filter(Path.is_file, places), None)
        return None

    def _shot(self, path: Path, longest: int) -> Shot | None:
        shot = self._linked(path) if self.link else None
        if shot is not None:
            return shot
        made = make_thumbnail(path, longest)
        return None if made is None else _embedded(made)

    def _linked(self, path: Path) -> Shot | None:
        """Return *path* by its address, or None when a browser can't show it."""
        info = None
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            info = read_info(file.read(_HEAD))
        if info is None or info.format not in _SHOWABLE:
            return None
        size = info.width, info.height
        return Shot(address=self._address(path), width=size[0], height=size[1], full=size)

    def _address(self, path: Path) -> str:
        relative = os.path.relpath(path.absolute(), self.folder.absolute())
        return quote(os.fsencode(relative.replace(os.sep, "/")))

    # Words ----------------------------------------------------------------------------

    def _facts(self, entry: Entry, view: View, margins: str) -> Iterator[Fact]:
        yield Fact(name="Outcome", value=", ".join((entry.outcome, *self.properties(entry))))
        yield Fact(name="Size", value=_sizes(view) or "unknown")
        if margins:
            yield Fact(name="Added", value=margins)
        if entry.seconds is not None:
            yield Fact(name="Time taken", value=duration(entry.seconds))
        yield from self._billing(entry)
        if entry.at is not None:
            yield Fact(name="When", value=moment(entry.at))
        if (path := self._find(entry.source)) is not None:
            yield Fact(name="Original", value=show(path.name), address=self._address(path))
        for index, name in sorted(entry.files.items()):
            label = "Result" if len(entry.files) == 1 else f"Result {index}"
            address = self._address(self.folder / name)
            yield Fact(name=label, value=show(name), address=address)
        if entry.prompt:
            yield Fact(name="Prompt", value=entry.prompt, wide=True)
        if entry.notes:
            yield Fact(name="Notes", value="; ".join(entry.notes), wide=True)
        if entry.record is not None and entry.record.task_id:
            yield Fact(name="Task id", value=entry.record.task_id, copy=True)
        if entry.record is not None:
            yield Fact(name="Key", value=entry.record.key, copy=True)

    def _billing(self, entry: Entry) -> Iterator[Fact]:
        if entry.billed and not entry.first:
            yield Fact(name="Cost", value="billed once, with an equal image")
            return
        if entry.units:
            yield Fact(name="Units", value=f"{entry.units.normalize():f}")
        if entry.cost:
            value = "simulated" if self.simulated else f"about {money(entry.cost)}"
            yield Fact(name="Cost", value=value)


def _embedded(made: Thumbnail) -> Shot:
    return Shot(address=made.address, width=made.width, height=made.height, full=made.size)


def _box(margins: Margins) -> Box:
    wide, tall = 1 + margins.left + margins.right, 1 + margins.up + margins.down
    return Box(
        left=100 * margins.left / wide,
        top=100 * margins.up / tall,
        width=100 / wide,
        height=100 / tall,
    )


def _canvas(results: Sequence[Shot], before: Shot | None, margins: Margins) -> Size:
    """Return the shape of the canvas: the results' own, or the source's with its margins."""
    if results:
        return Size(width=results[0].width, height=results[0].height)
    width, height = (before.width, before.height) if before else (3, 2)
    return Size(
        width=round(100 * width * (1 + margins.left + margins.right)),
        height=round(100 * height * (1 + margins.up + margins.down)),
    )


def _sizes(view: View) -> str:
    shots = [shot for shot in (view.before, *view.after[:1]) if shot is not None]
    return " → ".join(f"{shot.full[0]}\xa0×\xa0{shot.full[1]}" for shot in shots)


def _without_names(text: str, entry: Entry) -> str:
    """Return *text* without the name and the key of what it is about, which stand beside it."""
    text = without_source(text, entry.source)
    if entry.record is None:
        return text
    key = entry.record.key
    return text.removeprefix(f"{key} ").replace(f" {key} may", " may").replace(key, "it")


def _in_words(margins: Margins | None) -> str:
    """Return "left 50%, right 50%", without the sides where nothing was added.

    Spaces inside sizes and shares don't break.
    """
    if margins is None:
        return ""
    shares = attrs.asdict(margins).items()
    return ", ".join(f"{side}\xa0{percent(share)}" for side, share in shares if share)


def percent(share: float) -> str:
    """Return *share* as "33.3%"."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def moment(seconds: float) -> str:
    """Return "26 November 2026, 17:20 UTC"."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"
