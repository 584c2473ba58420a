"""Where the photo sits on its canvas, in pixels and in the coarser cells of a small copy."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs

from comet_async.geometry import Sides


class Place(NamedTuple):
    """The photo's rows and columns on a canvas; *bottom* and *right* are the first ones outside."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def on_canvas(cls, size: tuple[int, int], sides: Sides) -> Place:
        """Return the place of a photo of *size* (width, height) with *sides* around it."""
        width, height = size
        return cls(sides.up, sides.up + height, sides.left, sides.left + width)

    @property
    def turned(self) -> Place:
        """The same place with rows and columns exchanged."""
        return Place(self.left, self.right, self.top, self.bottom)

    @property
    def area(self) -> tuple[slice, slice]:
        """The photo's rows and columns as an array index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def short_side(self) -> int:
        """The photo's shorter side."""
        return min(self.bottom - self.top, self.right - self.left)


@attrs.frozen(kw_only=True)
class Grid:
    """The canvas in square cells, counted from the photo's top left corner.

    A whole number of pixels in a cell, and the photo's corner on a cell's corner: so a block of
    cells is exactly a block of the photo, with no drift of a part of a pixel.

    Attributes:
        cell: Side of a cell in pixels.
        photo: Width and height of the photo in pixels.
        sides: Rows and columns of the new area.
        offset: Pixels (down, across) from the grid's corner to the canvas's.
    """

    cell: int
    photo: tuple[int, int]
    sides: Sides
    offset: tuple[int, int]

    @classmethod
    def over(cls, size: tuple[int, int], sides: Sides, *, budget: int) -> Grid:
        """Return the finest grid of about *budget* cells for a photo of *size* (width, height)."""
        width, height = size
        area = (width + sides.left + sides.right) * (height + sides.up + sides.down)
        cell = max(1, math.ceil(math.sqrt(area / budget)))
        rows, columns = -(-height // cell), -(-width // cell)
        up, left = -(-sides.up // cell), -(-sides.left // cell)
        # The photo's last cells reach into the new area by what they hold beyond the photo.
        down = max(0, -(-(height + sides.down - rows * cell) // cell))
        right = max(0, -(-(width + sides.right - columns * cell) // cell))
        return cls(
            cell=cell,
            photo=size,
            sides=Sides(up=up, down=down, left=left, right=right),
            offset=(up * cell - sides.up, left * cell - sides.left),
        )

    @property
    def rows(self) -> int:
        """Rows of the photo; the last may be only partly photo."""
        return -(-self.photo[1] // self.cell)

    @property
    def columns(self) -> int:
        """Columns of the photo; the last may be only partly photo."""
        return -(-self.photo[0] // self.cell)

    @property
    def place(self) -> Place:
        """Where the photo's cells are."""
        return Place.on_canvas((self.columns, self.rows), self.sides)

    @property
    def height(self) -> int:
        """All rows."""
        return self.rows + self.sides.up + self.sides.down

    @property
    def width(self) -> int:
        """All columns."""
        return self.columns + self.sides.left + self.sides.right

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Width and height of the whole grid in pixels; it covers the canvas."""
        return self.width * self.cell, self.height * self.cell
