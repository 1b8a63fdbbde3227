"""A film whose frames carry their numbers, and the check that reading gives each at its time."""

import numpy as np
import pytest

from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import Form, numbers
from tests.datamodules.video_files import opened, sample_frames

FILM = Form("webm", "libvpx", times_ms=range(0, 6000, 100))
EVERY_COUNT = (1, 2, 3, 4, 5, 7, 8, 15, 16, 30, 59, 60, 61, 1000)


def right_frames(data: bytes, first: int, count: int, step_ms: int = 100) -> None:
    """At any number of frames, every frame carries the number that belongs to its time."""
    video = opened(data)
    assert video.duration_ms == pytest.approx(count * step_ms, abs=2)
    for asked in EVERY_COUNT:
        frames = sample_frames(data, FrameSampling(asked))
        assert frames.frame_ms == pytest.approx([step_ms * (n - first) for n in numbers(frames.pixels)], abs=2)
        assert len(frames.pixels) == min(asked, count)
        assert (np.diff(frames.frame_ms) > 0).all()
