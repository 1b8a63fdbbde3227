"""The frames of one medium as a model reads them."""

from typing import NamedTuple

from torch import Tensor


class SampleMedia(NamedTuple):
    """The frames of one video or image, or cached features of them."""

    frames: Tensor  # uint8 [T, 3, H, W], or features [T, rows, width]
    frame_ms: Tensor  # [T] int64, milliseconds after the start of the requested part
    picture_size: tuple[int, int] | None = None  # height, width of a picture whose frames are itself and its tiles
