"""What all parts share: how long to measure, where to write, and rounds."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from benchmarks.clients import BASE, NEEDS, OURS
from benchmarks.core.report import Table, median, say

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        quick: True for a run of seconds, whose figures only show that it works.
        plots: Where images go; None for no images.
        scratch: A folder for files.
    """

    quick: bool
    plots: Path | None
    scratch: Path

    def count(self, full: int, quick: int) -> int:
        """Return *full*, or *quick* in a short run."""
        return quick if self.quick else full


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder, and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def installed(names: Sequence[str]) -> list[str]:
    """Return those of *names* whose library is there."""
    return [n for n in names if n not in NEEDS or importlib.util.find_spec(NEEDS[n])]


def in_rounds(
    names: Sequence[str],
    measure: Callable[[str], T],
    *,
    rounds: int,
    peer_rounds: int | None = None,
    what: str = "",
) -> dict[str, dict[int, T]]:
    """Measure all in turns, round after round, each round beginning with another one.

    Args:
        names: What is measured.
        measure: Measures one.
        rounds: How many rounds.
        peer_rounds: In how many of them the other clients take part, which are slow.
        what: What to say on the terminal.
    """
    samples: dict[str, dict[int, T]] = {name: {} for name in names}
    for number in range(rounds):
        if what:
            say(f"   {what}, round {number + 1} of {rounds}")
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            if name not in NEEDS or peer_rounds is None or number < peer_rounds:
                samples[name][number] = measure(name)
    return {name: found for name, found in samples.items() if found}


def ratio(
    samples: dict[str, dict[int, T]], name: str, value: Callable[[T], float], base: str = BASE
) -> float:
    """Return the median over all rounds of *name*'s value divided by that of *base*."""
    mine, theirs = samples[name], samples[base]
    return median([value(mine[n]) / (value(theirs[n]) or 1e-9) for n in mine if n in theirs])


def bold(name: str, cells: Sequence[str]) -> list[str]:
    """Return a row, in bold when it is about us."""
    row = [name, *cells]
    return [f"**{cell}**" for cell in row] if name in OURS else row


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose rows about us are bold."""
    return Table(title=title, head=head, rows=[bold(row[0], row[1:]) for row in rows])
