"""Frame selection that reads a few evenly spaced frames of a segment."""

from torch import Tensor

from components.interfaces import FrameGroups, FrameSelection
from components.packed_frames import count_up


class LinspaceFrames(FrameSelection):
    """The reader reads at most ``max_frames`` of a segment, evenly spaced, with its first and last; not the others.

    Positions between frames are rounded down.

    Args:
        max_frames: Most frames to read of a segment.

    Raises:
        ValueError: ``max_frames`` is not positive.

    Source: the VideoLLaMB code, which reads at most 8 frames a segment.
    """

    def __init__(self, max_frames: int = 8) -> None:
        if max_frames < 1:
            raise ValueError(f"LinspaceFrames' max_frames must be at least 1, got {max_frames}")
        self.max_frames = max_frames

    def select(self, lengths: Tensor) -> FrameGroups:
        """Make one group of each chosen frame; see ``FrameSelection``."""
        num_picked = lengths.clamp_max(self.max_frames)
        step = count_up(num_picked)
        positions = step * (lengths - 1)[..., None] // (num_picked - 1).clamp_min(1)[..., None]
        return FrameGroups(positions, (step < num_picked[..., None]).long())
