"""Where every packed frame belongs: the arithmetic that segmenters and gathering share."""

from typing import NamedTuple

import torch
from torch import Tensor


class FrameLocations(NamedTuple):
    """The video of every packed frame and its place in that video."""

    video_index: Tensor  # [F] int64
    position: Tensor  # [F] int64, 0 at the first frame of every video


def locate_frames(frame_counts: Tensor, num_frames: int) -> FrameLocations:
    """Find the video and the position of every packed frame.

    Args:
        frame_counts: Frames of every video, ``[V]`` int64.
        num_frames: Packed frames, F.

    Returns:
        The locations, on the device of ``frame_counts``.

    Raises:
        ValueError: The counts do not sum to F; every later index would point into the wrong video.
    """
    total = int(frame_counts.sum())
    if total != num_frames:
        raise ValueError(
            f"frame_counts {frame_counts.tolist()} sum to {total}, but {num_frames} frames are packed: "
            "the batch's frame_counts and frames are out of step"
        )
    videos = torch.arange(frame_counts.shape[0], device=frame_counts.device)
    video_index = torch.repeat_interleave(videos, frame_counts, output_size=num_frames)
    first_frame = frame_counts.cumsum(0) - frame_counts  # [V]
    position = torch.arange(num_frames, device=frame_counts.device) - first_frame[video_index]
    return FrameLocations(video_index, position)
