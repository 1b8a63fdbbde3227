"""The frames of one medium as a model reads them."""

from typing import NamedTuple

from torch import Tensor


NO_PICTURE_SIZE = (0, 0)
"""Stands for height and width of a video, and of a picture that is read as a video of one frame."""


class SampleMedia(NamedTuple):
    """The frames of one video or image, or cached features of them."""

    frames: Tensor  # uint8 [T, 3, H, W], or features [T, rows, width]
    frame_ms: Tensor  # [T] int64, milliseconds after the start of the requested part
    picture_size: tuple[int, int] = NO_PICTURE_SIZE  # of a picture read as tiles, see ``datamodules.media.picture_tiles``
