"""Reads a folder whose pictures are the frames of a video, as the frames that a model was trained on."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError, SampleError
from datamodules.media.decoding import Decoding
from datamodules.media.frame_sampling import FrameSampling, frame_times_ms
from datamodules.media.sample_media import SampleMedia
from datamodules.shards.member_names import IMAGE_ENDINGS
from membridge.media_files import read_media_file


def read_frame_folder(
    folder: Path,
    frames_per_second: float,
    settings: FrameSettings,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  frozen
) -> SampleMedia:
    """Read the frames at the times at which those of a video would be read.

    Args:
        folder: The pictures; their names sort in the order of time.
        frames_per_second: Frames of the folder in a second.
        settings: Frame settings of the model.
        start_ms: Start of the part to use; None = from the beginning.
        end_ms: End of that part; None = to the end.
        decoding: Limits of time and memory.

    Returns:
        uint8 frames ``[T, 3, size, size]``, each once, and their times from ``start_ms`` on.

    Raises:
        ValueError: The model reads cached features, or ``frames_per_second`` is not positive.
        datamodules.errors.SampleError: The folder has no picture, one is damaged, or the part is not in the video.
    """
    if frames_per_second <= 0:
        raise ValueError(f"frames_per_second is {frames_per_second}; expected a positive number")
    pictures = _pictures(folder)
    start, end = start_ms or 0, round(len(pictures) * 1000 / frames_per_second)
    end = end if end_ms is None else min(end, end_ms)
    if start >= end:
        raise SampleError(f"{folder}: start_ms {start} is after its end at {end} ms; correct start_ms and end_ms")
    count = FrameSampling(settings.num_frames, settings.fps, settings.max_frames).count(end - start)
    times = [start + time for time in frame_times_ms(end - start, count)]
    numbers = sorted({min(int(time * frames_per_second / 1000), len(pictures) - 1) for time in times})
    one_frame = FrameSettings(settings.size, settings.fit, num_frames=1)  # a frame is no picture to cut into tiles
    frames = [read_media_file(pictures[number], one_frame, decoding=decoding).frames for number in numbers]
    shown_ms = [max(0, round(number * 1000 / frames_per_second) - start) for number in numbers]
    return SampleMedia(torch.cat(frames), torch.tensor(shown_ms, dtype=torch.int64))


def _pictures(folder: Path) -> Sequence[Path]:
    endings = tuple(f".{ending}" for ending in IMAGE_ENDINGS)
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(endings))
    except OSError as error:
        raise BrokenMediaError(f"{folder} is no folder that can be read ({error})") from error
    if not names:
        raise BrokenMediaError(f"{folder} has no picture; expected one for each frame")
    return [folder / name for name in names]
