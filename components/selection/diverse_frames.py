"""Frames that are spread over the video, and some that are unlike them."""

import torch
from torch import Tensor

from components.interfaces import FrameResampling, WholeVideo
from components.selection.best_frames import at_least_one
from components.selection.determinantal_frames import features_of


class DiverseFrames(FrameResampling):
    """Reads evenly spread frames, and then, one after the other, the frame that is least like those chosen so far.

    Args:
        frames: Frames that are read; a shorter video is read as it is.
        even_share: Share of the frames that is spread evenly, rounded down, but at least one frame.

    Raises:
        ValueError: ``frames`` is not positive, or ``even_share`` is not from 0 to 1.

    Source: D-CoDe (arXiv:2510.08818), hukcc/D-CoDe (Apache-2.0), ``Dcode.py: _select_representative_frames``, commit
    e4436b5, with 15 of 50 frames. There a frame may be taken twice, and short videos repeat their first frame.
    """

    reads_features = True

    def __init__(self, frames: int = 16, even_share: float = 0.85) -> None:
        if not 0.0 <= even_share <= 1.0:
            raise ValueError(f"even_share must be from 0 to 1, got {even_share}")
        self.frames = at_least_one(self, frames)
        self.even_share = even_share

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        if video.num_frames <= self.frames:
            return torch.arange(video.num_frames)
        features = features_of(self, video)
        even = max(1, int(self.frames * self.even_share))
        chosen = torch.linspace(0, video.num_frames - 1, even, dtype=torch.float64).long()
        is_left = torch.ones(video.num_frames, dtype=torch.bool).index_fill(0, chosen, False)
        likeness = features @ features[chosen].sum(dim=0)  # to all chosen ones; their number is the same for each frame
        for _ in range(self.frames - even):
            least = int(likeness.masked_fill(~is_left, torch.inf).argmin())
            is_left[least] = False
            likeness = likeness + features @ features[least]
        return (~is_left).nonzero().flatten()
