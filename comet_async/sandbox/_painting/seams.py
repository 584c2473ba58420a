"""Hide where the photo ends: level the light on both sides of its edge, then cross-fade."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from comet_async.sandbox._painting.layout import Place

Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

_STEP_LIMIT = 48  # grey levels: a larger step is an object's edge, not a difference of light
_STEP_REACH = 0.18  # of the photo's short side: where the correction has faded to a third
_LIGHT_GAP = 4  # cells: beyond it, no patch of the fill still touches the photo
_LIGHT_LIMIT = 24  # grey levels: the correction grows up to about two thirds of it, then shrinks
_LIGHT_REACH = 0.25  # of the photo's short side
_FADE = 0.012  # of the photo's short side: how far the cross-fade reaches
_SMOOTHING = 1.5  # cells along the edge
_STRIP = 256  # rows at a time, so that memory stays flat


class _Ring(NamedTuple):
    """Where around the photo the steps are measured.

    Attributes:
        place: The photo.
        cell: Side of a cell in pixels.
        gap: Pixels left out between the photo and the new area that it is compared with.
        band: Pixels compared on both sides.
    """

    place: Place
    cell: int
    gap: int
    band: int


def add_field(canvas: Pixels, field: Floats, cell: int, offset: tuple[int, int] = (0, 0)) -> None:
    """Add a coarse colour field to *canvas*, in place.

    Args:
        canvas: Rows × columns × 3.
        field: What to add, one value a channel for each cell.
        cell: Side of a cell in pixels.
        offset: Pixels (down, across) from the field's corner to the canvas's.
    """
    height, width = canvas.shape[:2]
    padded = np.pad(field, ((0, 2), (0, 2), (0, 0)), mode="edge")
    channels = [Image.fromarray(np.ascontiguousarray(padded[..., c])) for c in range(3)]
    down, across = offset
    for top in range(0, height, _STRIP):
        strip = canvas[top : top + _STRIP]
        upper, lower = (down + top) / cell, (down + top + len(strip)) / cell
        box = (across / cell, upper, (across + width) / cell, lower)
        for c, channel in enumerate(channels):
            large = channel.resize((width, len(strip)), Image.Resampling.BILINEAR, box=box)
            strip[..., c] = np.clip(np.asarray(large) + strip[..., c] + 0.5, 0, 255)


def level(canvas: Pixels, place: Place, cell: int) -> None:
    """Cancel the differences of light along the photo's edge, in place.

    First the step at the edge itself. Then what is left a few cells further out: a fill keeps
    the photo's light only as long as its patches touch the photo, and the dark corners of a
    vignette would show as a rectangle in the sky.
    """
    cell = max(2, cell)
    gap = _LIGHT_GAP * cell
    for ring in (_Ring(place, cell, 0, cell), _Ring(place, cell, gap, 2 * cell)):
        field = _spread(*_measure_steps(canvas, ring))
        add_field(canvas, field * _weight(field.shape, ring), cell)


def _measure_steps(canvas: Pixels, ring: _Ring) -> tuple[Floats, Floats]:
    """Return, on the cells along the edge, photo minus new area; and which cells those are."""
    rows, columns = (-(-side // ring.cell) for side in canvas.shape[:2])
    total = np.zeros((rows, columns, 3), np.float32)
    count = np.zeros((rows, columns, 1), np.float32)
    _measure_two_edges(canvas, ring, total, count)
    turned = ring._replace(place=ring.place.turned)
    _measure_two_edges(canvas.swapaxes(0, 1), turned, total.swapaxes(0, 1), count.swapaxes(0, 1))
    total /= np.maximum(count, 1)
    return total, np.minimum(count, 1, dtype=np.float32)


def _measure_two_edges(canvas: Pixels, ring: _Ring, total: Floats, count: Floats) -> None:
    """Add the steps along the photo's upper and lower edge to *total*, and count them."""
    (top, bottom, left, right), cell, gap, band = ring
    inside, lines = canvas[top:bottom, left:right], canvas[:, left:right]
    above = lines[max(0, top - gap - band) : max(0, top - gap)]
    below = lines[bottom + gap : bottom + gap + band]
    cells = slice(left // cell, (right - 1) // cell + 1)
    for inner, outer, row in (
        (inside[:band], above, (top - 1) // cell),
        (inside[-band:], below, bottom // cell),
    ):
        if len(outer):
            step = inner.mean(0, dtype=np.float32) - outer.mean(0, dtype=np.float32)
            total[row, cells] += _limit(_smooth(_bin(step, left, cell)), gap)
            count[row, cells] += 1


def _limit(step: Floats, gap: int) -> Floats:
    """Keep what may be a difference of light; far from the edge, be the more careful."""
    if gap:
        return step * np.exp(-((step / _LIGHT_LIMIT) ** 2))
    return np.clip(step, -_STEP_LIMIT, _STEP_LIMIT)


def _bin(line: Floats, start: int, cell: int) -> Floats:
    """Return the mean of *line* over each cell; its first pixel is pixel *start* of the grid."""
    cells = (np.arange(len(line)) + start) // cell
    first = np.flatnonzero(np.diff(cells, prepend=-1))
    sums = np.add.reduceat(line, first, axis=0)
    return (sums / np.diff(first, append=len(line))[:, None]).astype(np.float32)


def _smooth(line: Floats) -> Floats:
    """Return *line* after a Gaussian blur along it."""
    reach = int(3 * _SMOOTHING) + 1
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SMOOTHING) ** 2)
    weights /= weights.sum()
    padded = np.pad(line, ((reach, reach), (0, 0)), mode="edge")
    blurred = [np.convolve(channel, weights, "valid") for channel in padded.T]
    return np.stack(blurred, axis=1).astype(np.float32)


def _spread(values: Floats, known: Floats) -> Floats:
    """Fill the unknown cells from the known ones: averaged on ever coarser grids and back.

    The pull-push algorithm of Gortler et al., "The Lumigraph" (1996), section 3.5.
    """
    height, width = known.shape[:2]
    if min(height, width) <= 2:  # noqa: PLR2004 - too small to halve
        mean = values.sum((0, 1)) / max(1e-6, float(known.sum()))
        return np.broadcast_to(mean, values.shape).astype(np.float32)
    half = (-(-height // 2), -(-width // 2))
    sums, counts = _halve(values, half), _halve(known, half)
    share = np.minimum(1, 1 / np.maximum(counts, 1e-6), dtype=np.float32)
    coarse = _spread(sums * share, counts * share)
    filled = _double(coarse)[:height, :width]
    filled *= 1 - known
    filled += values
    return filled


def _halve(array: Floats, half: tuple[int, int]) -> Floats:
    """Return the sums over squares of two by two cells."""
    rows, columns = half
    odd = ((0, 2 * rows - array.shape[0]), (0, 2 * columns - array.shape[1]), (0, 0))
    squares = np.pad(array, odd).reshape(rows, 2, columns, 2, -1)
    sums: Floats = squares.sum((1, 3), dtype=np.float32)
    return sums


def _double(array: Floats) -> Floats:
    """Return *array* at twice its size, smoothly."""
    size = (2 * array.shape[1], 2 * array.shape[0])
    channels = [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(3)]
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels], -1)


def _weight(shape: tuple[int, ...], ring: _Ring) -> Floats:
    """Return, for each cell, how much of the correction applies: most at the gap's outer end."""
    (top, bottom, left, right), cell, gap, _ = ring
    down = _outside(shape[0], cell, top, bottom)
    across = _outside(shape[1], cell, left, right)
    distance = np.hypot(down[:, None], across[None])
    reach = (_LIGHT_REACH if gap else _STEP_REACH) * ring.place.short_side
    rise = np.minimum(1, distance / gap) if gap else 1
    weight: Floats = (rise * np.exp(-np.maximum(0, distance - gap) / reach)).astype(np.float32)
    return weight[..., None]


def _outside(count: int, cell: int, first: int, end: int) -> npt.NDArray[np.float64]:
    """Return how far the middle of each of *count* cells is from the stretch *first* … *end*."""
    at = (np.arange(count, dtype=np.float64) + 0.5) * cell
    distance: npt.NDArray[np.float64] = np.maximum(np.maximum(first - at, at - end), 0)
    return distance


def cross_fade(canvas: Pixels, photo: Pixels, place: Place) -> None:
    """Blend the first pixels outside the photo with its mirror image, in place."""
    reach = max(4, round(_FADE * place.short_side))
    top, bottom, left, right = place
    first_row, end_row = max(0, top - reach), min(len(canvas), bottom + reach)
    first_column, end_column = max(0, left - reach), min(canvas.shape[1], right + reach)
    for strip in (
        Place(first_row, top, first_column, end_column),
        Place(bottom, end_row, first_column, end_column),
        Place(top, bottom, first_column, left),
        Place(top, bottom, right, end_column),
    ):
        _fade_strip(canvas[strip.area], photo, place, strip, reach)


def _fade_strip(canvas: Pixels, photo: Pixels, place: Place, strip: Place, reach: int) -> None:
    """Blend *canvas*, which is the part at *strip*, with the mirror image of *photo*."""
    from_row, down = _mirrored(strip.top, strip.bottom, place.top, place.bottom)
    from_column, across = _mirrored(strip.left, strip.right, place.left, place.right)
    distance = np.hypot(down[:, None], across[None]) - 0.5
    weight = np.clip(1 - distance / reach, 0, 1)[..., None].astype(np.float32)
    mirror = photo[np.ix_(from_row, from_column)].astype(np.float32)
    canvas[:] = canvas + weight * (mirror - canvas) + 0.5


def _mirrored(
    start: int, stop: int, first: int, end: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return which line of the photo each canvas line mirrors, and its distance from the photo."""
    line, last = np.arange(start, stop) - first, end - first - 1
    distance = np.maximum(np.maximum(-line, line - last), 0)
    beyond = np.where(line > last, 2 * last + 1 - line, line)
    return np.clip(np.where(line < 0, -1 - line, beyond), 0, last), distance
