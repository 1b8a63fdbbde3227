"""Reencodes videos at the training resolution, so that training decodes them faster.

A video becomes H.264 without sound. Its shorter side gets the requested length and is never enlarged. It has a keyframe
at least every ``keyframe_interval`` frames, and only the part that its rows name. Every frame keeps its time, so the
frame rate may vary. There are no B-frames, so frames are stored in the order in which they are displayed.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from datamodules.convert.row_problems import ConversionError, Reason, RowProblem, damaged
from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import FoundFrame, PyAVDecoder
from datamodules.media.frame_pixels import PixelReader, Yuv420Writer
from datamodules.media.video_container import CONVERTED_FORMATS
from datamodules.media.video_timeline import VideoTimeline

_CLOCK = 90_000  # ticks a second: the frame times of all usual rates are whole numbers of them
_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}


class Reencoding(NamedTuple):
    """Size and keyframe interval of stored media."""

    size: int  # pixels of the shorter side
    keyframe_interval: int = 32  # frames

    @classmethod
    def parse(cls, text: str) -> "Reencoding":
        """Read ``SIZE`` or ``SIZE,KEYINT``.

        Raises:
            ConversionError: It has another form, or PyAV was built without the encoder.
        """
        numbers = text.split(",")
        if not 1 <= len(numbers) <= 2 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise ConversionError(f"--reencode {text!r}: expected SIZE or SIZE,KEYINT, such as 224,32")
        if int(numbers[0]) < 16:
            raise ConversionError(f"--reencode {text!r}: a side of {numbers[0]} pixels cannot be encoded; 16 is least")
        try:
            av.Codec("libx264", "w")
        except ValueError as error:  # PyAV's UnknownCodecError is one
            raise ConversionError(
                "--reencode needs libx264; install PyAV's wheel (pip install av), which has it"
            ) from error
        return cls(*(int(number) for number in numbers))


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height with this shorter side, not enlarged, and rounded to even numbers, which H.264 needs."""
    if shorter >= min(width, height):
        return max(2, width // 2 * 2), max(2, height // 2 * 2)
    scale = shorter / min(width, height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def reencode_video(
    path: Path,
    target: Path,
    reencoding: Reencoding,
    start_ms: int | None,
    end_ms: int | None,
    tick: Callable[[], None],
) -> None:
    """Write a video, or a part of it, as MP4.

    The first frame is the one on display when the part starts.

    Args:
        path: The video.
        target: File to write.
        reencoding: Size and keyframe interval.
        start_ms: Start of the part; None = from the beginning.
        end_ms: End of the part; None = to the end.
        tick: Called after every frame.

    Raises:
        RowProblem: The video cannot be decoded, or has no frame in the part.
    """
    start = Fraction(start_ms or 0, 1000)
    end = None if end_ms is None else Fraction(end_ms, 1000)
    try:
        with path.open("rb") as file, av.open(str(target), "w", format="mp4") as output:
            video = PyAVDecoder(file, FrameSize(), str(path), CONVERTED_FORMATS)
            encoder = _Encoder(output, reencoding, _mean_rate(video.timeline))
            for shown in _part(_shown_frames(video, start), start, end):
                encoder.write(shown)
                tick()
            encoder.close()
    except BrokenMediaError as error:
        raise RowProblem(Reason.DAMAGED, str(error)) from error
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        raise damaged(path, error) from error
    if encoder.num_frames == 0:
        raise damaged(path, f"no frame could be decoded from {start_ms or 0} ms on")


class _Shown(NamedTuple):
    """A frame and the time in which it is displayed, in seconds."""

    found: FoundFrame
    start: Fraction
    end: Fraction


def _mean_rate(timeline: VideoTimeline) -> Fraction:
    """Frames per second; the encoder uses it only to distribute bits."""
    return Fraction(len(timeline.shown) * 1000, timeline.duration_ms)


def _shown_frames(video: PyAVDecoder, start: Fraction) -> Iterator[_Shown]:
    """Frames from the one on display at ``start``, with the times that training uses."""
    timeline = video.timeline
    zero = timeline.shown[0]
    first = timeline.index_at(zero + math.floor(start / timeline.time_base))
    for found in video.play(first):
        index = found.number
        ends = timeline.shown[index + 1] if index + 1 < len(timeline.shown) else timeline.end
        yield _Shown(found, (timeline.shown[index] - zero) * timeline.time_base, (ends - zero) * timeline.time_base)


def _part(frames: Iterator[_Shown], start: Fraction, end: Fraction | None) -> Iterator[_Shown]:
    """Frames on display between ``start`` and ``end``, with times counted from ``start``."""
    pending: _Shown | None = None
    for frame in frames:
        if end is not None and frame.start >= end:
            pending = pending and pending._replace(end=end)
            break
        if pending is not None and frame.start > start:
            yield _Shown(pending.found, max(Fraction(0), pending.start - start), frame.start - start)
        pending = frame
    if pending is not None and pending.end > start:
        last = pending.end if end is None else min(end, pending.end)
        yield _Shown(pending.found, max(Fraction(0), pending.start - start), last - start)


class _Encoder:
    """Writes frames as H.264, upright and scaled; the first frame decides the size."""

    def __init__(self, output: Any, reencoding: Reencoding, rate: Fraction) -> None:
        self._output = output
        self._reencoding = reencoding
        self._rate = rate.limit_denominator(1 << 15)
        self._reader = PixelReader()
        self._writer = Yuv420Writer()
        self._stream: Any = None
        self._waiting: Any = None  # the last packet: its duration follows from the next frame
        self._last_ticks = -1
        self._end_ticks = 0
        self.num_frames = 0

    def write(self, shown: _Shown) -> None:
        picture = self._scaled(shown.found)
        picture.pts = max(round(shown.start * _CLOCK), self._last_ticks + 1)
        picture.time_base = Fraction(1, _CLOCK)
        self._last_ticks = picture.pts
        self._end_ticks = round(shown.end * _CLOCK)
        self._mux(self._stream.encode(picture))
        self.num_frames += 1

    def close(self) -> None:
        if self._stream is not None:
            self._mux(self._stream.encode(None))
        if self._waiting is not None:
            self._waiting.duration = max(1, self._end_ticks - self._last_ticks)
            self._output.mux(self._waiting)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._waiting is not None:
                self._output.mux(self._waiting)
            self._waiting = packet

    def _scaled(self, found: FoundFrame) -> Any:
        picture, orientation = found.picture, found.orientation
        if self._stream is None:
            shown = orientation.shown_size(picture.width, picture.height)
            self._open(*scaled_size(*shown, self._reencoding.size))
        width, height = orientation.shown_size(self._stream.width, self._stream.height)
        return self._writer.write(self._reader.read(picture, width, height, orientation))

    def _open(self, width: int, height: int) -> None:
        stream = self._output.add_stream("libx264", rate=self._rate, options=_OPTIONS)
        stream.width, stream.height = width, height
        self._writer.tag(stream.codec_context)
        stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
        stream.codec_context.gop_size = self._reencoding.keyframe_interval
        stream.codec_context.thread_count = 1  # equal inputs give equal bytes
        self._stream = stream
