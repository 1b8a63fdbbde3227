"""The frames of one medium as a model reads them."""

from typing import NamedTuple

from torch import Tensor


class SampleMedia(NamedTuple):
    """The frames of one video or image, or cached features of them."""

    frames: Tensor  # uint8 [T, 3, H, W], or features [T, rows, width]
    frame_ms: Tensor  # [T] int64, milliseconds after the start of the requested part
    picture_size: tuple[int, int] | None = None  # height, width of a picture whose frames are itself and its tiles

    @property
    def num_frames(self) -> int:
        """Frames of the video; 1 of a picture, also if it was cut into tiles."""
        return len(self.frames) if self.picture_size is None else 1
