"""Frames drawn from the distribution of the scores, without chance."""

import torch
from torch import Tensor

from components.interfaces import FrameResampling, WholeVideo
from components.selection.best_frames import at_least_one, best_of, evenly_spaced, scaled, scores_of


class FramesByShare(FrameResampling):
    """Reads more frames where the scores are high, and some where they are low.

    The scores are seen as a distribution over the frames. Its quantiles at evenly spread shares are read, so that each
    frame stands for the same share of the scores.

    Args:
        frames: Frames that are read; a shorter video is read as it is.
        power: The scores, scaled to 0 to 1, are raised to this power: above 1 the best frames get more.
        as_published: Compute as the published code, in which a frame may be drawn several times and equal scores give
            the first frame alone. Otherwise the best frames not drawn yet fill up, and equal scores are spread evenly.

    Raises:
        ValueError: ``frames`` or ``power`` is not positive.

    Source: BOLT (arXiv:2503.21483), sming256/BOLT (MIT), ``select_frames.py: inverse_transform_sampling``, commit
    8a9ba45, with power 3 in its demo.
    """

    reads_scores = True

    def __init__(self, frames: int = 32, power: float = 1.0, as_published: bool = False) -> None:
        if power <= 0:
            raise ValueError(f"power must be above 0, got {power}")
        self.frames = at_least_one(self, frames)
        self.power = power
        self.as_published = as_published

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        scores = scores_of(self, video)
        if self.as_published:
            return quantiles(scores, self.frames, self.power)
        if len(scores) <= self.frames:
            return torch.arange(len(scores))
        if float(scores.max()) == float(scores.min()):
            return evenly_spaced(len(scores), self.frames)
        drawn = quantiles(scores, self.frames, self.power).unique()
        left = scores.index_fill(0, drawn, -torch.inf)
        return torch.cat([drawn, best_of(left, self.frames - len(drawn))]).sort().values


def quantiles(scores: Tensor, frames: int, power: float) -> Tensor:
    """Frames at the shares ``1 / frames`` to ``1 - 1 / frames`` of the scores, ascending; one may stand several times.

    Args:
        scores: Scores of T frames, ``[T]`` float64.
        frames: How many.
        power: See ``FramesByShare``.
    """
    weights = scaled(scores) ** power
    if not weights.sum() > 0:
        return torch.zeros(frames, dtype=torch.int64)
    shares = weights.cumsum(0) / weights.sum()
    wanted = torch.linspace(1 / frames, 1 - 1 / frames, frames, dtype=torch.float64)
    return torch.searchsorted(shares, wanted).clamp(max=len(scores) - 1)
