"""The plain engine: the photo's mirror images, dissolving into a soft blur.

It needs Pillow only and takes a fifth of a second. The result reads as a soft frame, never as
invented content.
"""

from __future__ import annotations

import math
from itertools import product

from PIL import Image, ImageFilter, ImageOps

from comet_async.geometry import Sides
from comet_async.sandbox._painting.layout import Place

# (distance from the photo, blur radius), both as shares of its short side. Each layer covers
# what lies beyond its distance, so the image loses its detail gradually.
_LAYERS = ((0.012, 0.008), (0.05, 0.03), (0.12, 0.08), (0.26, 0.18))

# What a variant changes: how soon the mirror image dissolves.
_REACH = (1.0, 0.55, 1.7, 0.3, 2.4, 0.8, 1.3, 0.45, 2.0)


def expand(photo: Image.Image, sides: Sides, *, variant: int = 0) -> Image.Image:
    """Return *photo* on the larger canvas, itself untouched.

    Args:
        photo: RGB image.
        sides: Pixels to add.
        variant: Which of nine images; they differ in how soon the mirror image dissolves.
    """
    place = Place.on_canvas(photo.size, sides)
    tiled = _tile(photo, sides)
    canvas = tiled.copy()
    for reach, radius in _LAYERS:
        distance = max(2, round(place.short_side * reach * _REACH[variant % len(_REACH)]))
        soft = _blurred(tiled, max(1.0, place.short_side * radius))
        canvas.paste(soft, mask=_beyond(tiled.size, place, distance))
    canvas.paste(photo, (place.left, place.top))
    return canvas


def _tile(photo: Image.Image, sides: Sides) -> Image.Image:
    """Return the canvas covered with mirror images, each joining its neighbours at the edge."""
    width, height = photo.size
    canvas = Image.new("RGB", (width + sides.left + sides.right, height + sides.up + sides.down))
    flipped = ImageOps.flip(photo)
    tiles = ((photo, ImageOps.mirror(photo)), (flipped, ImageOps.mirror(flipped)))
    rows = range(-math.ceil(sides.up / height), math.ceil(sides.down / height) + 1)
    columns = range(-math.ceil(sides.left / width), math.ceil(sides.right / width) + 1)
    for row, column in product(rows, columns):
        corner = (sides.left + column * width, sides.up + row * height)
        canvas.paste(tiles[row % 2][column % 2], corner)
    return canvas


def _blurred(image: Image.Image, radius: float) -> Image.Image:
    # On a reduced copy: a wide blur holds no detail that the reduction could lose.
    shrink = max(1, int(radius / 3))
    small = image.reduce(shrink).filter(ImageFilter.GaussianBlur(radius / shrink))
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _beyond(size: tuple[int, int], place: Place, distance: int) -> Image.Image:
    """Return a mask, soft at its edge, of what lies farther than *distance* from the photo."""
    mask = Image.new("L", size, 255)
    mask.paste(0, (
        place.left - distance, place.top - distance,
        place.right + distance, place.bottom + distance,
    ))  # fmt: skip
    shrink = max(1, distance // 4)
    small = mask.reduce(shrink).filter(ImageFilter.BoxBlur(distance * 0.7 / shrink))
    return small.resize(size, Image.Resampling.BILINEAR)
