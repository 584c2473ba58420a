"""The better engine: PatchMatch on a small copy of the photo, rebuilt at full size.

PatchMatch (Barnes et al., SIGGRAPH 2009, https://gfx.cs.princeton.edu/pubs/Barnes_2009_PAR/)
fills a hole with patches that occur elsewhere in the image. Alone, on the full canvas, it is
slow and repeats faces and towers. Four things make it fast and plausible here:

* it works on a small copy, so its time hardly depends on the photo's size;
* a *guide* says roughly where each new cell should copy from: the place a mirror would show;
* the photo's centre is never copied from, since that is where the subject usually is;
* the small result is rebuilt from the photo's own full-size blocks (`blocks`), and the photo's
  edge is hidden (`seams`).

It invents nothing: everything new is copied from the photo and adjusted in colour.
"""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from comet_async.geometry import Sides
from comet_async.sandbox._painting import blocks, seams
from comet_async.sandbox._painting.layout import Grid, Place
from comet_async.sandbox._painting.seams import Floats, Pixels

Quality: TypeAlias = Literal["draft", "standard", "high"]
"""How fine the small copy is."""

# Cells of the small canvas. Above 50 000 images can't be told apart at a glance, below
# 25 000 structures get lumpy.
_BUDGET: dict[Quality, int] = {"draft": 25_000, "standard": 60_000, "high": 130_000}

_SEED = 1212  # the library's seed is global: one constant, and variety comes from the guide
_PATCH_RADIUS = 3
_CENTRE = 0.36  # half axes of the ellipse that is never copied from, in photo widths and heights
_GUIDE_WEIGHT = 0.02
_GUIDE_DEPTH = 0.4, 0.75  # how deep the guide reaches into the photo, vertically and across
_GUIDE_SCALE = 0.45  # the library takes 0 … 1 as a circle: stay below half of it
_WARP = 0.22, 0.65  # how far a variant moves the guide, vertically and across
_WARP_GROWS = 0.15  # of the photo's side: the distance at which a variant moves fully


def expand(
    photo: Image.Image, sides: Sides, *, variant: int = 0, quality: Quality = "standard"
) -> Image.Image:
    """Return *photo* on the larger canvas, itself untouched.

    The same input gives the same image on the same machine, in any thread.

    Args:
        photo: RGB image.
        sides: Pixels to add.
        variant: 0 for the plain image; any other number for another one.
        quality: How fine the small copy is; time and memory grow with it.
    """
    pixels = np.asarray(photo)
    grid = Grid.over(photo.size, sides, budget=_BUDGET[quality])
    canvas = _paint(pixels, sides, grid, variant)
    place = Place.on_canvas(photo.size, sides)
    canvas[place.area] = pixels
    seams.level(canvas, place, grid.cell)
    seams.cross_fade(canvas, pixels, place)
    canvas[place.area] = pixels
    return Image.fromarray(canvas)


def _paint(photo: Pixels, sides: Sides, grid: Grid, variant: int) -> Pixels:
    """Return the full-size canvas before its seams are hidden."""
    whole = _whole_cells(photo, grid)
    small = np.asarray(whole.reduce(grid.cell))
    centre = _centre(grid)
    fill = _inpaint(small, grid, centre, variant)
    if grid.cell == 1 or min(small.shape[:2]) < blocks.BLOCK:
        large = Image.fromarray(fill).resize(grid.pixel_size, Image.Resampling.BICUBIC)
        return _cut(large, photo, sides, grid)
    large, difference = blocks.rebuild(fill, whole, grid, _allowed(centre))
    canvas = _cut(large, photo, sides, grid)
    seams.add_field(canvas, difference, grid.cell, grid.offset)
    return canvas


def _cut(large: Image.Image, photo: Pixels, sides: Sides, grid: Grid) -> Pixels:
    """Return the part of the grid that is canvas."""
    down, across = grid.offset
    height = photo.shape[0] + sides.up + sides.down
    width = photo.shape[1] + sides.left + sides.right
    # Not by Image.crop, which takes a canvas of 100 megapixels for an attack.
    return np.asarray(large)[down : down + height, across : across + width].copy()


def _whole_cells(photo: Pixels, grid: Grid) -> Image.Image:
    """Return the photo with its last row and column repeated up to whole cells."""
    below = grid.rows * grid.cell - photo.shape[0]
    beyond = grid.columns * grid.cell - photo.shape[1]
    return Image.fromarray(np.pad(photo, ((0, below), (0, beyond), (0, 0)), mode="edge"))


def _inpaint(small: Pixels, grid: Grid, centre: npt.NDArray[np.bool_], variant: int) -> Pixels:
    """Return the small canvas, its new area filled."""
    # Not at the top: only `painter` may decide that this library is fit to be imported.
    import patchmatch  # noqa: PLC0415 - an extra

    canvas = np.zeros((grid.height, grid.width, 3), np.uint8)
    hole = np.ones((grid.height, grid.width), np.uint8)
    never = np.zeros((grid.height, grid.width), np.uint8)
    area = grid.place.area
    canvas[area], hole[area], never[area] = small, 0, centre
    patchmatch.set_random_seed(_SEED)
    return patchmatch.inpaint_regularity(
        canvas,
        hole,
        _guide(grid, variant),
        global_mask=never,
        patch_size=_PATCH_RADIUS,
        guide_weight=_GUIDE_WEIGHT,
    )


def _centre(grid: Grid) -> npt.NDArray[np.bool_]:
    """Return the photo's cells that lie in its central ellipse."""
    down = ((np.arange(grid.rows) + 0.5) / grid.rows - 0.5) / _CENTRE
    across = ((np.arange(grid.columns) + 0.5) / grid.columns - 0.5) / _CENTRE
    return down[:, None] ** 2 + across[None] ** 2 < 1


def _allowed(centre: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where a block may begin: where its middle is not in the centre."""
    allowed = np.ones(centre.shape, np.bool_)
    half = blocks.BLOCK // 2
    allowed[:-half, :-half] = ~centre[half:, half:]
    begins = allowed[: 1 - blocks.BLOCK, : 1 - blocks.BLOCK]
    return allowed if begins.any() else np.ones_like(allowed)


def _guide(grid: Grid, variant: int) -> Floats:
    """Return where in the photo, as shares of its sides, each cell should copy from."""
    sides = grid.sides
    rows = _mirror(grid.rows, sides.up, sides.down, _GUIDE_DEPTH[0])[:, None]
    columns = _mirror(grid.columns, sides.left, sides.right, _GUIDE_DEPTH[1])[None]
    if variant:
        # Python's generator is the same everywhere and stays so; numpy's streams may change.
        chance = random.Random(variant)  # noqa: S311 - no secret, only variety
        grows = np.minimum(1, _distance(grid) / _WARP_GROWS)
        rows = _fold(rows + _WARP[0] * grows * _waves(grid, chance))
        columns = _fold(columns + _WARP[1] * grows * _waves(grid, chance))
    guide = np.zeros((grid.height, grid.width, 3), np.float32)
    guide[..., 0], guide[..., 1] = rows * _GUIDE_SCALE, columns * _GUIDE_SCALE
    return guide


def _mirror(length: int, before: int, after: int, depth: float) -> npt.NDArray[np.float64]:
    """Return the share of the side that each line mirrors.

    It bounces between the near edge and *depth* of the photo: sky stays sky.
    """
    reach = max(1, int((length - 1) * depth))

    def bounce(distance: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return reach - np.abs(distance % (2 * reach) - reach)

    line, last = np.arange(-before, length + after), length - 1
    near_end = np.where(line > last, last - bounce(line - last), line)
    return np.where(line < 0, bounce(-line), near_end) / max(1, last)


def _distance(grid: Grid) -> npt.NDArray[np.float64]:
    """Return how far each cell is from the photo, in photo widths and heights."""
    top, bottom, left, right = grid.place
    rows, columns = np.arange(grid.height), np.arange(grid.width)
    down = np.maximum(np.maximum(top - rows, rows - (bottom - 1)), 0) / grid.rows
    across = np.maximum(np.maximum(left - columns, columns - (right - 1)), 0) / grid.columns
    distance: npt.NDArray[np.float64] = np.hypot(down[:, None], across[None])
    return distance


def _waves(grid: Grid, chance: random.Random) -> Floats:
    """Return a smooth random field, about -1 … 1."""
    knots = np.array([[chance.uniform(-1, 1) for _ in range(4)] for _ in range(3)], np.float32)
    smooth = Image.fromarray(knots).resize((grid.width, grid.height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def _fold(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bring shares back into 0 … 1 by reflection."""
    folded: npt.NDArray[np.float64] = 1 - np.abs(1 - np.abs(shares))
    return folded
