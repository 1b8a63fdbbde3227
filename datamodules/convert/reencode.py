"""Stores videos at the training resolution: what decoding costs during training is decided here.

A video becomes H.264 without sound, its shorter side as long as asked (never longer than it was), a keyframe at least
every so many frames, and only the part that its rows mean. Every frame is kept, at its own time: a variable frame rate
stays one. There are no B-frames, so frames are stored in the order in which they are shown.
"""

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from datamodules.convert.problems import ConversionError, damaged
from datamodules.convert.videos import open_container, video_stream

_CLOCK = 90_000  # ticks a second: the frame times of all usual rates are whole numbers of them
_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}


class Reencoding(NamedTuple):
    """How media are stored."""

    size: int  # pixels of the shorter side
    keyframe_interval: int = 32  # frames

    @classmethod
    def parse(cls, text: str) -> "Reencoding":
        """Read ``SIZE`` or ``SIZE,KEYINT``.

        Raises:
            ConversionError: It is neither, or PyAV was built without the encoder.
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
    """Bring the shorter side to ``shorter`` pixels, never beyond its own; both even, as H.264 stores colour."""
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

    The frame that is on show when the part starts is its first one.

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
        with open_container(path) as source, av.open(str(target), "w", format="mp4") as output:
            stream = video_stream(source, path)
            encoder = _Encoder(output, reencoding, stream.average_rate)
            for shown in _part(_decode(source, stream, start), start, end):
                encoder.write(shown)
                tick()
            encoder.close()
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        raise damaged(path, error) from error
    if encoder.num_frames == 0:
        raise damaged(path, f"no frame could be decoded from {start_ms or 0} ms on")


class _Shown(NamedTuple):
    """A frame and when it is shown, in seconds."""

    picture: Any  # av.VideoFrame
    start: Fraction
    end: Fraction


def _decode(container: Any, stream: Any, start: Fraction) -> Iterator[_Shown]:
    """Frames from the one at ``start`` or earlier on; their ends are guesses that the next frame corrects."""
    frames = container.decode(stream)
    first = next(frames, None)
    if first is None:
        return
    frames = itertools.chain([first], frames)
    stores_times = container.format.name != "avi" and first.pts is not None  # FFmpeg guesses the times of AVI's packets
    if start and stores_times:
        wanted = first.pts + int(start / stream.time_base)
        container.seek(wanted, stream=stream)
        frames = container.decode(stream)
        nearest = next(frames, None)
        if nearest is None or nearest.pts is None or nearest.pts > wanted:  # the container's index misleads the seek
            container.seek(first.pts, stream=stream)
            frames = container.decode(stream)
        else:
            frames = itertools.chain([nearest], frames)
    usual = 1 / Fraction(stream.average_rate or 25)
    for number, frame in enumerate(frames):
        time = (frame.pts - first.pts) * stream.time_base if stores_times else number * usual
        yield _Shown(frame, time, time + ((frame.duration or 0) * stream.time_base or usual))


def _part(frames: Iterator[_Shown], start: Fraction, end: Fraction | None) -> Iterator[_Shown]:
    """Frames on show between ``start`` and ``end``, at times after ``start``."""
    pending: _Shown | None = None
    for frame in frames:
        if end is not None and frame.start >= end:
            pending = pending and pending._replace(end=end)
            break
        if pending is not None and frame.start > start:
            yield _Shown(pending.picture, max(Fraction(0), pending.start - start), frame.start - start)
        pending = frame
    if pending is not None and pending.end > start:
        last = pending.end if end is None else min(end, pending.end)
        yield _Shown(pending.picture, max(Fraction(0), pending.start - start), last - start)


class _Encoder:
    """Writes frames as H.264, upright and scaled; the first one decides the size."""

    def __init__(self, output: Any, reencoding: Reencoding, rate: Fraction | None) -> None:
        self._output = output
        self._reencoding = reencoding
        self._rate = Fraction(rate or 25).limit_denominator(1 << 15)
        self._reformatter = VideoReformatter()
        self._stream: Any = None
        self._waiting: Any = None  # the last packet: its duration is known when the next frame comes
        self._last_ticks = -1
        self._end_ticks = 0
        self.num_frames = 0

    def write(self, shown: _Shown) -> None:
        picture = self._scaled(shown.picture)
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

    def _scaled(self, picture: Any) -> Any:
        quarter_turns = round(picture.rotation / 90) % 4
        size = (picture.height, picture.width) if quarter_turns % 2 else (picture.width, picture.height)
        if self._stream is None:
            self._open(*scaled_size(*size, self._reencoding.size))
        width, height = self._stream.width, self._stream.height
        if quarter_turns:  # a phone's film lies on its side: the turn is made here, once
            pixels = np.rot90(picture.to_ndarray(format="rgb24"), quarter_turns)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        scaled = self._reformatter.reformat(picture, width, height, "yuv420p", interpolation=Interpolation.BICUBIC)
        scaled.pict_type = 0  # the encoder decides about keyframes, not the source
        return scaled

    def _open(self, width: int, height: int) -> None:
        stream = self._output.add_stream("libx264", rate=self._rate, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
        stream.codec_context.gop_size = self._reencoding.keyframe_interval
        stream.codec_context.thread_count = 1  # equal inputs give equal bytes
        self._stream = stream
