"""Reads videos that other tools decoded already: frames stored as an array in an ``npy`` member.

The array is uint8 ``[T, H, W, 3]``, RGB, in C order. The sample's ``meta.frame_interval_ms`` is the time from one frame
to the next (40 at 25 frames a second), so such a video is sampled like any other. ``npy_file`` reads the header;
nothing is ever unpickled.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.errors import SampleError
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.frame_sampling import FrameSampling, choose_frames
from datamodules.media.npy_file import MAX_FRAME_INTERVAL_MS, array_duration_ms, read_npy_header
from datamodules.media.sample_media import SampleMedia
from datamodules.shards.schema import MediumFacts


class ArrayVideo:
    """Frames in memory, with the interface of an open video (``VideoDecoder``).

    Args:
        pixels: uint8 ``[T, H, W, 3]``.
        interval_ms: Time from one frame to the next.
    """

    def __init__(self, pixels: NDArray[np.uint8], interval_ms: float) -> None:
        self._pixels = pixels
        self.frame_ms = np.rint(np.arange(len(pixels)) * interval_ms).astype(np.int64)
        """[T] int64: start of every frame, in milliseconds after the first one."""
        self.duration_ms = array_duration_ms(len(pixels), interval_ms)
        """End of the last frame, in milliseconds after the start of the first one."""

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        """The frames of these indices."""
        return DecodedFrames(self._pixels[list(indices)], self.frame_ms[list(indices)])


def read_array(data: bytes, facts: MediumFacts, sampling: FrameSampling, *, where: str = "array") -> SampleMedia:
    """Choose frames of a video that is stored as an array.

    Args:
        data: The ``npy`` file's bytes.
        facts: From the sample's JSON: the interval of the frames and the part of the video to use.
        sampling: How many frames.
        where: Shard and key, for messages.

    Raises:
        BrokenMediaError: The bytes are no such array.
        SampleError: The JSON has no interval, or the part starts after the video's end.
    """
    video = ArrayVideo(_read_pixels(data, where), _interval_ms(facts.meta, where))
    try:
        chosen = choose_frames(video, sampling, facts.start_ms, facts.end_ms)
    except SampleError as error:
        raise SampleError(f"{where}: {error}") from error
    decoded = video.frames(chosen)
    times = np.maximum(decoded.frame_ms - (facts.start_ms or 0), 0)
    frames = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]
    return SampleMedia(frames, torch.from_numpy(times))


def _read_pixels(data: bytes, where: str) -> NDArray[np.uint8]:
    shape, start = read_npy_header(io.BytesIO(data), len(data), where)
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _interval_ms(meta: Mapping[str, str | int | float], where: str) -> float:
    interval = meta.get("frame_interval_ms")
    if not isinstance(interval, int | float) or not 0 < interval <= MAX_FRAME_INTERVAL_MS:
        raise SampleError(
            f"{where}: a video in an npy member needs meta 'frame_interval_ms', the time from frame to frame in "
            f"milliseconds, got {interval!r}; add it to the sample's JSON"
        )
    return float(interval)
