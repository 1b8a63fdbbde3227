"""Goes to a keyframe of an open video and makes sure that it is one.

Some programs mark every frame of a video as a keyframe, or the wrong ones. A decoder that starts at another frame shows
grey blocks, or the changes to a picture that it does not have, and does not say so.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import av
from av.video.frame import PictureType

_WAITING_CODECS = ("h264", "hevc", "cfhd")
"""Their decoders show nothing, wherever they start, before they can show it right."""


class SeekMissedError(Exception):
    """A seek failed, or led behind the wanted frame: the index misleads, or what it calls a keyframe is none."""


def frames_after_seek(container: Any, stream: Any, keyframe: int) -> Iterator[Any]:
    """Decode frames from a keyframe on.

    Args:
        container: PyAV's open container.
        stream: Its video stream.
        keyframe: When the keyframe is shown, in the stream's time base.

    Returns:
        PyAV's frames, at least one.

    Raises:
        SeekMissedError: The seek failed, or led to what is no keyframe.
    """
    try:
        container.seek(keyframe, stream=stream)  # not every container can
        frames = timed_frames(container.decode(stream))
        first = next(frames, None)
    except av.FFmpegError as error:
        raise SeekMissedError from error
    is_whole = first is not None and (first.key_frame or first.pict_type == PictureType.I)
    if first is None or not (is_whole or stream.codec_context.name in _WAITING_CODECS):
        raise SeekMissedError
    return itertools.chain([first], frames)


def timed_frames(frames: Iterator[Any]) -> Iterator[Any]:
    """The frames that have a time."""
    return (frame for frame in frames if frame.pts is not None)
