"""Frame selection that reads every frame of a segment."""

from torch import Tensor

from components.interfaces import FrameGroups, FrameSelection
from components.packed_frames import count_up


class AllFrames(FrameSelection):
    """The reader reads every frame of a segment, each as a group of its own."""

    def select(self, lengths: Tensor) -> FrameGroups:
        """Make one group of each frame; see ``FrameSelection``."""
        positions = count_up(lengths)
        return FrameGroups(positions, (positions < lengths[..., None]).long())
