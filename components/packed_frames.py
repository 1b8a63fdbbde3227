"""Video and position of every packed frame; segmenters and frame selections share this arithmetic.

It runs on the CPU, where the counts are: an accelerator would be asked for them many times a step.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PackedVideos(NamedTuple):
    """The videos of a batch; one dummy frame if the batch has none."""

    frames: Tensor  # [F, ...]
    frame_counts: Tensor  # [V] int64, on the host
    frame_ms: Tensor  # [F] int64
    picture_sizes: Tensor  # [V, 2] int64, on the host; see ``VideoTextBatch``


class FrameLocations(NamedTuple):
    """The video of every packed frame and its position in that video, on the CPU."""

    video_index: Tensor  # [F] int64
    position: Tensor  # [F] int64, 0 at the first frame of every video


def locate_frames(frame_counts: Tensor, num_frames: int) -> FrameLocations:
    """Find the video and the position of every packed frame.

    Args:
        frame_counts: Frames of every video, ``[V]`` int64.
        num_frames: Packed frames, F.

    Returns:
        The locations, on the CPU, also for counts that a strategy has moved to a device.

    Raises:
        ValueError: The counts do not sum to F, so every later index would point into the wrong video.
    """
    frame_counts = frame_counts.cpu()
    total = int(frame_counts.sum())
    if total != num_frames:
        raise ValueError(
            f"frame_counts {frame_counts.tolist()} sum to {total}, but {num_frames} frames are packed: "
            "give the frame_counts that belong to these frames"
        )
    videos = torch.arange(frame_counts.shape[0])
    video_index = torch.repeat_interleave(videos, frame_counts, output_size=num_frames)
    first_frame = frame_counts.cumsum(0) - frame_counts  # [V]
    position = torch.arange(num_frames) - first_frame[video_index]
    return FrameLocations(video_index, position)


def count_up(counts: Tensor) -> Tensor:
    """0, 1, 2, ... up to the largest count, one row for every entry of ``counts``.

    Args:
        counts: Any shape ``[...]``, int64.

    Returns:
        ``[..., max(counts)]`` int64.
    """
    largest = int(counts.max()) if counts.numel() else 0
    return torch.arange(largest, device=counts.device).expand(*counts.shape, largest)
