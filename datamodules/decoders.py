"""Video decoders behind one small interface. A new backend is one class here and one line in ``_BACKENDS``.

Bytes come from memory, only the chosen frames are kept, and one thread decodes: the data loader's worker processes
are what runs side by side.
"""

import bisect
import contextlib
import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import BrokenMediaError

_SEEK_GAIN_FRAMES = 8
"""Seek only where it skips more frames than this; a shorter gap is decoded faster than the decoder is reset."""

_LENGTH_TOLERANCE = 0.05
"""A file whose packets end earlier than this part before its declared end was cut off."""


class VideoDecoder(Protocol):
    """An open video."""

    @property
    def frame_ms(self) -> Sequence[int]:
        """When every frame is first shown, increasing, milliseconds after the first one."""

    @property
    def duration_ms(self) -> int:
        """When the last frame ends."""

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Decode the frames of these increasing indices, uint8 ``[T, 3, H, W]``."""


def open_video(data: bytes, backend: str = "pyav", *, where: str = "video") -> VideoDecoder:
    """Open a video from memory.

    Args:
        data: The file's bytes.
        backend: ``pyav`` or ``decord``.
        where: Shard and key, for messages.

    Returns:
        The open video.

    Raises:
        ValueError: There is no such backend.
        ImportError: The backend is not installed.
        BrokenMediaError: The bytes are no whole video.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"video backend {backend!r} is unknown; choose one of {', '.join(_BACKENDS)}")
    return _BACKENDS[backend](data, where)


class _Packet(NamedTuple):
    shown: int  # presentation time, in the stream's time base
    decoded: int  # decoding time, where a seek for this packet must aim
    duration: int
    is_keyframe: bool
    has_time: bool  # False: the container stores no presentation times, and ``shown`` is the decoding time


class PyAVDecoder:
    """Decodes with FFmpeg's libraries through PyAV.

    Reads the packets' times first, without decoding: that gives every frame's exact time, shows whether the file is
    whole, and tells which keyframe to seek to for which frame.

    Args:
        data: The file's bytes.
        where: Shard and key, for messages.

    Raises:
        BrokenMediaError: The bytes are no whole video.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        try:
            with av.open(io.BytesIO(data)) as container:
                if not container.streams.video:
                    raise BrokenMediaError(f"{where}: the file has no video stream")
                packets = _read_packets(container, where)
                self._time_base: Fraction = container.streams.video[0].time_base
        except av.FFmpegError as error:
            raise BrokenMediaError(_broken(where, error)) from error
        self._keyframes = sorted((packet.shown, packet.decoded) for packet in packets if packet.is_keyframe)
        self._can_seek = bool(self._keyframes) and all(packet.has_time for packet in packets)
        self._shown = sorted(packet.shown for packet in packets)
        self._end = _end(packets)

    @property
    def frame_ms(self) -> list[int]:
        """See ``VideoDecoder``."""
        return [self._milliseconds(shown) for shown in self._shown]

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return max(1, self._milliseconds(self._end))

    def frames(self, indices: Sequence[int]) -> Tensor:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        try:
            pictures = self._seek_frames(indices) if self._can_seek else self._count_frames(indices)
            if len(pictures) < len(indices):  # a container whose index misleads the seek: read it from the start
                pictures = self._count_frames(indices)
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(_broken(self._where, error)) from error
        if len(pictures) < len(indices):
            raise BrokenMediaError(
                f"{self._where}: only {len(pictures)} of {len(indices)} chosen frames could be decoded, though the "
                f"file lists {len(self._shown)}; encode it again or leave it out"
            )
        if len({picture.shape for picture in pictures}) > 1:
            raise BrokenMediaError(f"{self._where}: the frame size changes within the video; encode it again")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]

    def _seek_frames(self, indices: Sequence[int]) -> list[np.ndarray]:
        pictures: list[np.ndarray] = []
        with _open_decoding(self._data) as (container, stream):
            decoded: Iterator[Any] = container.decode(stream)
            position = 0
            for index in indices:
                keyframe = bisect.bisect_right(self._keyframes, (self._shown[index], float("inf"))) - 1
                shown, aim = self._keyframes[max(keyframe, 0)]
                if bisect.bisect_left(self._shown, shown) - position > _SEEK_GAIN_FRAMES:
                    container.seek(aim, stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    if frame.pts is not None and frame.pts >= self._shown[index]:
                        if frame.pts == self._shown[index]:
                            pictures.append(_picture(frame))
                        break
                position = index + 1
        return pictures

    def _count_frames(self, indices: Sequence[int]) -> list[np.ndarray]:
        wanted = set(indices)
        with _open_decoding(self._data) as (container, stream):
            pictures = []
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    pictures.append(_picture(frame))
                if number == indices[-1]:
                    break
        return pictures

    def _milliseconds(self, shown: int) -> int:
        return int(round((shown - self._shown[0]) * self._time_base * 1000))


@contextlib.contextmanager
def _open_decoding(data: bytes) -> Iterator[tuple[Any, Any]]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _picture(frame: Any) -> np.ndarray:
    # Phones store upright films lying down, with the turn that a player has to make.
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    return np.rot90(pixels, round(frame.rotation / 90))


def _read_packets(container: Any, where: str) -> list[_Packet]:
    stream = container.streams.video[0]
    packets: list[_Packet] = []
    num_read = 0
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        num_read += 1
        if packet.is_discard:
            continue
        if packet.is_corrupt:
            raise BrokenMediaError(f"{where}: the video breaks off after {len(packets)} frames; fetch the file again")
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is None:
            raise BrokenMediaError(f"{where}: frame {len(packets)} has no time stamp; encode the video again")
        decoded = shown if packet.dts is None else min(packet.dts, shown)
        packets.append(_Packet(shown, decoded, packet.duration or 0, packet.is_keyframe, packet.pts is not None))
    if not packets:
        raise BrokenMediaError(f"{where}: the video has no frame")
    if "mov" in container.format.name and num_read < stream.frames:  # elsewhere the listed number is a guess
        raise BrokenMediaError(f"{where}: the file lists {stream.frames} frames but holds {num_read}; fetch it again")
    _check_length(container, packets, where)
    return packets


def _check_length(container: Any, packets: Sequence[_Packet], where: str) -> None:
    stream = container.streams.video[0]
    declared = _declared_seconds(container, stream)
    seconds = float((_end(packets) - min(packet.shown for packet in packets)) * stream.time_base)
    slack = _LENGTH_TOLERANCE * declared + 3 * seconds / len(packets)
    if seconds < declared - slack:
        raise BrokenMediaError(
            f"{where}: the video breaks off after {seconds:.1f} s of {declared:.1f} s; fetch the file again"
        )


def _declared_seconds(container: Any, stream: Any) -> float:
    """The video's length as its file tells it, 0 where it does not."""
    if "DURATION" in stream.metadata:  # Matroska's and WebM's, as 00:00:05.000000000
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / av.time_base
    return 0.0


def _end(packets: Sequence[_Packet]) -> int:
    """When the last frame ends; a last frame without a duration lasts as long as the mean one."""
    last = max(packets)
    first = min(packets)
    mean = (last.shown - first.shown) // max(1, len(packets) - 1)
    return last.shown + (last.duration or mean)


def _broken(where: str, error: object) -> str:
    return f"{where}: the video cannot be decoded ({error}); fetch or encode it again, or leave the sample out"


class DecordDecoder:
    """Decodes with decord, often faster on short clips.

    Source: https://github.com/dmlc/decord (0.6.0 is its last release; it does not turn the films of phones upright,
    and can hang on a container that lists more frames than it holds: its issues 269 and 373).

    Args:
        data: The file's bytes.
        where: Shard and key, for messages.

    Raises:
        ImportError: decord is not installed.
        BrokenMediaError: The bytes are no whole video.
    """

    def __init__(self, data: bytes, where: str) -> None:
        try:
            decord = importlib.import_module("decord")
        except ImportError as error:
            raise ImportError(
                "the video backend 'decord' needs the package decord (pip install 'decord==0.6.0', x86-64 Linux only); "
                "install it or choose the backend 'pyav'"
            ) from error
        self._where = where
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
            times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))  # [frames, start and end]
        except (decord.DECORDError, RuntimeError) as error:
            raise BrokenMediaError(_broken(where, _first_line(error))) from error
        if not len(times):
            raise BrokenMediaError(f"{where}: the video has no frame")
        self._duration_ms = max(1, int(round((times[-1, 1] - times[0, 0]) * 1000)))
        self._starts = np.rint((times[:, 0] - times[0, 0]) * 1000).astype(int)
        self._error = decord.DECORDError

    @property
    def frame_ms(self) -> list[int]:
        """See ``VideoDecoder``."""
        return [int(start) for start in self._starts]

    @property
    def duration_ms(self) -> int:
        """See ``VideoDecoder``."""
        return self._duration_ms

    def frames(self, indices: Sequence[int]) -> Tensor:
        """See ``VideoDecoder``.

        Raises:
            BrokenMediaError: A chosen frame cannot be decoded.
        """
        try:
            pictures = self._reader.get_batch(list(indices)).asnumpy()
        except (self._error, RuntimeError) as error:
            raise BrokenMediaError(_broken(self._where, _first_line(error))) from error
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]  # decord adds a stack trace of its C++ code


_BACKENDS: dict[str, Callable[[bytes, str], VideoDecoder]] = {"pyav": PyAVDecoder, "decord": DecordDecoder}
