"""Seeks to a keyframe of an open video, and checks that the frame found is one.

Some programs mark every frame of a video as a keyframe, or the wrong ones. A decoder that starts at a frame that is no
keyframe returns grey blocks or broken pictures without an error.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import av
from av.video.frame import PictureType

_SAFE_CODECS = ("h264", "hevc", "cfhd")
"""Codecs whose decoders return no frame before they can decode it correctly, wherever they start."""


class SeekMissedError(Exception):
    """A seek failed or went past the wanted frame: the file's index is wrong, or its keyframe is none."""


def frames_after_seek(container: Any, stream: Any, keyframe: int) -> Iterator[Any]:
    """Seek to a keyframe and decode frames from there.

    Args:
        container: PyAV's open container.
        stream: Its video stream.
        keyframe: Time of the keyframe, in the stream's time base.

    Returns:
        PyAV's frames, at least one.

    Raises:
        SeekMissedError: The seek failed, or the frame found is no keyframe.
    """
    try:
        container.seek(keyframe, stream=stream)  # not every container can
        frames = timed_frames(container.decode(stream))
        first = next(frames, None)
    except av.FFmpegError as error:
        raise SeekMissedError from error
    is_whole = first is not None and (first.key_frame or first.pict_type == PictureType.I)
    if first is None or not (is_whole or stream.codec_context.name in _SAFE_CODECS):
        raise SeekMissedError
    return itertools.chain([first], frames)


def timed_frames(frames: Iterator[Any]) -> Iterator[Any]:
    """The frames that have a time."""
    return (frame for frame in frames if frame.pts is not None)
