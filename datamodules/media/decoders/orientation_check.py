"""Refuses videos that a decoding library would return rotated or mirrored."""

from typing import BinaryIO

from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import first_frame
from datamodules.media.frame_pixels import Orientation, frame_orientation
from datamodules.media.video_timeline import VideoTimeline


def check_orientation(file: BinaryIO, size: FrameSize, timeline: VideoTimeline, backend: str, where: str) -> None:
    """Refuse videos that decord and torchcodec do not make upright: they only rotate MP4 and MOV, and never mirror.

    Raises:
        BrokenMediaError: It is such a video.
    """
    orientation = frame_orientation(first_frame(file, size, where))
    if orientation.is_mirror or (orientation != Orientation() and "mov" not in timeline.format_name):
        raise BrokenMediaError(
            f"{where}: its frames have to be {'mirrored' if orientation.is_mirror else 'rotated'} to be upright, which "
            f"{backend} does not do here; encode the video again or choose the backend 'pyav'"
        )
