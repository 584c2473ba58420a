"""Rebuild a small image at full size from blocks of the photo it was copied from.

Enlarging the small image would give fog. Every block of its new area resembles some block of
the small photo, and that block exists at full size, with all its detail.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import attrs
import numpy as np
import numpy.typing as npt
from PIL import Image

from comet_async.sandbox._painting.layout import Grid
from comet_async.sandbox._painting.seams import Floats, Pixels

BLOCK = 8
"""Side of a block in cells."""

_STRIDE = 5  # cells from block to block; the rest overlaps and is feathered
_CHUNK = 256  # blocks compared at a time, so that memory stays flat
_SLACK = 1.25, 16 * BLOCK * BLOCK  # how much worse (×, +) a match that goes on a neighbour's may be

_Index = npt.NDArray[np.intp]


class Copy(NamedTuple):
    """One block to copy, in cells: to (*row*, *column*) of the canvas from the photo."""

    row: int
    column: int
    from_row: int
    from_column: int


@attrs.frozen(eq=False)
class _Sources:
    """The photo's blocks that may be copied.

    Attributes:
        rows: First row of each.
        columns: First column of each.
        features: What each looks like, one line a block.
        number: The number of the block that starts at a cell, or -1.
    """

    rows: _Index
    columns: _Index
    features: Floats
    number: _Index

    @classmethod
    def of(cls, photo: Pixels, allowed: npt.NDArray[np.bool_]) -> _Sources:
        rows, columns = np.nonzero(allowed[: 1 - BLOCK, : 1 - BLOCK])
        number = np.full(allowed.shape, -1, np.intp)
        number[rows, columns] = np.arange(len(rows))
        return cls(rows, columns, _features(photo, rows, columns), number)

    def at(self, row: int, column: int) -> int:
        height, width = self.number.shape
        inside = 0 <= row < height and 0 <= column < width
        return int(self.number[row, column]) if inside else -1


def rebuild(
    fill: Pixels, whole: Image.Image, grid: Grid, allowed: npt.NDArray[np.bool_]
) -> tuple[Image.Image, Floats]:
    """Return *fill* at full size, and the colour difference that is left, a value for each cell.

    Args:
        fill: The small image with its new area filled.
        whole: The photo at full size, padded to whole cells.
        grid: How the two relate.
        allowed: Photo cells where a block that is copied may begin.
    """
    small = fill[grid.place.area]
    coarse = Image.fromarray(fill)
    fine = coarse.resize(grid.pixel_size, Image.Resampling.BICUBIC)
    photo = Image.fromarray(small)
    for copy in _find_copies(fill, small, _new_cells(grid), allowed):
        _paste(coarse, photo, copy, 1)
        _paste(fine, whole, copy, grid.cell)
    return fine, fill.astype(np.float32) - np.asarray(coarse, np.float32)


def _new_cells(grid: Grid) -> npt.NDArray[np.bool_]:
    """Return the cells that are not wholly photo."""
    new = np.ones((grid.height, grid.width), np.bool_)
    top, _, left, _ = grid.place
    width, height = grid.photo
    new[top : top + height // grid.cell, left : left + width // grid.cell] = False
    return new


def _find_copies(
    fill: Pixels, small: Pixels, new: npt.NDArray[np.bool_], allowed: npt.NDArray[np.bool_]
) -> list[Copy]:
    """Return, for every block with new cells, the photo's block that it resembles most."""
    height, width = new.shape
    blocks = [
        (row, column)
        for row, column in product(_starts(height), _starts(width))
        if new[row : row + BLOCK, column : column + BLOCK].any()
    ]
    if not blocks:
        return []
    rows, columns = np.array(blocks, np.intp).T
    wanted = _features(fill, rows, columns)
    sources = _Sources.of(small, allowed)
    return _follow_neighbours(blocks, wanted, sources, _nearest(wanted, sources.features))


def _starts(length: int) -> list[int]:
    starts = list(range(0, length - BLOCK + 1, _STRIDE))
    return starts if starts[-1] == length - BLOCK else [*starts, length - BLOCK]


def _features(image: Pixels, rows: _Index, columns: _Index) -> Floats:
    """Return what the blocks that start at (*rows*, *columns*) look like: sums of 2 × 2 cells."""
    cells = image.astype(np.float32)
    sums = cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]
    within = range(0, BLOCK, 2)
    return np.concatenate(
        [sums[rows + down, columns + across] for down, across in product(within, within)], axis=1
    )


def _nearest(wanted: Floats, offered: Floats) -> _Index:
    """Return, for each line of *wanted*, the line of *offered* at the least squared distance."""
    nearest = np.empty(len(wanted), np.intp)
    lengths = (offered**2).sum(1)
    turned = np.ascontiguousarray(offered.T)
    for start in range(0, len(wanted), _CHUNK):
        # |a - b|² without |a|², which is the same for every b.
        distance = wanted[start : start + _CHUNK] @ turned
        distance *= -2
        distance += lengths
        nearest[start : start + _CHUNK] = distance.argmin(1)
    return nearest


def _follow_neighbours(
    blocks: list[tuple[int, int]], wanted: Floats, sources: _Sources, nearest: _Index
) -> list[Copy]:
    """Prefer the shift of the block above or before: longer stretches stay in one piece."""
    shifts: dict[tuple[int, int], tuple[int, int]] = {}
    copies: list[Copy] = []
    factor, extra = _SLACK
    for number, (row, column) in enumerate(blocks):
        best = int(nearest[number])
        cost = _distance(sources.features[best], wanted[number])
        for neighbour in ((row - _STRIDE, column), (row, column - _STRIDE)):
            down, across = shifts.get(neighbour, (-row - 1, 0))
            other = sources.at(row + down, column + across)
            if other >= 0:
                other_cost = _distance(sources.features[other], wanted[number])
                if other_cost <= cost * factor + extra:
                    best, cost = other, min(cost, other_cost)
        copy = Copy(row, column, int(sources.rows[best]), int(sources.columns[best]))
        shifts[row, column] = (copy.from_row - row, copy.from_column - column)
        copies.append(copy)
    return copies


def _distance(one: Floats, other: Floats) -> float:
    return float(((one - other) ** 2).sum())


def _paste(canvas: Image.Image, photo: Image.Image, copy: Copy, cell: int) -> None:
    """Copy one block with soft edges; *cell* is the side of a cell in pixels of both images."""
    row, column, from_row, from_column = (cell * at for at in copy)
    side = cell * BLOCK
    block = photo.crop((from_column, from_row, from_column + side, from_row + side))
    canvas.paste(block, (column, row), _feather(side, cell * (BLOCK - _STRIDE)))


@lru_cache(maxsize=4)  # one for the small image and one for the large
def _feather(side: int, soft: int) -> Image.Image:
    """Return a mask that rises over *soft* pixels from each edge."""
    ramp = np.ones(side)
    ramp[:soft] = (np.arange(soft) + 0.5) / soft
    ramp[-soft:] = ramp[soft - 1 :: -1]
    return Image.fromarray((np.outer(ramp, ramp) * 255 + 0.5).astype(np.uint8))
