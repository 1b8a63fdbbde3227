"""Into which grid of square tiles a picture is cut, and which part of that grid the picture covers.

A picture is scaled with its ratio kept, padded to the size of the grid, and cut. The floats are rounded as LLaVA-NeXT
rounds them, because a picture of one size must give the same grid there and here.

Source: LLaVA-NeXT's pictures of any resolution, as in transformers' ``LlavaOnevisionImageProcessor``.
"""

import math
from typing import NamedTuple

TILES_PER_SIDE = 6
"""Most tiles along a side of a picture, where nothing else is set; as in LLaVA-OneVision's published models."""

_DIGITS = 7
"""Decimals to which a scaled side is rounded before its fraction is cut off: 2 that came out as 1.99999999 stays 2."""


class TileGrid(NamedTuple):
    """A grid of square tiles."""

    rows: int
    columns: int

    @property
    def num_tiles(self) -> int:
        """Tiles of the grid."""
        return self.rows * self.columns


class PictureSize(NamedTuple):
    """Height and width, in pixels or in patches."""

    height: int
    width: int


class Covered(NamedTuple):
    """The part of a padded grid that shows the picture: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    bottom: int  # the first row after it
    left: int
    right: int  # the first column after it


def best_grid(size: PictureSize, tile_size: int, per_side: int) -> TileGrid:
    """Choose the grid that shows most pixels of a picture and, of several, the one that wastes fewest.

    Args:
        size: Of the picture, in pixels.
        tile_size: Height and width of a tile, in pixels.
        per_side: Most tiles along a side of the grid.
    """
    grids = [TileGrid(rows, columns) for rows in range(1, per_side + 1) for columns in range(1, per_side + 1)]

    def shown_and_unused(grid: TileGrid) -> tuple[int, int]:
        height, width = grid.rows * tile_size, grid.columns * tile_size
        scale = min(width / size.width, height / size.height)
        shown = min(int(size.width * scale) * int(size.height * scale), size.width * size.height)
        return shown, shown - height * width

    return max(grids, key=shown_and_unused)  # of equal ones the first


def scaled_to_grid(size: PictureSize, grid: TileGrid, tile_size: int) -> PictureSize:
    """Height and width of a picture that is scaled to fit into the grid, in pixels."""
    height, width = grid.rows * tile_size, grid.columns * tile_size
    by_width, by_height = width / size.width, height / size.height
    if by_width < by_height:
        return PictureSize(min(math.ceil(size.height * by_width), height), width)
    return PictureSize(height, min(math.ceil(size.width * by_height), width))


def covered_part(size: PictureSize, height: int, width: int) -> Covered:
    """Which rows and columns of a padded grid show the picture.

    Args:
        size: Of the picture.
        height: Rows of the grid, in patches.
        width: Columns of the grid, in patches.
    """
    if size.width / size.height > width / height:
        unused = (height - _scaled(size.height, width / size.width)) // 2
        return Covered(unused, height - unused, 0, width)
    unused = (width - _scaled(size.width, height / size.height)) // 2
    return Covered(0, height, unused, width - unused)


def _scaled(side: int, scale: float) -> int:
    return int(round(side * scale, _DIGITS))
