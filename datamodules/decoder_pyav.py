"""Decodes videos with FFmpeg's libraries through PyAV."""

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from datamodules.decoded_frames import FrameSize, Pixels, stack_pictures
from datamodules.errors import BrokenMediaError, undecodable
from datamodules.video_timeline import VideoTimeline, read_timeline

_SEEK_GAIN_FRAMES = 8
"""Seek only where it skips more frames than this; a shorter gap is decoded faster than the decoder is reset."""


class PyAVDecoder:
    """An open video.

    Reads the packets' times first, without decoding: that gives every frame's exact time, shows whether the file is
    whole, and tells which keyframe to seek to for which frame. Bytes are read where they are needed; a film of any
    length takes little memory.

    A chosen frame that FFmpeg marks as damaged makes the video a broken one. Damage that it conceals without a mark
    goes unnoticed: its strict mode would find more, but also refuses films that every player shows.

    Args:
        file: The video's file.
        size: Largest frame, and how large frames need to be.
        where: Shard and key, for messages.

    Raises:
        BrokenMediaError: The bytes are no whole video.
    """

    def __init__(self, file: BinaryIO, size: FrameSize, where: str) -> None:
        self._file = file
        self._size = size
        self._where = where
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self._timeline = read_video_timeline(file, size, where)

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """See ``VideoDecoder``."""
        return self._timeline.frame_ms

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self._timeline.duration_ms

    def frames(self, indices: Sequence[int]) -> Pixels:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """

        def stack(frames: Iterator[Any]) -> Pixels | None:
            return stack_pictures((self._picture(frame) for frame in frames), len(indices), self._where)

        try:
            if not self._timeline.has_times:
                stacked = stack(self._frames_by_count(indices))
            else:
                stacked = stack(self._frames_by_time(indices, seek=True))
                if stacked is None:  # the container's index misleads the seek, or what it calls a keyframe is none
                    stacked = stack(self._frames_by_time(indices, seek=False))
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error
        if stacked is None:
            raise BrokenMediaError(
                f"{self._where}: not all of the {len(indices)} chosen frames could be decoded undamaged, though the "
                f"file lists {len(self._timeline.shown)}; encode it again or leave it out"
            )
        return stacked

    def _frames_by_time(self, indices: Sequence[int], *, seek: bool) -> Iterator[Any]:
        shown = self._timeline.shown
        with self._open_decoding() as (container, stream):
            decoded: Iterator[Any] = container.decode(stream)
            position = 0
            for index in indices:
                keyframe = self._timeline.keyframe_before(index)
                if seek and bisect.bisect_left(shown, keyframe) - position > _SEEK_GAIN_FRAMES:
                    container.seek(keyframe, stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    if frame.pts is not None and frame.pts >= shown[index]:
                        if frame.pts == shown[index] and not frame.is_corrupt:
                            yield frame
                        break
                position = index + 1

    def _frames_by_count(self, indices: Sequence[int]) -> Iterator[Any]:
        wanted = set(indices)
        with self._open_decoding() as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted and not frame.is_corrupt:
                    yield frame
                if number == indices[-1]:
                    break

    @contextlib.contextmanager
    def _open_decoding(self) -> Iterator[tuple[Any, Any]]:
        with _open(self._file) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(self._size.max_pixels)}  # headers can lie
            yield container, stream

    def _picture(self, frame: Any) -> Pixels:
        width, height = self._size.scaled(frame.width, frame.height)
        scaled = None if (width, height) == (frame.width, frame.height) else "BICUBIC"
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=scaled, threads=1
        )
        pixels: Any = rgb.to_ndarray()  # [H, W, 3]
        # Phones store upright films lying down, with the turn that a player has to make.
        turned: Pixels = np.rot90(pixels, round(frame.rotation / 90))
        return turned


def read_video_timeline(file: BinaryIO, size: FrameSize, where: str) -> VideoTimeline:
    """Read when the frames of a video are shown.

    Args:
        file: The video's file.
        size: Largest frame.
        where: Shard and key, for messages.

    Returns:
        The timeline of its first video stream.

    Raises:
        BrokenMediaError: The bytes are no whole video.
    """
    try:
        with _open(file) as container:
            if not container.streams.video:
                raise BrokenMediaError(f"{where}: the file has no video stream")
            codec = container.streams.video[0].codec_context
            if codec is None:
                raise BrokenMediaError(f"{where}: its video codec is unknown; encode the video again as H.264")
            size.check(codec.width, codec.height, where)
            return read_timeline(container, where)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise BrokenMediaError(undecodable(where, error)) from error


def _open(file: BinaryIO) -> Any:
    file.seek(0)
    # Titles and comments in old encodings are common, and nothing to fail at.
    return av.open(file, metadata_errors="replace")
