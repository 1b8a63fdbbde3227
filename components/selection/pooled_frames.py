"""Frame selection that averages neighbouring frames of a long segment."""

from torch import Tensor

from components.interfaces import FrameGroups, FrameSelection
from components.packed_frames import count_up


class PooledFrames(FrameSelection):
    """The reader reads the means of at most ``max_frames`` equal slices of a segment, so every frame counts.

    Slices differ by at most one frame. A segment of at most ``max_frames`` frames is read frame by frame.

    Args:
        max_frames: Most slices, each of which costs the reader as much as a frame.

    Raises:
        ValueError: ``max_frames`` is not positive.
    """

    def __init__(self, max_frames: int = 8) -> None:
        if max_frames < 1:
            raise ValueError(f"PooledFrames' max_frames must be at least 1, got {max_frames}")
        self.max_frames = max_frames

    def select(self, lengths: Tensor) -> FrameGroups:
        """Make one group of each slice; see ``FrameSelection``."""
        num_slices = lengths.clamp_max(self.max_frames)[..., None]
        slice_index = count_up(num_slices.squeeze(-1))
        first = slice_index * lengths[..., None] // num_slices.clamp_min(1)
        end = (slice_index + 1) * lengths[..., None] // num_slices.clamp_min(1)
        return FrameGroups(first, (end - first) * (slice_index < num_slices))
