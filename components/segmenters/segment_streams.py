"""Frame-by-frame forms of the segmenters: each closes segments while the video plays."""

import math

import torch
from torch import Tensor

from components.segmenters.depth import adjacent_similarity


class FixedLengthStream:
    """Closes a segment after each ``frames`` frames.

    Args:
        frames: Frames of a segment.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._num_frames = 0

    def push(self, cls: Tensor) -> None:
        """Count the next frame; its class vector ``[D]`` is not used."""
        self._num_frames += 1

    def declared(self) -> list[int]:
        """Last frame of every full segment, ascending; these are the offline boundaries."""
        return list(range(self._frames - 1, self._num_frames, self._frames))


class SceneTillingStream:
    """Closes segments from the past alone, by this causal rule of our own.

    - A gap is the step between two neighbouring frames. Its depth is final as soon as the similarity falls again behind
      it, because the rise to its right has then ended. Depths become final in the order of the gaps.
    - When a rise ends, each gap that became final is declared if its depth is strictly above mean + ``causal_alpha``
      unbiased standard deviations of all final depths of the stream, including itself.
    - With ``max_segment_frames``, a boundary is declared after the newest frame as soon as the open segment has that
      many frames. Gaps at or before a declared boundary are not declared any more.

    The offline form knows the whole video and may cut elsewhere. A push costs O(D), plus O(1) on average.

    Args:
        causal_alpha: Standard deviations above the mean from which a final depth is declared.
        max_segment_frames: Longest segment that may stay open; None for no limit.
    """

    def __init__(self, causal_alpha: float, max_segment_frames: int | None) -> None:
        self._max_segment_frames = max_segment_frames
        self._previous: Tensor | None = None  # [D], class vector of the newest frame
        self._num_gaps = 0
        self._newest_similarity = -math.inf
        self._left_peak = -math.inf  # highest similarity of the rise to the left of the newest gap
        self._open: list[tuple[int, float, float]] = []  # gap, its rise to the left and its similarity; not final yet
        self._final_depths = _RunningDeviation(causal_alpha)
        self._declared: list[int] = []

    def push(self, cls: Tensor) -> None:
        """Take the next frame's class vector ``[D]``.

        Raises:
            ValueError: ``cls`` is no vector, or its width differs from the frame before.
        """
        if cls.ndim != 1 or (self._previous is not None and cls.shape != self._previous.shape):
            expected = "[D]" if self._previous is None else list(self._previous.shape)
            raise ValueError(f"a stream takes one class vector {expected} at a time, got {list(cls.shape)}")
        if self._previous is not None:
            self._add_gap(float(adjacent_similarity(torch.stack([self._previous, cls]))))
        self._previous = cls.detach()
        self._declare_full_segment()

    def declared(self) -> list[int]:
        """Last frame of every closed segment, ascending; it only grows."""
        return list(self._declared)

    def _add_gap(self, similarity: float) -> None:
        before = self._newest_similarity
        # Written so that a NaN ends a rise on both sides.
        if not similarity >= before:
            self._end_rise(before)
        if not before >= similarity:
            self._left_peak = similarity
        self._open.append((self._num_gaps, self._left_peak - similarity, similarity))
        self._newest_similarity = similarity
        self._num_gaps += 1

    def _end_rise(self, right_peak: float) -> None:
        final = [(gap, rise + (right_peak - similarity)) for gap, rise, similarity in self._open]
        self._open.clear()
        for _, depth in final:
            self._final_depths.add(depth)
        for gap, depth in final:
            if self._final_depths.stands_out(depth) and gap > self._last_declared:
                self._declared.append(gap)

    def _declare_full_segment(self) -> None:
        newest = self._num_gaps  # frames are one more than gaps, and counted from 0
        if self._max_segment_frames is not None and newest - self._last_declared >= self._max_segment_frames:
            self._declared.append(newest)

    @property
    def _last_declared(self) -> int:
        return self._declared[-1] if self._declared else -1


class _RunningDeviation:
    """Mean and unbiased standard deviation of a growing list, in O(1) a value (Welford's update)."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self._count += 1
        difference = value - self._mean
        self._mean += difference / self._count
        self._squares += difference * (value - self._mean)

    def stands_out(self, value: float) -> bool:
        """Whether a value is strictly above mean + alpha standard deviations; never for fewer than two values."""
        if self._count < 2:
            return False
        return value > self._mean + self._alpha * math.sqrt(self._squares / (self._count - 1))
