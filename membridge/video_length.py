"""Tells whether a video is longer than allowed, before all its frames are decoded."""

import dataclasses
from pathlib import Path

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import SampleError
from datamodules.media.decoding import Decoding
from datamodules.media.file_formats import HEAD_BYTES, VIDEO_FORMATS, format_of
from membridge.media_files import read_media_file


def has_frame_after(
    path: Path,
    time_ms: int,
    frames: FrameSettings,
    decoding: Decoding = Decoding(),  # noqa: B008  frozen
) -> bool:
    """Whether a video still has a frame at a time. A picture has none.

    Args:
        path: The file.
        time_ms: The time, from the beginning of the video.
        frames: Frame settings of the model.
        decoding: Limits of time and memory.

    Raises:
        datamodules.errors.SampleError: The file cannot be decoded.
    """
    with path.open("rb") as content:
        if format_of(content.read(HEAD_BYTES)) not in VIDEO_FORMATS:
            return False
    one_frame = dataclasses.replace(frames, num_frames=1, fps=None, max_frames=None, tiles_per_side=None)
    try:
        read_media_file(path, one_frame, start_ms=time_ms, end_ms=time_ms + 1, decoding=decoding)
    except SampleError as error:
        if type(error) is SampleError:  # the video ends before
            return False
        raise
    return True
