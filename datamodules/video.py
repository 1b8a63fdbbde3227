"""From media bytes to chosen frames and their times."""

import bisect
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.decoders import VideoDecoder, open_video
from datamodules.errors import BrokenMediaError, SampleError


@dataclass(frozen=True)
class FrameSampling:
    """How many frames a video gives; they lie at the centres of equal slices.

    Args:
        num_frames: Frames of every video, whatever its length. None where ``fps`` decides.
        fps: Frames per second of video instead.
        max_frames: Upper bound where ``fps`` decides; a longer video is sampled more thinly.

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
        """Frames that a video of this length gives, at least one."""
        if self.num_frames is not None:
            return self.num_frames
        assert self.fps is not None
        wanted = max(1, round(duration_ms * self.fps / 1000))
        return wanted if self.max_frames is None else min(wanted, self.max_frames)


class VideoFrames(NamedTuple):
    """The chosen frames of one video or image."""

    frames: Tensor  # uint8 [T, 3, H, W]
    frame_ms: Tensor  # [T] int64, after the start of the part that was asked for


def frame_times_ms(duration_ms: int, num_frames: int) -> list[int]:
    """Place frames at the centres of equal slices, favouring neither end.

    Args:
        duration_ms: Length in milliseconds.
        num_frames: Frames wanted, T.

    Returns:
        T non-decreasing times in milliseconds, each in ``[0, duration_ms)``.

    Raises:
        ValueError: An argument is not positive; a broken clip must not become a valid sample.
    """
    if duration_ms < 1 or num_frames < 1:
        raise ValueError(f"need a positive duration and number of frames, got {duration_ms} ms and {num_frames}")
    return [(2 * index + 1) * duration_ms // (2 * num_frames) for index in range(num_frames)]


def choose_frames(
    video: VideoDecoder, sampling: FrameSampling, start_ms: int | None = None, end_ms: int | None = None
) -> list[int]:
    """Choose the frames that are shown at the sampled times.

    Args:
        video: The open video.
        sampling: How many frames.
        start_ms: Start of the part that is meant; None = from the beginning.
        end_ms: End of that part; None = to the end.

    Returns:
        Increasing frame indices. A part with fewer frames than asked gives each of them once.

    Raises:
        SampleError: The part starts after the video's end.
    """
    start = start_ms or 0
    end = video.duration_ms if end_ms is None else min(end_ms, video.duration_ms)
    if start >= end:
        raise SampleError(f"start_ms {start} lies behind the video's end at {end} ms; correct the sample's JSON")
    times = frame_times_ms(end - start, sampling.count(end - start))
    frame_ms = video.frame_ms
    shown = (bisect.bisect_right(frame_ms, start + time) - 1 for time in times)
    return sorted({max(0, index) for index in shown})


def sample_frames(
    data: bytes,
    sampling: FrameSampling,
    *,
    backend: str = "pyav",
    start_ms: int | None = None,
    end_ms: int | None = None,
    where: str = "video",
) -> VideoFrames:
    """Decode the chosen frames of a video.

    Args:
        data: The video file's bytes.
        sampling: How many frames.
        backend: Decoder, see ``open_video``.
        start_ms: Start of the part that is meant; None = from the beginning.
        end_ms: End of that part; None = to the end.
        where: Shard and key, for messages.

    Returns:
        At least one frame, in the video's own size.

    Raises:
        BrokenMediaError: The video cannot be decoded.
        SampleError: The part starts after the video's end.
    """
    video = open_video(data, backend, where=where)
    try:
        chosen = choose_frames(video, sampling, start_ms, end_ms)
    except SampleError as error:
        raise SampleError(f"{where}: {error}") from error
    starts = video.frame_ms
    times = [max(0, starts[index] - (start_ms or 0)) for index in chosen]
    return VideoFrames(video.frames(chosen), torch.tensor(times, dtype=torch.int64))


def read_image(data: bytes, *, where: str = "image") -> VideoFrames:
    """Decode a JPEG, PNG or WebP picture as a video of one frame.

    Raises:
        BrokenMediaError: The bytes are no such picture, or a picture of absurd size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))  # [H, W, 3]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenMediaError(
            f"{where}: the picture cannot be decoded ({error}); fetch it again or leave the sample out"
        ) from error
    frame = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()  # [1, 3, H, W]
    return VideoFrames(frame, torch.zeros(1, dtype=torch.int64))
