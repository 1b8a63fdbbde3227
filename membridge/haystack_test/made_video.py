"""The frames of a made-up video as a model reads them; never more than a piece of them is in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.pretrained.frame_settings import FrameSettings
from datamodules.haystack.needle_kinds import paint_needle
from datamodules.haystack.video_plan import PlannedVideo
from datamodules.media.frame_sampling import FrameSampling, frame_times_ms
from membridge.haystack_test.backgrounds import Background

PIECE = 32
"""Frames that are made at once."""


class MadeVideo:
    """A planned video, of which the frames are made that a model would choose of its file.

    Args:
        plan: The video.
        background: The haystack.
        settings: How the model reads videos; ``size`` must be set.

    Attributes:
        frame_ms: Times of the frames.

    Raises:
        ValueError: The model reads cached features, no pixels.
    """

    def __init__(self, plan: PlannedVideo, background: Background, settings: FrameSettings) -> None:
        if settings.size is None:
            raise ValueError("the haystack test draws pixels, but this model reads cached features of frames")
        self.plan = plan
        self._background = background
        self._settings = settings
        duration = plan.cell.duration_ms
        count = FrameSampling(settings.num_frames, settings.fps, settings.max_frames).count(duration)
        # A short video has fewer different times than a model with a fixed number of frames asks for.
        self.frame_ms: list[int] = list(dict.fromkeys(frame_times_ms(duration, count)))

    @property
    def needles_seen(self) -> int:
        """Needles, without distractors, that at least one of the frames shows."""
        needles = [each for each in self.plan.needles if not each.drawn.is_distractor]
        return sum(any(each.start_ms <= time < each.end_ms for time in self.frame_ms) for each in needles)

    def pieces(self) -> Iterator[tuple[Tensor, list[int]]]:
        """The frames in their order: uint8 ``[T, 3, size, size]`` with T at most ``PIECE``, and their times."""
        for first in range(0, len(self.frame_ms), PIECE):
            times = self.frame_ms[first : first + PIECE]
            pixels = np.stack([self.frame(time) for time in times])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), times

    def frame(self, time_ms: int) -> NDArray[np.uint8]:
        """The frame on display at a time, RGB ``[size, size, 3]``."""
        frame = self._background.frame(self.plan.background + time_ms, self._settings)
        for needle in self.plan.needles:
            if needle.start_ms <= time_ms < needle.end_ms:
                progress = (time_ms - needle.start_ms) / (needle.end_ms - needle.start_ms)
                return paint_needle(frame, needle.drawn, progress)
        return frame
