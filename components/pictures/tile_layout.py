"""Shows a picture to the language model as the whole picture and the rows of its tiles."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import PictureLayout
from components.pictures.tile_grid import TILES_PER_SIDE, PictureSize, best_grid, covered_part

_LARGEST_RATIO = 1.1
"""Tiles are shrunk if a side has more than this many times the patches that it should have."""


class TileLayout(PictureLayout):
    """The visual tokens of LLaVA-OneVision for a picture: the whole picture, then the rows of its tiles.

    The patches of the tiles are joined to one grid, and rows and columns that show padding are removed. A grid with
    more patches than ``max_tiles`` tiles have is shrunk. A newline vector ends each of its rows. A picture that was not
    cut, because it is one of several, is shown as its patches and one newline vector.

    Args:
        dim: Width of a projected patch, E.
        tile_size: Height and width of a tile in pixels, ``data.pixels.size``.
        per_side: Most tiles along a side of the grid, ``data.pixels.tiles.per_side``.
        max_tiles: Tiles whose patches the language model sees at most, the ``9`` of the original's ``anyres_max_9``.

    Raises:
        ValueError: A value is not positive.

    Source: LLaVA-OneVision (Li et al., 2024), section 3.2; transformers' ``LlavaOnevisionModel``.
    """

    def __init__(self, dim: int, *, tile_size: int = 384, per_side: int = TILES_PER_SIDE, max_tiles: int = 9) -> None:
        super().__init__()
        if min(dim, tile_size, per_side, max_tiles) < 1:
            raise ValueError(
                f"tile_size, per_side and max_tiles must be positive, got {tile_size}, {per_side} and {max_tiles}"
            )
        self.dim = dim
        self.tile_size = tile_size
        self.per_side = per_side
        self.max_tiles = max_tiles

    def forward(self, patches: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
        """Arrange the patches of one picture.

        Args:
            patches: Projected patches, not pooled, of the whole picture and its tiles (row by row), ``[T, N, E]``; of
                a picture that was not cut, T is 1.
            size: Height and width of the picture before it was cut.
            newline: The learned vector that ends a line, ``[E]``.

        Returns:
            ``[Q, E]``.

        Raises:
            ValueError: The number of tiles or of patches is not what a picture of this size has.
        """
        newline = newline.to(patches)
        if len(patches) == 1:
            return torch.cat([patches[0], newline[None]])
        rows = self._shrunk(self._joined(patches[1:], PictureSize(*size)), patches.shape[1])  # [E, height, width]
        line_ends = newline[:, None, None].expand(-1, rows.shape[1], 1)
        lines = torch.cat([rows, line_ends], dim=2).flatten(1).T  # [height * (width + 1), E]
        return torch.cat([patches[0], lines])

    def _joined(self, tiles: Tensor, size: PictureSize) -> Tensor:
        """Join the patches of all tiles ``[T - 1, N, E]`` to one grid, without padding: ``[E, height, width]``."""
        grid = best_grid(size, self.tile_size, self.per_side)
        side = math.isqrt(tiles.shape[1])
        if len(tiles) != grid.num_tiles or side * side != tiles.shape[1]:
            raise ValueError(
                f"a picture of {size.height} x {size.width} pixels has {grid.num_tiles} tiles (tile_size "
                f"{self.tile_size}, per_side {self.per_side}) of a square number of patches, got {len(tiles)} tiles of "
                f"{tiles.shape[1]}: give data.pixels.size and data.pixels.tiles.per_side the values of the layout"
            )
        joined = tiles.reshape(grid.rows, grid.columns, side, side, -1).permute(4, 0, 2, 1, 3)
        joined = joined.reshape(-1, grid.rows * side, grid.columns * side)
        covered = covered_part(size, *joined.shape[1:])
        return joined[:, covered.top : covered.bottom, covered.left : covered.right]

    def _shrunk(self, joined: Tensor, num_patches: int) -> Tensor:
        """Make fewer patches of ``[E, height, width]`` if there are more than ``max_tiles`` tiles have."""
        height, width = joined.shape[1:]
        ratio = math.sqrt(height * width / (self.max_tiles * num_patches))
        if ratio <= _LARGEST_RATIO:
            return joined
        target = [int(height // ratio), int(width // ratio)]
        return functional.interpolate(joined[None], target, mode="bilinear", align_corners=False)[0]
