"""Cuts a video where neighbouring frames are least similar, and wherever they are not similar enough."""

import torch
from torch import Tensor

from components.interfaces import Segmenter
from components.packed_frames import locate_frames
from components.segmenters.depth import adjacent_similarity, deepest


class DynamicCuts(Segmenter):
    """Cuts between the least similar neighbouring frames, and between all that are less similar than a threshold.

    So a quiet video has a fixed number of segments, and a lively one has more. The least similar ones of a video are
    known when it has ended, so it cannot stream. Of equally similar ones the earlier are cut.

    Args:
        num_segments: Segments that a video has at least, if it has as many frames.
        threshold: Neighbours with a lower cosine similarity of their class vectors are always cut apart.

    Raises:
        ValueError: ``num_segments`` is not positive.

    Source: DySeg of FastVID (arXiv:2503.11187), LunarShen/FastVID (MIT),
    ``fastvid_llavaonevision/.../language_model/modeling_qwen2.py``, commit a40a109. There a video needs as many frames
    as segments.
    """

    def __init__(self, num_segments: int = 8, threshold: float = 0.9) -> None:
        if num_segments < 1:
            raise ValueError(f"DynamicCuts's num_segments must be at least 1, got {num_segments}")
        self.num_segments = num_segments
        self.threshold = threshold

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments.

        Args:
            cls: Class vectors of the packed frames, ``[F, D]``.
            frame_counts: Frames of every video, ``[V]`` int64.

        Returns:
            Segment of every frame in its video, ``[F]`` int64 on the CPU.

        Raises:
            ValueError: The counts do not sum to F.
        """
        frame_counts = frame_counts.cpu()
        video, position = locate_frames(frame_counts, cls.shape[0])
        if not len(position):
            return position
        difference = torch.full((len(frame_counts), int(frame_counts.max())), -torch.inf)  # [V, T]
        # The frame behind a video's last one belongs to another video: that entry stays padding.
        within_video = position[1:] > 0
        difference[video[:-1], position[:-1]] = torch.where(within_video, -adjacent_similarity(cls), -torch.inf)
        gaps = difference[:, :-1]
        starts = torch.zeros(difference.shape, dtype=torch.bool)
        starts[:, 1:] = deepest(gaps, self.num_segments - 1) | (gaps > -self.threshold)
        return starts.cumsum(dim=1)[video, position]
