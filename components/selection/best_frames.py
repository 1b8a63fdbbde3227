"""Frames with the best scores."""

import torch
from torch import Tensor

from components.interfaces import FrameResampling, WholeVideo


class BestFrames(FrameResampling):
    """Reads the frames that fit the question best.

    Args:
        frames: Frames that are read; a shorter video is read as it is. Of equal ones the first are taken.

    Raises:
        ValueError: ``frames`` is not positive.

    Source: the choice of VideoITG (arXiv:2507.13353), NVlabs/VideoITG, ``infer.py``, commit 3b0d342, whose scores a
    trained model gives; here a ``FrameScorer``.
    """

    reads_scores = True

    def __init__(self, frames: int = 32) -> None:
        self.frames = at_least_one(self, frames)

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        return best_of(scores_of(self, video), self.frames)


def best_of(scores: Tensor, frames: int) -> Tensor:
    """Positions of the largest of T scores, ascending; of equal ones the first. All where T is not above ``frames``."""
    return scores.argsort(descending=True, stable=True)[:frames].sort().values


def evenly_spaced(num_frames: int, frames: int) -> Tensor:
    """Positions of ``frames`` different frames of T, evenly spread, ascending; all where T is not above ``frames``."""
    if num_frames <= frames:
        return torch.arange(num_frames)
    return (torch.arange(frames) * 2 + 1) * num_frames // (2 * frames)


def at_least_one(part: FrameResampling, frames: int) -> int:
    """The number of frames.

    Raises:
        ValueError: It is not positive.
    """
    if frames < 1:
        raise ValueError(f"{type(part).__name__}'s frames must be at least 1, got {frames}")
    return frames


def scores_of(part: FrameResampling, video: WholeVideo) -> Tensor:
    """The scores of a video's frames, ``[T]`` float64.

    Raises:
        ValueError: There are none.
    """
    if video.scores is None:
        raise ValueError(
            f"{type(part).__name__} chooses frames by their scores, and this video has none: set model.frame_scorer"
        )
    return video.scores.double()


def scaled(scores: Tensor) -> Tensor:
    """Scores from 0 for the least to 1 for the largest; all 0 where they are equal."""
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread > 0 else torch.zeros_like(scores)
