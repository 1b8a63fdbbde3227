"""Checks and measures a video with the code that reads it in training."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import av

from datamodules.convert.row_problems import Reason, RowProblem, damaged
from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import first_frame, read_video_timeline
from datamodules.media.frame_pixels import PixelReader, frame_orientation
from datamodules.media.video_container import CONVERTED_FORMATS, STORED_FORMATS, check_container, open_container


class VideoFacts(NamedTuple):
    """Size and length of a video."""

    width: int  # as it is shown upright; pixels that are not square are not stretched
    height: int
    duration_ms: int  # from the start of its first frame to the end of its last one


def probe_video(path: Path, *, stored: bool = True) -> VideoFacts:
    """Read the times of a video's frames, and decode the first one.

    Args:
        path: The video.
        stored: Whether the file will be stored as it is; otherwise it may have any format that can be reencoded.

    Raises:
        RowProblem: Training cannot read it, or it is cut off.
    """
    where = str(path)
    formats = STORED_FORMATS if stored else CONVERTED_FORMATS
    try:
        with path.open("rb") as file:
            if stored:
                _check_stored_format(file, path)
            timeline = read_video_timeline(file, FrameSize(), where, formats)
            frame = first_frame(file, FrameSize(), where, formats)
        orientation = frame_orientation(frame)
        PixelReader().read(frame, frame.width, frame.height, orientation)
    except BrokenMediaError as error:
        raise RowProblem(Reason.DAMAGED, str(error)) from error
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        raise damaged(path, error) from error
    return VideoFacts(*orientation.shown_size(frame.width, frame.height), timeline.duration_ms)


def _check_stored_format(file: BinaryIO, path: Path) -> None:
    try:
        check_container(file, str(path))
    except BrokenMediaError as error:
        try:
            with open_container(file, CONVERTED_FORMATS) as container:
                name = container.format.long_name
        except av.FFmpegError:
            raise error from None
        raise RowProblem(
            Reason.UNSUPPORTED,
            f"{path} is {name} by its content, which shards do not hold; try --reencode",
        ) from error
