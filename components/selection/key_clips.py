"""Short clips around the moments that fit the question."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameResampling, WholeVideo
from components.selection.best_frames import at_least_one, evenly_spaced, scores_of
from components.selection.determinantal_frames import features_of, filled_up

_ROUNDS = 25  # of the clustering of times


class KeyClips(FrameResampling):
    """Reads clips of neighbouring frames around the peaks of the scores.

    The peaks between the valleys of the scores are the candidates. Where there are more than ``clips``, their times are
    clustered, and the best of every cluster stays. Each is read with as many neighbours as fit well and differ.

    Args:
        frames: Frames that are read; a shorter video is read as it is. Where clips have fewer, the best others fill up.
        clips: Most clips.
        redundancy: How much the mean similarity of the frames of a clip counts against it.
        length: How much its length counts for it.

    Raises:
        ValueError: A number is not positive.

    Source: F2C (arXiv:2510.02262); no official code was found. The published form also shows longer clips at a lower
    resolution, which is left out here: all frames have the same number of tokens, so a clip has at most
    ``frames / clips`` frames, rounded.
    """

    reads_scores = True
    reads_features = True

    def __init__(self, frames: int = 32, clips: int = 8, redundancy: float = 0.5, length: float = 0.05) -> None:
        if clips < 1:
            raise ValueError(f"clips must be at least 1, got {clips}")
        self.frames = at_least_one(self, frames)
        self.clips = min(clips, frames)
        self.redundancy = redundancy
        self.length = length

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        if video.num_frames <= self.frames:
            return torch.arange(video.num_frames)
        scores, features = scores_of(self, video), features_of(self, video)
        longest = max(1, round(self.frames / self.clips))
        chosen: list[int] = []
        for anchor in clip_anchors(scores, self.clips):
            clip = self._best_clip(anchor, scores, features, longest)
            chosen += [frame for frame in clip if frame not in chosen]
        return filled_up(chosen[: self.frames], scores, self.frames)

    def _best_clip(self, anchor: int, scores: Tensor, features: Tensor, longest: int) -> range:
        """The clip around a frame with the best value; of equal ones the shortest."""
        best, value = range(anchor, anchor + 1), -float("inf")
        for size in range(1, longest + 1):
            start = min(max(0, anchor - (size - 1) // 2), len(scores) - size)
            clip = range(start, start + size)
            frames = features[start : start + size]
            similar = 0.0 if size == 1 else float((frames @ frames.T).sum() - size) / (size * (size - 1))
            found = (
                float(scores[start : start + size].mean()) - self.redundancy * similar + self.length * size / longest
            )
            if found > value + 1e-12:
                best, value = clip, found
        return best


def clip_anchors(scores: Tensor, most: int) -> list[int]:
    """The frames around which clips are cut, ascending.

    Args:
        scores: Scores of T frames, ``[T]``.
        most: How many at most.
    """
    padded = functional.pad(scores, (1, 1), value=torch.inf)
    inner = (scores <= padded[:-2]) & (scores <= padded[2:])
    valleys = sorted({0, len(scores) - 1, *inner.nonzero().flatten().tolist()})
    basins = pairwise(valleys)
    peaks = sorted({start + int(scores[start : end + 1].argmax()) for start, end in basins}) or [0]
    if len(peaks) <= most:
        return peaks
    own = _clusters_of_times(torch.tensor(peaks, dtype=torch.float64), most)
    best: dict[int, int] = {}
    for peak, cluster in zip(peaks, own, strict=True):
        if cluster not in best or scores[peak] > scores[best[cluster]]:
            best[cluster] = peak
    return sorted(best.values())


def _clusters_of_times(times: Tensor, number: int) -> list[int]:
    """One-dimensional k-means, begun at the quantiles; clusters that lose all their members vanish."""
    centres = times[evenly_spaced(len(times), number)]
    for _ in range(_ROUNDS):
        own = (times[:, None] - centres).abs().argmin(dim=1)
        present = own.unique()
        centres = torch.stack([times[own == each].mean() for each in present])
    nearest: list[int] = (times[:, None] - centres).abs().argmin(dim=1).tolist()
    return nearest
