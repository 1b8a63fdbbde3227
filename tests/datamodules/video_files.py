"""What the tests of decoding share: containers, and videos in memory opened as files."""

import io
from typing import Any

import pytest

from datamodules.media.decoded_frames import DecodedFrames, Pixels
from datamodules.media.decoders.open_video import VideoDecoder, open_video
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.frame_sampling import sample_frames as sample_frames_of_file
from tests.fixtures_data import frame_level

FORMATS = [
    ("mp4", "libx264"),
    ("mov", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
]

SAMPLING = FrameSampling(num_frames=4)


def opened(data: bytes, backend: str = "pyav") -> VideoDecoder:
    return open_video(io.BytesIO(data), backend)


def sample_frames(data: bytes, sampling: FrameSampling, **options: Any) -> DecodedFrames:
    return sample_frames_of_file(io.BytesIO(data), sampling, **options)


def assert_frames(pixels: Pixels, indices: list[int]) -> None:
    levels = pixels.mean(axis=(1, 2, 3)).tolist()
    assert levels == pytest.approx([frame_level(index) for index in indices], abs=6)
