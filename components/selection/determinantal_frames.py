"""Frames that fit the question and differ from each other."""

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameResampling, WholeVideo
from components.selection.best_frames import at_least_one, best_of, scaled, scores_of
from components.selection.greedy_determinant import greedy_determinant

_WIDTHS = tuple(2.0**power for power in range(-3, 2))


class DeterminantalFrames(FrameResampling):
    """Reads frames that fit the question, and of similar ones one alone.

    Frames are chosen one after the other: each time the one that fits best and is least explained by those before, as a
    determinantal point process measures it. Where no frame differs any more, the best ones fill up.

    Args:
        frames: Frames that are read; a shorter video is read as it is.
        theta: From 0 to 1: how much fitting counts beside differing. None weighs each frame by its scaled score, so
            that the one that fits least is never chosen.

    Raises:
        ValueError: ``frames`` is not positive, or ``theta`` is not from 0 to below 1.

    Source: the selector of TimeSearch-R (arXiv:2511.05489), Time-Search/TimeSearch-R,
    ``key_frame_selector_v2.py: DppTimeSelector``, commit c894b51, where ``theta`` -1 is None here. No licence file was
    found; written from a description.
    """

    reads_scores = True
    reads_features = True

    def __init__(self, frames: int = 32, theta: float | None = None) -> None:
        if theta is not None and not 0.0 <= theta < 1.0:
            raise ValueError(f"theta must be from 0 to below 1, or null, got {theta}")
        self.frames = at_least_one(self, frames)
        self.theta = theta

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        if video.num_frames <= self.frames:
            return torch.arange(video.num_frames)
        scores, features = scores_of(self, video), features_of(self, video)
        weight = scaled(scores)
        if self.theta is not None:
            weight = (self.theta / (2.0 * (1.0 - self.theta)) * weight).exp()
        kernel = weight[:, None] * (features @ features.T) * weight
        return filled_up(greedy_determinant(kernel, self.frames).frames, scores, self.frames)


class SequentialDeterminantalFrames(FrameResampling):
    """Reads frames that fit the question and differ from those shortly before.

    The video is cut into pieces of equal length. Inside a piece frames are chosen as in ``DeterminantalFrames``,
    knowing the last frame of the pieces before. How many frames each piece gets is found by dynamic programming.
    Without pieces the whole video is one.

    Args:
        frames: Frames that are read; a shorter video is read as it is.
        piece: Frames of a piece; the last may be shorter. None for one piece.
        fit: How much fitting counts beside differing.
        as_published: Count the last frame of the pieces before in the score of every piece again, as the published code
            does. It makes many small steps look better than they are.

    Raises:
        ValueError: ``frames``, ``piece`` or ``fit`` is not positive.

    Source: MDP3 (arXiv:2501.02885), ``mdp3.py``, whose repository and licence are not known; written from a
    description. Its ``lambda`` 0.2 is ``fit`` 10 here (2 / lambda), and its default is one piece.
    """

    reads_scores = True
    reads_features = True

    def __init__(self, frames: int = 32, piece: int | None = 32, fit: float = 10.0, as_published: bool = False) -> None:
        if (piece is not None and piece < 1) or fit <= 0:
            raise ValueError(f"piece must be at least 1 or null and fit above 0, got {piece} and {fit}")
        self.frames = at_least_one(self, frames)
        self.piece = piece
        self.fit = fit
        self.as_published = as_published

    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames; see ``FrameResampling``."""
        if video.num_frames <= self.frames:
            return torch.arange(video.num_frames)
        scores, features = scores_of(self, video), features_of(self, video)
        kernel = gaussian_kernel(2.0 - 2.0 * features @ features.T)
        bonus = self.fit * gaussian_kernel(2.0 - 2.0 * scores).log()
        found = frames_of_pieces(kernel, bonus, self.frames, self.piece, counts_again=self.as_published)
        return filled_up(found, scores, self.frames)


def frames_of_pieces(
    kernel: Tensor, bonus: Tensor, frames: int, piece: int | None, *, counts_again: bool = False, known: int = 1
) -> list[int]:
    """Share frames between the pieces of a video so that their scores are largest together.

    Args:
        kernel: How similar T frames are, ``[T, T]`` float64.
        bonus: How well each fits, ``[T]``, see ``greedy_determinant``.
        frames: Frames to choose.
        piece: Frames of a piece; None for one piece.
        counts_again: See ``SequentialDeterminantalFrames``.
        known: Frames of the pieces before that a piece knows.

    Returns:
        The frames, ascending; fewer than ``frames`` where no other differs.
    """
    length = len(kernel)
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # frames so far -> score, frames
    for start in range(0, length, piece or length):
        candidates = range(start, min(start + (piece or length), length))
        after = dict(best)
        for count, (score, before) in best.items():
            given = before[-known:] if known else []
            known_score = _score_of(given, kernel, bonus)
            room = min(frames - count, len(candidates))
            chosen = greedy_determinant(kernel, room, bonus, candidates=candidates, given=given)
            for number, added in enumerate(chosen.scores, start=1):
                value = score + added - (0.0 if counts_again else known_score)
                if count + number not in after or value > after[count + number][0]:
                    after[count + number] = value, before + sorted(chosen.frames[:number])
        best = after
    return best[max(best)][1]


def gaussian_kernel(squared_distance: Tensor) -> Tensor:
    """Sum of Gaussians of five widths of a squared distance."""
    return torch.stack([(-squared_distance.clamp(min=0.0) / (2.0 * width)).exp() for width in _WIDTHS]).sum(dim=0)


def features_of(part: FrameResampling, video: WholeVideo) -> Tensor:
    """The features of a video's frames, scaled to length 1, ``[T, J]`` float64.

    Raises:
        ValueError: There are none.
    """
    if video.features is None:
        raise ValueError(f"{type(part).__name__} chooses frames by their features, and this video has none")
    return functional.normalize(video.features.double(), dim=1)


def filled_up(frames: list[int], scores: Tensor, most: int) -> Tensor:
    """Frames with the best of the others, ``most`` together, ascending."""
    chosen = torch.tensor(frames, dtype=torch.int64)
    left = scores.index_fill(0, chosen, -torch.inf)
    return torch.cat([chosen, best_of(left, most - len(frames))]).sort().values


def _score_of(given: list[int], kernel: Tensor, bonus: Tensor) -> float:
    """Score of frames that are there already."""
    if not given:
        return 0.0
    return float(torch.logdet(kernel[given][:, given]) + bonus[given].sum())
