"""Chooses which frames of a video are used, and decodes them."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from datamodules.errors import OversizedMediaError, SampleError
from datamodules.media.decoded_frames import DecodedFrames, FrameSize
from datamodules.media.decoders.open_video import VideoDecoder, open_video
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from datamodules.media.video_container import check_container

MOST_FRAMES = 100_000
"""Limit for one video. Only a damaged file that claims to last for years would exceed it."""


@dataclass(frozen=True)
class FrameSampling:
    """How many frames of a video are used; they are at the centres of equal slices.

    Args:
        num_frames: Frames of every video, whatever its length; None = use ``fps``.
        fps: Frames per second of video.
        max_frames: Upper limit with ``fps``; longer videos get fewer frames per second.

    Raises:
        ValueError: Not exactly one of ``num_frames`` and ``fps`` is given, or a value is not positive.
    """

    num_frames: int | None = 16
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if (self.num_frames is None) == (self.fps is None):
            raise ValueError(f"give either num_frames or fps and null for the other, got {self}")
        if self.max_frames is not None and self.fps is None:
            raise ValueError(f"max_frames bounds what fps asks for; with num_frames it has no effect, got {self}")
        if any(value is not None and value <= 0 for value in (self.num_frames, self.fps, self.max_frames)):
            raise ValueError(f"frame sampling needs positive values, got {self}")

    def count(self, duration_ms: int) -> int:
        """Number of frames of a video of this length, at least one."""
        if self.num_frames is not None:
            return self.num_frames
        assert self.fps is not None
        wanted = max(1, round(duration_ms * self.fps / 1000))
        return wanted if self.max_frames is None else min(wanted, self.max_frames)


def frame_times_ms(duration_ms: int, num_frames: int) -> list[int]:
    """Times of frames at the centres of equal slices.

    Args:
        duration_ms: Length in milliseconds.
        num_frames: Number of frames, T.

    Returns:
        T non-decreasing times in milliseconds, each in ``[0, duration_ms)``.

    Raises:
        ValueError: An argument is not positive, as of a broken clip.
    """
    if duration_ms < 1 or num_frames < 1:
        raise ValueError(f"need a positive duration and number of frames, got {duration_ms} ms and {num_frames}")
    return [(2 * index + 1) * duration_ms // (2 * num_frames) for index in range(num_frames)]


def choose_frames(
    video: VideoDecoder, sampling: FrameSampling, start_ms: int | None = None, end_ms: int | None = None
) -> list[int]:
    """Choose the frames on display at the sampled times.

    Args:
        video: The open video.
        sampling: How many frames.
        start_ms: Start of the part to use; None = from the beginning.
        end_ms: End of that part; None = to the end.

    Returns:
        Increasing frame indices. A part with fewer frames than requested gives each of them once.

    Raises:
        SampleError: The part starts after the video's end.
        OversizedMediaError: The video is so long that it would give more than ``MOST_FRAMES``.
    """
    start = start_ms or 0
    end = video.duration_ms if end_ms is None else min(end_ms, video.duration_ms)
    if start >= end:
        raise SampleError(f"start_ms {start} is after the video's end at {end} ms; correct start_ms and end_ms")
    num_frames = sampling.count(end - start)
    if num_frames > MOST_FRAMES:
        raise OversizedMediaError(
            f"its {(end - start) / 1000:.0f} s would give {num_frames} frames; set sampling.max_frames, or leave it out"
        )
    times = start + np.array(frame_times_ms(end - start, num_frames), dtype=np.int64)
    shown = np.searchsorted(np.asarray(video.frame_ms), times, side="right") - 1
    return [int(index) for index in np.unique(np.maximum(shown, 0))]


def sample_frames(
    file: BinaryIO,
    sampling: FrameSampling,
    *,
    backend: str = "pyav",
    start_ms: int | None = None,
    end_ms: int | None = None,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "video",
) -> DecodedFrames:
    """Decode the chosen frames of a video.

    Args:
        file: The video's file.
        sampling: How many frames.
        backend: Decoder, see ``open_video``.
        start_ms: Start of the part to use; None = from the beginning.
        end_ms: End of that part; None = to the end.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.

    Returns:
        At least one frame.

    Raises:
        BrokenMediaError: The video cannot be decoded.
        SampleError: The part starts after the video's end.
    """
    video = open_video(file, backend, size=size, where=where)
    try:
        chosen = choose_frames(video, sampling, start_ms, end_ms)
    except SampleError as error:
        raise type(error)(f"{where}: {error}") from error
    frames = video.frames(chosen)
    return DecodedFrames(frames.pixels, np.maximum(frames.frame_ms - (start_ms or 0), 0))


def check_every_frame(
    file: BinaryIO,
    *,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "video",
) -> DecodedFrames:
    """Decode every frame of a video once, with PyAV, to find damage that a few chosen frames would miss.

    Args:
        file: The video's file.
        size: Largest frame.
        where: Shard and key, for messages.

    Returns:
        The first frame.

    Raises:
        BrokenMediaError: A frame is damaged.
    """
    check_container(file, where)
    video = PyAVDecoder(file, size, where)
    for _ in video.play():
        pass
    return video.frames([0])
