"""Frame-by-frame forms of the segmenters."""

import math
from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from components.segmenters.depth import adjacent_similarity


class FrameCountStream:
    """Stream of a segmenter that looks only at how many frames there are.

    Args:
        segment_positions: Gives the segment of every frame, ``[t]``, of a video of t frames.
    """

    def __init__(self, segment_positions: Callable[[int], Tensor]) -> None:
        self._segment_positions = segment_positions
        self._num_frames = 0

    def push(self, cls: Tensor) -> None:
        """Take the next frame; its class vector ``[D]`` does not matter here."""
        self._num_frames += 1

    def segment_index(self) -> Tensor:
        """Segments of the frames so far, ``[t]`` int64, on the CPU."""
        return self._segment_positions(self._num_frames)


class FixedLengthStream(FrameCountStream):
    """Stream of segments of equally many frames: a segment is settled as soon as it is full.

    Args:
        frames: Frames of a segment.
    """

    def __init__(self, frames: int) -> None:
        super().__init__(lambda num_frames: torch.arange(num_frames) // frames)
        self._frames = frames

    def declared(self) -> list[int]:
        """Last frame of every full segment, ascending: the offline boundaries."""
        return list(range(self._frames - 1, self._num_frames, self._frames))


class SceneTillingStream:
    """Takes one frame at a time and knows two answers at any moment.

    ``segment_index`` is what the offline form gives for the frames so far; it may change as frames arrive, because
    later frames change which valleys are the deepest. ``declared`` is for causal use: it only grows. Its rule:

    - A gap's depth is final as soon as the similarity falls again behind it, for then the climb to the right has
      ended. Depths become final in the order of the gaps.
    - When a climb ends, each gap that became final is declared if its depth is strictly above mean + ``causal_alpha``
      unbiased standard deviations of all final depths of the stream, itself included.
    - With ``max_segment_frames``, a boundary is declared after the newest frame as soon as the open segment has that
      many frames. Gaps at or before a declared boundary are not declared any more.

    A push costs O(D) and amortised O(1) for the rest; ``segment_index`` costs O(t), the size of its answer.

    Args:
        segment_rows: Gives the segments ``[1, t]`` from the similarity ``[1, t - 1]`` and the frame count ``[1]``.
        causal_alpha: Standard deviations above the mean from which a final depth is declared.
        max_segment_frames: Longest segment that may stay open; None for no limit.
    """

    def __init__(
        self, segment_rows: Callable[[Tensor, Tensor], Tensor], causal_alpha: float, max_segment_frames: int | None
    ) -> None:
        self._segment_rows = segment_rows
        self._max_segment_frames = max_segment_frames
        self._previous: Tensor | None = None  # [D]
        self._similarity = array("f")
        self._left_peak = -math.inf  # where the climb to the left from the newest gap ends
        self._open: list[tuple[int, float]] = []  # gap and left rise, while the climb to the right goes on
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

    def segment_index(self) -> Tensor:
        """Segments of the frames so far, ``[t]`` int64: exactly what the offline form gives for them."""
        if self._previous is None:
            return torch.zeros(0, dtype=torch.int64)
        similarity = torch.tensor(self._similarity, dtype=torch.float32)
        index = self._segment_rows(similarity[None], torch.tensor([self._num_frames]))[0]
        return index.to(self._previous.device)

    def declared(self) -> list[int]:
        """Last frame of every segment that the past alone has settled, ascending; never changes, only grows."""
        return list(self._declared)

    @property
    def _num_frames(self) -> int:
        return 0 if self._previous is None else len(self._similarity) + 1

    def _add_gap(self, similarity: float) -> None:
        before = self._similarity[-1] if self._similarity else -math.inf
        if not similarity >= before:
            self._end_climb(before)
        if not before >= similarity:
            self._left_peak = similarity
        self._open.append((len(self._similarity), self._left_peak - similarity))
        self._similarity.append(similarity)

    def _end_climb(self, right_peak: float) -> None:
        final = [(gap, rise + (right_peak - self._similarity[gap])) for gap, rise in self._open]
        self._open.clear()
        for _, depth in final:
            self._final_depths.add(depth)
        for gap, depth in final:
            if self._final_depths.stands_out(depth) and gap > self._last_declared:
                self._declared.append(gap)

    def _declare_full_segment(self) -> None:
        newest = self._num_frames - 1
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
        """Whether a value lies strictly above mean + alpha standard deviations; never for fewer than two values."""
        if self._count < 2:
            return False
        return value > self._mean + self._alpha * math.sqrt(self._squares / (self._count - 1))
