"""Frames with the best scores, spread over the video where no part of it stands out."""

import torch
from torch import Tensor

from components.interfaces import FrameResampling, WholeVideo
from components.selection.best_frames import at_least_one, best_of, evenly_spaced, scaled, scores_of


class AdaptiveFrames(FrameResampling):
    """Halves the video again and again, and takes the best frames of every part.

    A part is no further halved where its best frames stand out from the others. So the frames are the best ones of the
    whole video where the question is about one moment, and are spread over it where no moment stands out.

    Args:
        frames: Frames that are read; a shorter video is read as it is.
        threshold: A part stands out if the mean of its best scores is more than this above the mean of all its scores;
            scores are scaled to 0 to 1 before.
        most_halvings: How often the video is halved at most.
        as_published: Compute as the published code, see below.

    Raises:
        ValueError: ``frames`` is not positive, or ``most_halvings`` is negative.

    Source: AKS (arXiv:2502.21271), ncTimTang/AKS, ``frame_select.py``, commit 4667501; the repository has no licence
    file, so this is written from a description. There every part compares as many of its scores as frames are wanted of
    the whole video, and gives ``int(frames / 2 ** halvings)`` of them: fewer than 32 frames may give none, others lose
    the remainder, and equal scores give none. Here a part has a share of the frames, which it compares and gives, and
    equal scores give evenly spread frames.
    """

    reads_scores = True

    def __init__(
        self, frames: int = 64, threshold: float = 0.8, most_halvings: int = 5, as_published: bool = False
    ) -> None:
        if most_halvings < 0:
            raise ValueError(f"most_halvings must be at least 0, got {most_halvings}")
        self.frames = at_least_one(self, frames)
        self.threshold = threshold
        self.most_halvings = most_halvings
        self.as_published = as_published

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        scores = scores_of(self, video)
        if self.as_published:
            return published_frames(scores, self.frames, self.threshold, self.most_halvings)
        if float(scores.max()) == float(scores.min()):
            return evenly_spaced(len(scores), self.frames)
        return self._of_part(scaled(scores), 0, self.frames, self.most_halvings)

    def _of_part(self, scores: Tensor, start: int, frames: int, halvings: int) -> Tensor:
        """Frames of one part of a video, which begins at ``start``."""
        if frames >= len(scores):
            return start + torch.arange(len(scores))
        if frames < 2 or halvings == 0 or _stands_out(scores, frames, self.threshold):
            return start + best_of(scores, frames)
        half = len(scores) // 2
        # A half without room for its share leaves the rest to the other.
        first = max(min(frames // 2, half), frames - (len(scores) - half))
        parts = (scores[:half], start, first), (scores[half:], start + half, frames - first)
        return torch.cat([self._of_part(*part, halvings - 1) for part in parts])


def published_frames(scores: Tensor, frames: int, threshold: float, most_halvings: int) -> Tensor:
    """The choice of the published code, which may be empty.

    Args:
        scores: Scores of T frames, ``[T]``.
        frames: Frames that are wanted.
        threshold: See ``AdaptiveFrames``.
        most_halvings: See ``AdaptiveFrames``.

    Returns:
        Positions, ascending.
    """
    if len(scores) < frames:
        return torch.arange(len(scores))
    spread = scores.max() - scores.min()
    if not spread > 0:
        return torch.zeros(0, dtype=torch.int64)
    parts, leaves = [((scores - scores.min()) / spread, 0)], []
    for halvings in range(most_halvings + 1):
        halved = []
        for part, start in parts:
            if halvings == most_halvings or _stands_out(part, frames, threshold):
                leaves.append(start + best_of(part, frames // 2**halvings))
            else:
                half = len(part) // 2
                halved += [(part[:half], start), (part[half:], start + half)]
        parts = halved
    return torch.cat(leaves).sort().values


def _stands_out(scores: Tensor, frames: int, threshold: float) -> bool:
    if not len(scores):
        return False
    return bool(scores.sort(descending=True).values[:frames].mean() - scores.mean() > threshold)
