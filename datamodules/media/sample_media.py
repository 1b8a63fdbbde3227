"""The frames of one medium as a model reads them."""

from typing import NamedTuple

from torch import Tensor

NO_PICTURE_SIZE = (0, 0)
"""Instead of height and width: for a video, and for a picture that is read as a video of one frame."""


class SampleMedia(NamedTuple):
    """The frames of one video or image, or cached features of them."""

    frames: Tensor  # uint8 [T, 3, H, W], or features [T, rows, width]
    frame_ms: Tensor  # [T] int64, milliseconds after the start of the requested part
    picture_size: tuple[int, int] = NO_PICTURE_SIZE  # height and width in its file, where ``data.pixels.tiles`` is set

    @property
    def num_frames(self) -> int:
        """Frames of the video; 1 of a picture, also if it was cut into tiles."""
        return len(self.frames) if self.picture_size == NO_PICTURE_SIZE else 1
