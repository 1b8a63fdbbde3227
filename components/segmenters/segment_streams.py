"""Frame-by-frame forms of the segmenters: each closes segments while the video plays."""

import math
from array import array
from dataclasses import dataclass

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

    def declared(self, first: int = 0) -> list[int]:
        """Last frame of every full segment from ``first`` on, ascending; these are the offline boundaries."""
        return list(range((first + 1) * self._frames - 1, self._num_frames, self._frames))


class SceneTillingStream:
    """Closes segments from the past alone, by this causal rule of our own.

    - A gap is the step between two neighbouring frames. Its depth is final as soon as the similarity falls again behind
      it, because the rise to its right has then ended. Depths become final in the order of the gaps.
    - When a rise ends, each gap that became final is declared if its depth is strictly above mean + ``causal_alpha``
      unbiased standard deviations of all final depths of the stream, including itself.
    - With ``max_segment_frames``, a boundary is declared after the newest frame as soon as the open segment has that
      many frames. Gaps at or before a declared boundary are not declared any more.

    The offline form knows the whole video and may cut elsewhere. A push costs O(D), plus O(1) on average. The stream
    holds the open gaps of the open segment, equal neighbours as one entry, and 8 bytes for every boundary. Open gaps
    that cannot be declared any more are held as their mean and deviation.

    Args:
        causal_alpha: Standard deviations above the mean from which a final depth is declared.
        max_segment_frames: Longest segment that may stay open; None for no limit.
    """

    def __init__(self, causal_alpha: float, max_segment_frames: int | None) -> None:
        self._causal_alpha = causal_alpha
        self._max_segment_frames = max_segment_frames
        self._previous: Tensor | None = None  # [D], class vector of the newest frame
        self._num_gaps = 0
        self._newest_similarity = -math.inf
        self._left_peak = -math.inf  # highest similarity of the rise to the left of the newest gap
        self._open: list[_EqualGaps] = []  # not final yet, ascending
        # Of the open gaps at or before the last boundary: their depths without the rise to the right.
        self._passed = _RunningDeviation()
        self._final_depths = _RunningDeviation()
        self._declared = array("q")

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
        self._previous = cls.detach().clone()  # a view would hold the features of all frames that came with it
        self._declare_full_segment()

    def declared(self, first: int = 0) -> list[int]:
        """Last frame of every closed segment from segment ``first`` on, ascending; it only grows."""
        return self._declared[first:].tolist()

    def _add_gap(self, similarity: float) -> None:
        before = self._newest_similarity
        # Written so that a NaN ends a rise on both sides.
        if not similarity >= before:
            self._end_rise(before)
        if not before >= similarity:
            self._left_peak = similarity
        if self._open and similarity == before:
            self._open[-1].count += 1
        else:
            self._open.append(_EqualGaps(self._num_gaps, 1, self._left_peak - similarity, similarity))
        self._newest_similarity = similarity
        self._num_gaps += 1

    def _end_rise(self, right_peak: float) -> None:
        self._final_depths.join(self._passed.shifted(right_peak))
        self._passed = _RunningDeviation()
        final = [(gaps, gaps.rise + (right_peak - gaps.similarity)) for gaps in self._open]
        self._open.clear()
        for gaps, depth in final:
            for _ in range(gaps.count):
                self._final_depths.add(depth)
        threshold = self._final_depths.mean_plus(self._causal_alpha)
        for gaps, depth in final:
            if depth > threshold:
                first = max(gaps.first, self._last_declared + 1)
                self._declared.extend(range(first, gaps.first + gaps.count))

    def _declare_full_segment(self) -> None:
        newest = self._num_gaps  # frames are one more than gaps, and counted from 0
        if self._max_segment_frames is None or newest - self._last_declared < self._max_segment_frames:
            return
        self._declared.append(newest)
        for gaps in self._open:
            self._passed.join(_RunningDeviation(gaps.count, gaps.rise - gaps.similarity))
        self._open.clear()

    @property
    def _last_declared(self) -> int:
        return self._declared[-1] if self._declared else -1


@dataclass
class _EqualGaps:
    """Neighbouring gaps of the same similarity that are not final yet."""

    first: int  # number of the first gap
    count: int
    rise: float  # to the left
    similarity: float


@dataclass
class _RunningDeviation:
    """Mean and unbiased standard deviation of a growing list, in O(1) a value (Welford's update)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of the squared differences from the mean

    def add(self, value: float) -> None:
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)

    def join(self, other: "_RunningDeviation") -> None:
        """Add all values of another list (Chan's update)."""
        if other.count == 0:
            return
        together, difference = self.count + other.count, other.mean - self.mean
        self.mean += difference * (other.count / together)
        self.squares += other.squares + difference * difference * (self.count * other.count / together)
        self.count = together

    def shifted(self, by: float) -> "_RunningDeviation":
        """The same with ``by`` added to every value."""
        return _RunningDeviation(self.count, self.mean + by, self.squares)

    def mean_plus(self, alpha: float) -> float:
        """Mean plus ``alpha`` standard deviations; infinite for fewer than two values, so nothing is above."""
        if self.count < 2:
            return math.inf
        return self.mean + alpha * math.sqrt(self.squares / (self.count - 1))
