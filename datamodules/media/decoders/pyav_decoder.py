"""Decodes videos with FFmpeg's libraries through PyAV."""

import bisect
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from datamodules.errors import BrokenMediaError, undecodable
from datamodules.media.decoded_frames import DecodedFrames, FrameSize, Pixels, stack_pictures
from datamodules.media.frame_pixels import Orientation, PixelReader, stored_orientation
from datamodules.media.video_container import STORED_FORMATS, best_video_stream, open_container
from datamodules.media.video_seek import SeekMissedError, frames_after_seek, timed_frames
from datamodules.media.video_timeline import VideoTimeline, read_timeline

_SEEK_GAIN_FRAMES = 8
"""Seek only to skip more frames than this, because decoding a few frames is faster than resetting the decoder."""


class FoundFrame(NamedTuple):
    """A decoded frame and its number."""

    number: int
    picture: Any  # av.VideoFrame
    orientation: Orientation  # how it becomes upright


class PyAVDecoder:
    """An open video.

    It reads the times of all packets first, without decoding. From them follow the exact time of every frame, whether
    the file is complete, and the keyframe from which each frame is decoded. Only the needed bytes are read, so a film
    of any length takes little memory.

    Some packets show no frame, which often only the decoder finds out. Then the nearest frame before it is returned. A
    video that loses most frames in this way counts as broken.

    A video is broken if FFmpeg marks a chosen frame as damaged. Damage that FFmpeg conceals is not found: its strict
    mode would find more, but also refuses videos that every player shows.

    Args:
        file: The video's file.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.
        formats: FFmpeg's names of the formats that are tried.

    Raises:
        BrokenMediaError: The bytes are no complete video.
    """

    def __init__(self, file: BinaryIO, size: FrameSize, where: str, formats: str = STORED_FORMATS) -> None:
        self._file = file
        self._size = size
        self._where = where
        self._formats = formats
        self._pixels = PixelReader()
        self._orientation = Orientation()  # of the frame that was decoded last
        self.timeline = read_video_timeline(file, size, where, formats)

    @property
    def frame_ms(self) -> NDArray[np.int64]:
        """See ``VideoDecoder``."""
        return self.timeline.frame_ms

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self.timeline.duration_ms

    def frames(self, indices: Sequence[int]) -> DecodedFrames:
        """See ``VideoDecoder``. Frames that differ in size are scaled to that of the first one.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        try:
            found = None
            if self.timeline.has_times:
                with contextlib.suppress(SeekMissedError, av.FFmpegError):
                    found = self._stack(self._frames_by_time(indices, seek=True), len(indices))
                if found is None:
                    found = self._stack(self._frames_by_time(indices, seek=False), len(indices))
            else:
                found = self._stack(self._frames_by_count(indices), len(indices))
        except MemoryError:
            raise
        except BrokenMediaError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error
        if found is None:
            raise BrokenMediaError(
                f"{self._where}: not all of the {len(indices)} chosen frames could be decoded without damage, but the "
                f"file lists {len(self.timeline.shown)}; encode it again or leave it out"
            )
        return found

    def play(self, first: int = 0) -> Iterator[FoundFrame]:
        """Decode all frames in order, starting with this index.

        Raises:
            BrokenMediaError: A frame is damaged.
        """
        try:
            yield from self._play(first)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error

    def _play(self, first: int) -> Iterator[FoundFrame]:
        waiting: FoundFrame | None = None  # may be on display at the start
        num_shown = 1
        for found in self._decode_from(first):
            if found.picture.is_corrupt and found.number >= first:
                ms = self.frame_ms[found.number]
                raise BrokenMediaError(f"{self._where}: its frame at {ms} ms is damaged; fetch the file again")
            if waiting is not None and found.number > max(first, waiting.number):
                yield waiting
                num_shown += 1
            if waiting is None or found.number > waiting.number:
                waiting = found
        if waiting is not None:
            self._check_lost(num_shown, len(self.timeline.shown) - first)
            yield waiting

    def _check_lost(self, num_decoded: int, num_wanted: int) -> None:
        """Refuse a video of which FFmpeg drops most frames without an error, because others are damaged."""
        if self.timeline.may_store_fields and 2 * num_decoded < num_wanted:
            raise BrokenMediaError(
                f"{self._where}: only {num_decoded} of {num_wanted} frames can be decoded; fetch or encode it again"
            )

    def _decode_from(self, first: int) -> Iterator[FoundFrame]:
        timeline = self.timeline
        with self._open_decoding() as (container, stream):
            if not timeline.has_times:
                last = len(timeline.shown) - 1
                yield from (
                    FoundFrame(min(n, last), frame, self._orientation)
                    for n, frame in enumerate(self._watched(container.decode(stream)))
                )
                return
            frames = self._after_seek(container, stream, first)
            if frames is not None:
                yield from (
                    FoundFrame(timeline.index_at(frame.pts), frame, self._orientation)
                    for frame in self._watched(frames)
                )
                return
        with self._open_decoding() as (container, stream):
            for frame in self._watched(timed_frames(container.decode(stream))):
                if frame.pts >= timeline.shown[0]:
                    yield FoundFrame(timeline.index_at(frame.pts), frame, self._orientation)

    def _after_seek(self, container: Any, stream: Any, first: int) -> Iterator[Any] | None:
        """Frames from the keyframe before ``first``; None where seeking saves no time or does not reach it."""
        keyframe = self.timeline.keyframe_before(first)
        if bisect.bisect_left(self.timeline.shown, keyframe) <= _SEEK_GAIN_FRAMES:
            return None
        with contextlib.suppress(SeekMissedError):
            frames = frames_after_seek(container, stream, keyframe)
            frame = next(frames)
            if frame.pts <= self.timeline.shown[first]:
                return itertools.chain([frame], frames)
        return None

    def _stack(self, found: Iterator[FoundFrame], most: int) -> DecodedFrames | None:
        """The pixels of these frames, each once; None if one of them is damaged or there is none."""
        indices: list[int] = []

        def pictures() -> Iterator[Pixels]:
            size: tuple[int, int] | None = None
            for index, picture, orientation in found:
                if picture.is_corrupt:
                    indices.clear()
                    return
                if indices and index <= indices[-1]:
                    continue
                size = size or self._size.scaled(picture.width, picture.height)
                indices.append(index)
                yield self._pixels.read(picture, *size, orientation)

        stacked = stack_pictures(pictures(), most, self._where)
        if indices:
            self._check_lost(len(indices), most)
        return DecodedFrames(stacked, self.frame_ms[indices]) if stacked is not None and indices else None

    def _frames_by_time(self, indices: Sequence[int], *, seek: bool) -> Iterator[FoundFrame]:
        timeline = self.timeline
        with self._open_decoding() as (container, stream):
            decoded = self._watched(timed_frames(container.decode(stream)))
            before = after = None  # frames around the wanted time
            position, was_sought = 0, False
            for index in indices:
                wanted = timeline.shown[index]
                keyframe = timeline.keyframe_before(index)
                if seek and bisect.bisect_left(timeline.shown, keyframe) - position > _SEEK_GAIN_FRAMES:
                    decoded = self._watched(frames_after_seek(container, stream, keyframe))
                    before = after = None
                    was_sought = True
                while after is None or after.pts < wanted:
                    frame = next(decoded, None)
                    if frame is None:
                        before, after = after or before, None
                        break
                    before, after = after, frame
                position = index + 1
                if after is not None and after.pts == wanted:
                    yield FoundFrame(index, after, self._orientation)
                elif before is not None:
                    yield FoundFrame(timeline.index_at(before.pts), before, self._orientation)
                elif was_sought:
                    raise SeekMissedError
                elif after is not None:
                    yield FoundFrame(timeline.index_at(after.pts), after, self._orientation)

    def _frames_by_count(self, indices: Sequence[int]) -> Iterator[FoundFrame]:
        wanted = set(indices)
        last: FoundFrame | None = None
        with self._open_decoding() as (container, stream):
            for number, frame in enumerate(self._watched(container.decode(stream))):
                last = FoundFrame(min(number, len(self.timeline.shown) - 1), frame, self._orientation)
                if number in wanted:
                    yield last
                if number == indices[-1]:
                    return
        if last is not None:
            yield last

    def _watched(self, frames: Iterator[Any]) -> Iterator[Any]:
        for frame in frames:
            self._orientation = stored_orientation(frame) or self._orientation
            yield frame

    def _open_decoding(self) -> contextlib.AbstractContextManager[tuple[Any, Any]]:
        return _open_decoding(self._file, self._size, self._where, self._formats)


@contextlib.contextmanager
def _open_decoding(file: BinaryIO, size: FrameSize, where: str, formats: str) -> Iterator[tuple[Any, Any]]:
    with open_container(file, formats) as container:
        stream = best_video_stream(container, where)
        stream.codec_context.options = {"max_pixels": str(size.max_pixels)}  # headers can lie
        yield container, stream


def read_video_timeline(file: BinaryIO, size: FrameSize, where: str, formats: str = STORED_FORMATS) -> VideoTimeline:
    """Read the times of a video's frames.

    Args:
        file: The video's file.
        size: Largest frame.
        where: Shard and key, for messages.
        formats: FFmpeg's names of the formats that are tried.

    Returns:
        The timeline of its best video stream, starting with the first frame that can be decoded.

    Raises:
        BrokenMediaError: The bytes are no complete video.
    """
    try:
        with open_container(file, formats) as container:
            stream = best_video_stream(container, where)
            size.check(stream.codec_context.width, stream.codec_context.height, where)
            timeline = read_timeline(container, stream, where)
        if timeline.starts_with_keyframe:
            return timeline
        first = first_frame(file, size, where, formats)
        shown = first.pts if timeline.has_times else first.dts
        return timeline if shown is None else timeline.starting_at(shown)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise BrokenMediaError(undecodable(where, error)) from error


def first_frame(file: BinaryIO, size: FrameSize, where: str, formats: str = STORED_FORMATS) -> Any:
    """Decode the first frame that can be decoded; returns PyAV's frame.

    Raises:
        BrokenMediaError: There is none.
        av.FFmpegError: The file cannot be read.
    """
    with _open_decoding(file, size, where, formats) as (container, stream):
        frame = next(container.decode(stream), None)
    if frame is None:
        raise BrokenMediaError(undecodable(where, "none of its frames can be decoded"))
    return frame
