"""SceneTilling: cuts a video where the class vectors of neighbouring frames differ."""

import torch
from torch import Tensor

from components.interfaces import Segmenter
from components.packed_frames import locate_frames
from components.segmenters.depth import above_deviation, adjacent_similarity, deepest, depth_scores
from components.segmenters.segment_streams import SceneTillingStream

_TOP_K_CAUSAL_ALPHA = 0.5  # what the original's streaming demo uses


class SceneTilling(Segmenter):
    """Cuts at the deepest valleys of the similarity between neighbouring frames.

    A *gap* is the step between two neighbouring frames; its depth says how deep a valley of similarity it is.

    - ``k``, the top-k form: cuts at the k deepest gaps, so k + 1 segments, or fewer where a video has fewer gaps.
    - ``alpha``, the threshold form: cuts at every gap whose depth is strictly above mean + alpha unbiased standard
      deviations of the video's depths.

    Of equally deep gaps the earlier is cut. A video of one frame is one segment. All videos of a batch are cut at once,
    in time linear in the longest video. The similarities are computed on the device of the class vectors and copied to
    the CPU once; the cuts are chosen there.

    Args:
        k: Cuts per video (top-k form).
        alpha: Standard deviations above the mean depth (threshold form).
        max_cuts: Threshold form only: keep this many of the deepest cuts; the original keeps 15. None keeps all.
        max_segment_frames: Split longer segments evenly after the cuts, into as few parts as possible; bounds time and
            memory of a recurrent step. Not in the paper. None splits nothing.
        causal_alpha: Streaming only: deviations above the mean from which a boundary is declared. None takes ``alpha``,
            or 0.5 in the top-k form, because the k deepest gaps of an unfinished video are unknown.

    Raises:
        ValueError: Not exactly one of ``k`` and ``alpha`` is given, or a number is out of its range.

    Source: VideoLLaMB (arXiv:2409.01071); ``max_segment_frames`` and the causal rule are ours.
    """

    def __init__(
        self,
        k: int | None = None,
        alpha: float | None = None,
        max_cuts: int | None = None,
        max_segment_frames: int | None = None,
        causal_alpha: float | None = None,
    ) -> None:
        if (k is None) == (alpha is None):
            raise ValueError(f"SceneTilling takes exactly one of k and alpha, got k={k}, alpha={alpha}")
        if k is not None and k < 0:
            raise ValueError(f"SceneTilling's k counts cuts and must be at least 0, got {k}")
        if k is not None and max_cuts is not None:
            raise ValueError(f"SceneTilling's max_cuts caps the alpha form; with k={k} remove max_cuts={max_cuts}")
        if max_cuts is not None and max_cuts < 0:
            raise ValueError(f"SceneTilling's max_cuts must be at least 0, got {max_cuts}")
        if max_segment_frames is not None and max_segment_frames < 1:
            raise ValueError(f"SceneTilling's max_segment_frames must be at least 1, got {max_segment_frames}")
        self.k = k
        self.alpha = alpha
        self.max_cuts = max_cuts
        self.max_segment_frames = max_segment_frames
        if causal_alpha is None:
            causal_alpha = _TOP_K_CAUSAL_ALPHA if alpha is None else alpha
        self.causal_alpha = causal_alpha

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments of every video.

        Args:
            cls: Class vectors of the packed frames, ``[F, D]``, any float dtype; compared in float32.
            frame_counts: Frames of every video, ``[V]`` int64, each at least 1.

        Returns:
            Segment of every frame in its video, ``[F]`` int64 on the CPU.

        Raises:
            ValueError: ``cls`` is not two-dimensional, or the counts do not sum to F.
        """
        if cls.ndim != 2:
            raise ValueError(f"SceneTilling expects class vectors [F, D], got shape {list(cls.shape)}")
        num_frames = cls.shape[0]
        frame_counts = frame_counts.cpu()
        video_index, position = locate_frames(frame_counts, num_frames)
        if num_frames == 0:
            return position
        similarity = torch.full((frame_counts.shape[0], int(frame_counts.max())), -torch.inf)  # [V, T]
        within_video = position[1:] > 0
        # The frame behind a video's last one belongs to another video: that entry stays padding.
        similarity[video_index[:-1], position[:-1]] = torch.where(within_video, adjacent_similarity(cls), -torch.inf)
        return self.segment_rows(similarity[:, :-1], frame_counts)[video_index, position]

    def stream(self) -> SceneTillingStream:
        """Start to segment one video frame by frame, by the causal rule of ``SceneTillingStream``."""
        return SceneTillingStream(self.causal_alpha, self.max_segment_frames)

    def segment_rows(self, similarity: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments from similarity curves.

        Args:
            similarity: Similarity of every gap, ``[V, T - 1]`` float32 for videos of at most T frames; ``-inf`` at
                padding.
            frame_counts: Frames of every video, ``[V]`` int64.

        Returns:
            Segment of every frame, ``[V, T]`` int64; unspecified beyond a video's frames.
        """
        starts = torch.ones(similarity.shape[0], similarity.shape[1] + 1, dtype=torch.bool, device=similarity.device)
        starts[:, 1:] = self.cuts(depth_scores(similarity))
        if self.max_segment_frames is not None:
            starts = _split_evenly(starts, frame_counts, self.max_segment_frames)
        return starts.cumsum(dim=1) - 1

    def cuts(self, depth: Tensor) -> Tensor:
        """Choose the gaps to cut at.

        Args:
            depth: Depths, ``[V, G]``; ``-inf`` at padding.

        Returns:
            ``[V, G]`` bool; a cut at gap ``i`` ends a segment after frame ``i``.
        """
        if self.k is not None:
            return deepest(depth, self.k)
        assert self.alpha is not None
        chosen = above_deviation(depth, self.alpha)
        if self.max_cuts is None:
            return chosen
        return deepest(depth.masked_fill(~chosen, -torch.inf), self.max_cuts)


def _split_evenly(starts: Tensor, frame_counts: Tensor, max_frames: int) -> Tensor:
    """Split long segments into equal parts.

    A segment of n frames becomes ``ceil(n / max_frames)`` parts whose lengths differ by at most one.

    Args:
        starts: Where segments begin, ``[V, T]`` bool, True at every video's first frame.
        frame_counts: Frames of every video, ``[V]`` int64.
        max_frames: Longest segment allowed.

    Returns:
        Where the parts begin, ``[V, T]`` bool.
    """
    frames = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    first = torch.where(starts, frames, 0).cummax(dim=1).values
    next_starts = frame_counts[:, None].expand(starts.shape).clone()
    next_starts[:, :-1] = torch.where(starts[:, 1:], frames[:, 1:], next_starts[:, :-1]).minimum(next_starts[:, :-1])
    end = next_starts.flip(1).cummin(dim=1).values.flip(1)  # one past the segment's last frame
    length = (end - first).clamp_min(1)
    num_parts = (length + max_frames - 1) // max_frames
    part = (frames - first) * num_parts // length
    starts = starts.clone()
    starts[:, 1:] |= part[:, 1:] != part[:, :-1]
    return starts
