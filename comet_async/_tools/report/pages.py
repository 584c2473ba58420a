"""The files of a report: cards rendered as HTML, a thousand a file."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from comet_async import _assets
from comet_async._tools.amounts import duration, money
from comet_async._tools.report.cards import Card, CardMaker, moment
from comet_async._tools.report.entries import Entry
from comet_async.errors import ConfigError, InputError
from comet_async.outcomes import OutcomeStatus

if TYPE_CHECKING:
    import jinja2

NAME = "report.html"

CARDS = 1000
"""Images of one page; further ones are on further pages."""

Counts: TypeAlias = Mapping[tuple[OutcomeStatus, tuple[str, ...]], int]
"""How many images have an outcome and certain properties."""

_MARK = b'<meta name="generator" content="comet_async">'
_MARKED = 4096  # bytes at the start of a page that hold the mark
_PROPERTIES = ("already there", "copied", "billed")
_SLIMMEST, _WIDEST = 0.8, 2.2  # shapes of the frames on cards; others have bars beside them


def write_pages(maker: CardMaker, entries: Sequence[Entry]) -> Path:
    """Write the pages of a report and return the path of the first. Takes its time.

    Raises:
        InputError: A file of that name is there and is not a report.
        ConfigError: A page can't be written.
    """
    parts = [entries[at : at + CARDS] for at in range(0, len(entries), CARDS)] or [entries]
    names = [page_name(number) for number in range(1, len(parts) + 1)]
    paths = [maker.folder / name for name in names]
    for path in paths:
        _check_ours(path)
    totals = _totals(maker, entries)
    counts = [Counter((each.outcome, maker.properties(each)) for each in part) for part in parts]
    for number, part in enumerate(parts, start=1):
        cards = list(maker.make_all(part))
        text = render(cards, maker=maker, totals=totals, counts=counts, names=names, number=number)
        _save(paths[number - 1], text)
    _remove_further(maker.folder, len(parts) + 1)
    return paths[0]


def page_name(number: int) -> str:
    """Return the file name of a page, counted from 1."""
    return NAME if number == 1 else f"report-{number}.html"


def render(
    cards: Sequence[Card],
    *,
    maker: CardMaker,
    totals: Sequence[tuple[str, str]] = (),
    counts: Sequence[Counts] = (),
    names: Sequence[str] = (NAME,),
    number: int = 1,
) -> str:
    """Return a page.

    Args:
        cards: What to show.
        maker: What made the cards; it knows the folder and whether results were simulated.
        totals: Names and values for the head of the page.
        counts: How many images of each page have which outcome and properties; by default those
            of *cards*, which are all.
        names: File names of all pages.
        number: Which of them this one is, from 1.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    counts = counts or [Counter((card.outcome, card.properties) for card in cards)]
    outcomes: Counter[OutcomeStatus] = Counter()
    properties: Counter[str] = Counter()
    for (outcome, names_of), many in (pair for page in counts for pair in page.items()):
        outcomes[outcome] += many
        properties.update(dict.fromkeys(names_of, many))
    prompts = {card.prompt for card in cards if card.view.after or card.prompt}
    return _template().render(
        cards=cards,
        title=maker.folder.absolute().name,
        practice=maker.simulated,
        linked=maker.link,
        images="'self' file: data:" if maker.link else "data:",
        totals=totals,
        prompt=prompts.pop() if len(prompts) == 1 else "",
        outcomes=[(word, outcomes[word]) for word in OutcomeStatus if outcomes[word]],
        properties=[(word, properties[word]) for word in _PROPERTIES if properties[word]],
        counts=[[(*kind, many) for kind, many in page.items()] for page in counts],
        stage=_stage(cards),
        pages=len(names),
        addresses=names,
        number=number,
        made=moment(time.time()),
    )


@functools.cache
def _template() -> jinja2.Template:
    text = resources.files(__package__ or "").joinpath("page.html").read_text("utf-8")
    return _assets.environment(**{"page.html": text}).get_template("page.html")


def _stage(cards: Sequence[Card]) -> float:
    """Return the shape of the frames: that of most canvases, within reason."""
    shapes = [card.view.canvas.width / card.view.canvas.height for card in cards]
    return min(max(statistics.median(shapes or [1.5]), _SLIMMEST), _WIDEST)


def _totals(maker: CardMaker, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return names and values for the head of each page: they count all pages."""
    done = sum(entry.outcome is OutcomeStatus.DONE for entry in entries)
    times = [entry.seconds for entry in entries if entry.seconds is not None and entry.first]
    units = sum((entry.units for entry in entries), Decimal(0))
    cost = sum((entry.cost for entry in entries), Decimal(0))
    totals = [
        ("Images", f"{len(entries):,}"),
        ("Done", f"{done:,}" if done < len(entries) else "all"),
        ("Results", f"{sum(len(entry.files) for entry in entries):,}"),
    ]
    if times:
        totals.append(("Time per image", duration(statistics.median(times))))
    if units:
        totals.append(("Units", f"{units.normalize():,f}"))
    if cost:
        totals.append(("Cost", "simulated" if maker.simulated else f"about {money(cost)}"))
    return totals


# ---------------------------------------------------------------------------- files


def _check_ours(path: Path) -> None:
    """Refuse to replace a file that is not a report.

    Raises:
        InputError: It is there and is not a report.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        if _MARK not in file.read(_MARKED):
            raise InputError(
                f"{path} exists and is not a report",
                field="report",
                value=str(path),
                hint="move it away",
            )


def _save(path: Path, text: str) -> None:
    part, refusal = path.with_name(f".{path.name}.part"), ""
    try:
        # Browsers read plain ASCII several times as fast, and a page is mostly Base64.
        part.write_bytes(text.encode("ascii", "xmlcharrefreplace"))
        part.replace(path)
    except OSError as error:
        refusal = error.strerror or type(error).__name__
    if refusal:
        raise ConfigError(f"{path} can't be written: {refusal}")


def _remove_further(folder: Path, number: int) -> None:
    """Remove pages that an earlier, longer report has left."""
    with contextlib.suppress(OSError, InputError):
        while (path := folder / page_name(number)).exists():
            _check_ours(path)
            path.unlink()
            number += 1
