"""Which of the packed frames are cut into segments and read."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import FrameResampling, Segments
from components.packed_frames import locate_frames


class WatchedFrames(NamedTuple):
    """The frames that are cut into segments, video after video; on the host.

    Some packed frames may be missing, such as the tiles of a picture. Others may stand several times.
    """

    frame_index: Tensor  # [W] int64 into the packed frames
    frame_counts: Tensor  # [V] int64, watched frames of every video
    frame_number: Tensor  # [W] int64, position of each in its video

    def located(self, segments: Segments) -> Segments:
        """Segments of watched frames, as segments of packed frames."""
        number = self.frame_number[segments.middle_index].masked_fill(~segments.group_mask, 0)
        index = self.frame_index[segments.frame_index].masked_fill(~segments.frame_mask, 0)
        return Segments(index, segments.frame_mask, number)


def watched_frames(
    frame_counts: Tensor, picture_sizes: Tensor, resampling: FrameResampling | None
) -> WatchedFrames | None:
    """Find the frames that are cut into segments.

    Args:
        frame_counts: Frames of every video, ``[V]`` int64.
        picture_sizes: See ``VideoTextBatch``. Of a picture in tiles, the first frame is watched.
        resampling: Which frames of a video are watched; None for all.

    Returns:
        The frames; None if they are all the packed frames, each once.
    """
    in_tiles = (picture_sizes > 0).all(dim=1).tolist()
    if resampling is None and not any(in_tiles):
        return None
    first = torch.zeros(1, dtype=torch.int64)
    own = [
        first if is_picture else torch.arange(count) if resampling is None else resampling.frame_index(count)
        for count, is_picture in zip(frame_counts.tolist(), in_tiles, strict=True)
    ]
    number = torch.cat(own)
    counts = torch.tensor([len(each) for each in own])
    starts = frame_counts.cumsum(0) - frame_counts
    index = starts[locate_frames(counts, len(number)).video_index] + number
    return WatchedFrames(index, counts, number)
