"""Frame resampling that gives every longer video full segments."""

import torch
from torch import Tensor

from components.interfaces import FrameResampling, WholeVideo


class SegmentMultiples(FrameResampling):
    """Reads as many frames as full segments have, at least two segments of them.

    A video with fewer frames than a segment is read as it is. Of every other one the frames at
    ``linspace(0, frames of the video - 1, K)``, rounded down, are read, where K is the largest multiple of ``frames``
    that the video has, but at least twice ``frames``: then some frames stand twice.

    Args:
        frames: Frames of a segment.

    Raises:
        ValueError: ``frames`` is not positive.

    Source: the Memory-Augmented VLM code, with 32 frames.
    """

    def __init__(self, frames: int = 32) -> None:
        if frames < 1:
            raise ValueError(f"SegmentMultiples' frames must be at least 1, got {frames}")
        self.frames = frames

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        num_frames = video.num_frames
        if num_frames < self.frames:
            return torch.arange(num_frames)
        wanted = max(2 * self.frames, num_frames // self.frames * self.frames)
        # In float32 and rounded down, as the code does: exact fractions would give other frames now and then.
        return torch.linspace(0, num_frames - 1, wanted, dtype=torch.float32).long()
