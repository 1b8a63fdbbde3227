"""Decodes videos with FFmpeg's libraries through PyAV."""

import bisect
import contextlib
import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import BrokenMediaError, undecodable

_SEEK_GAIN_FRAMES = 8
"""Seek only where it skips more frames than this; a shorter gap is decoded faster than the decoder is reset."""

_LENGTH_TOLERANCE = 0.05
"""A file whose packets end earlier than this part before its declared end was cut off."""


class _Packet(NamedTuple):
    shown: int  # presentation time, in the stream's time base
    decoded: int  # decoding time, where a seek for this packet must aim
    duration: int
    is_keyframe: bool
    has_time: bool  # False: the container stores no presentation times, and only the order of ``shown`` holds


class PyAVDecoder:
    """An open video.

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
            with _open(data) as container:
                if not container.streams.video:
                    raise BrokenMediaError(f"{where}: the file has no video stream")
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise BrokenMediaError(f"{where}: its video codec is unknown; encode the video again as H.264")
                packets = _read_packets(container, where)
                self._time_base: Fraction = stream.time_base
        except av.FFmpegError as error:
            raise BrokenMediaError(undecodable(where, error)) from error
        self._keyframes = sorted(packet for packet in packets if packet.is_keyframe) or [min(packets)]
        self._has_times = all(packet.has_time for packet in packets)
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
            pictures = self._frames_by_time(indices, seek=True) if self._has_times else self._frames_by_count(indices)
            if self._has_times and len(pictures) < len(indices):  # the container's index misleads the seek
                pictures = self._frames_by_time(indices, seek=False)
        except (av.FFmpegError, OSError) as error:
            raise BrokenMediaError(undecodable(self._where, error)) from error
        if len(pictures) < len(indices):
            raise BrokenMediaError(
                f"{self._where}: only {len(pictures)} of {len(indices)} chosen frames could be decoded, though the "
                f"file lists {len(self._shown)}; encode it again or leave it out"
            )
        if len({picture.shape for picture in pictures}) > 1:
            raise BrokenMediaError(f"{self._where}: the frame size changes within the video; encode it again")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()  # [T, 3, H, W]

    def _frames_by_time(self, indices: Sequence[int], *, seek: bool) -> list[np.ndarray]:
        pictures: list[np.ndarray] = []
        with _open_decoding(self._data) as (container, stream):
            decoded: Iterator[Any] = container.decode(stream)
            position = 0
            for index in indices:
                keyframe = self._keyframe_before(index)
                if seek and bisect.bisect_left(self._shown, keyframe.shown) - position > _SEEK_GAIN_FRAMES:
                    container.seek(keyframe.decoded, stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    if frame.pts is not None and frame.pts >= self._shown[index]:
                        if frame.pts == self._shown[index]:
                            pictures.append(_picture(frame))
                        break
                position = index + 1
        return pictures

    def _keyframe_before(self, index: int) -> _Packet:
        number = bisect.bisect_right(self._keyframes, self._shown[index], key=lambda packet: packet.shown)
        return self._keyframes[max(0, number - 1)]

    def _frames_by_count(self, indices: Sequence[int]) -> list[np.ndarray]:
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
        return round((shown - self._shown[0]) * self._time_base * 1000)


def _open(data: bytes) -> Any:
    # Titles and comments in old encodings are common, and nothing to fail at.
    return av.open(io.BytesIO(data), metadata_errors="replace")


@contextlib.contextmanager
def _open_decoding(data: bytes) -> Iterator[tuple[Any, Any]]:
    with _open(data) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _picture(frame: Any) -> np.ndarray:
    # Phones store upright films lying down, with the turn that a player has to make.
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    return np.rot90(pixels, round(frame.rotation / 90))


def _read_packets(container: Any, where: str) -> list[_Packet]:
    stream = container.streams.video[0]
    stores_times = container.format.name != "avi"  # what FFmpeg gives for packets of an AVI is a guess
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
        has_time = stores_times and packet.pts is not None
        packets.append(_Packet(shown, decoded, packet.duration or 0, packet.is_keyframe, has_time))
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
    slack = _LENGTH_TOLERANCE * declared + 2 * seconds / len(packets)
    if seconds < declared - slack:
        raise BrokenMediaError(
            f"{where}: the video breaks off after {seconds:.1f} s of {declared:.1f} s; fetch the file again"
        )


def _declared_seconds(container: Any, stream: Any) -> float:
    """The video's length as its file tells it, 0 where it does not."""
    if "DURATION" in stream.metadata:  # Matroska's and WebM's, as 00:00:05.000000000
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = str(stream.metadata["DURATION"]).split(":")
            return int(hours) * 3600.0 + int(minutes) * 60.0 + float(seconds)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return 0.0


def _end(packets: Sequence[_Packet]) -> int:
    """When the last frame ends; a last frame without a duration lasts as long as the mean one."""
    last = max(packets)
    first = min(packets)
    mean = (last.shown - first.shown) // max(1, len(packets) - 1)
    return last.shown + (last.duration or mean)
