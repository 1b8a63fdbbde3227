"""Cuts pictures into tiles, so that the encoder sees more of them than one small square; as LLaVA-OneVision does.

A picture that is the only medium of its sample becomes several frames: the whole picture, stretched to a square, and
then its tiles, row by row. A picture beside other media becomes one frame: it is padded to a square with grey.

Source: LLaVA-OneVision (Li et al., 2024), section 3.2; transformers' ``LlavaOnevisionImageProcessor``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from components.pictures.tile_grid import TILES_PER_SIDE, PictureSize, best_grid, scaled_to_grid
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.resizing import resized

_GREY = 127
"""SigLIP's mean pixel, as 8 bits: the encoder sees it as 0."""


@dataclass(frozen=True)
class PictureTiles:
    """How pictures are cut into tiles of ``data.pixels.size``. They are not augmented.

    Args:
        per_side: Most tiles along a side: the grid of a picture has 1 to ``per_side`` rows and as many columns.

    Raises:
        ValueError: ``per_side`` is not positive.
    """

    per_side: int = TILES_PER_SIDE

    def __post_init__(self) -> None:
        if self.per_side < 1:
            raise ValueError(f"data.pixels.tiles.per_side must be positive, got {self.per_side}")

    def frame_size(self, tile_size: int, max_pixels: int) -> FrameSize:
        """The size at which pictures are decoded: that of the largest grid."""
        return FrameSize(max_pixels, self.per_side * tile_size, "longer")

    def most_frames(self, size: tuple[int, int] | None, tile_size: int) -> int:
        """Frames that a picture becomes; the most that one can become if its height and width are not known."""
        return 1 + (
            self.per_side**2 if size is None else best_grid(PictureSize(*size), tile_size, self.per_side).num_tiles
        )


def whole_and_tiles(picture: Tensor, size: PictureSize, tile_size: int, per_side: int) -> Tensor:
    """Cut a picture that is the only medium of its sample.

    Args:
        picture: uint8 ``[1, 3, h, w]``, as it was decoded.
        size: Height and width in its file, which fix the grid.
        tile_size: Height and width of a tile in pixels.
        per_side: Most tiles along a side.

    Returns:
        uint8 ``[1 + tiles, 3, tile_size, tile_size]``: the whole picture, stretched, and its tiles, row by row.
    """
    grid = best_grid(size, tile_size, per_side)
    scaled = resized(picture, scaled_to_grid(size, grid, tile_size))
    padded = v2.functional.center_crop(scaled, [grid.rows * tile_size, grid.columns * tile_size])  # pads with black
    tiles = padded.reshape(3, grid.rows, tile_size, grid.columns, tile_size).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.cat([resized(picture, PictureSize(tile_size, tile_size)), tiles])


def padded_whole(picture: Tensor, tile_size: int) -> Tensor:
    """Pad a picture beside other media to a square, and scale it: uint8 ``[1, 3, tile_size, tile_size]``."""
    height, width = picture.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    borders = [left, top, side - width - left, side - height - top]
    return resized(v2.functional.pad(picture, borders, fill=_GREY), PictureSize(tile_size, tile_size))
