"""When every frame of a video is shown, and from which keyframe it can be decoded. Nothing is decoded for that."""

import bisect
import contextlib
from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from datamodules.errors import BrokenMediaError

_LENGTH_TOLERANCE = 0.05
"""A file whose packets end earlier than this part before its declared end was cut off."""

_LONGEST_MS = 1 << 31  # 25 days; what claims to be longer is damaged


class VideoTimeline(NamedTuple):
    """Times of a video's frames. A film has hundreds of thousands, so they lie in plain arrays."""

    shown: Sequence[int]  # increasing, in the stream's time base
    frame_ms: NDArray[np.int64]  # the same in milliseconds after the first frame
    duration_ms: int
    keyframes: Sequence[int]  # times at which keyframes are shown, increasing
    has_times: bool  # False: the container stores no presentation times, and only the order of ``shown`` holds

    def keyframe_before(self, index: int) -> int:
        """When the keyframe is shown that a frame is decoded from."""
        return self.keyframes[max(0, bisect.bisect_right(self.keyframes, self.shown[index]) - 1)]


class _Packets:
    """What the packets tell, in the order of the file."""

    def __init__(self) -> None:
        self.shown = array("q")  # presentation times
        self.keyframes = array("q")
        self.last = (-(1 << 63), 0)  # presentation time, duration
        self.has_times = True
        self.num_read = 0

    def add(self, packet: Any, where: str) -> None:
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is None:
            raise BrokenMediaError(f"{where}: frame {len(self.shown)} has no time stamp; encode the video again")
        self.has_times &= packet.pts is not None
        self.shown.append(shown)
        self.last = max(self.last, (shown, packet.duration or 0))
        if packet.is_keyframe:
            self.keyframes.append(shown)

    def end(self) -> int:
        """When the last frame ends; a last frame without a duration lasts as long as the mean one."""
        shown, duration = self.last
        return shown + (duration or (shown - min(self.shown)) // max(1, len(self.shown) - 1))


def read_timeline(container: Any, where: str) -> VideoTimeline:
    """Read the times of all packets of the first video stream.

    Args:
        container: PyAV's open container.
        where: Shard and key, for messages.

    Returns:
        The timeline.

    Raises:
        BrokenMediaError: The file is cut off, has no frame, or claims an absurd length.
    """
    stream = container.streams.video[0]
    packets = _Packets()
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        packets.num_read += 1
        if packet.is_discard:
            continue
        if packet.is_corrupt:
            raise BrokenMediaError(f"{where}: the video breaks off after {len(packets.shown)} frames; fetch it again")
        packets.add(packet, where)
    _check_whole(container, packets, where)
    shown = np.sort(np.frombuffer(packets.shown, dtype=np.int64))
    return VideoTimeline(
        shown=array("q", shown.tobytes()),
        frame_ms=_milliseconds(shown, stream.time_base),
        duration_ms=max(1, round((packets.end() - min(packets.shown)) * stream.time_base * 1000)),
        keyframes=sorted(packets.keyframes) or [int(shown[0])],
        # What FFmpeg gives for packets of an AVI is a guess.
        has_times=packets.has_times and container.format.name != "avi",
    )


def _milliseconds(shown: NDArray[np.int64], time_base: Fraction) -> NDArray[np.int64]:
    """Times after the first one in milliseconds, rounded half to even."""
    scaled = (shown - shown[0]) * (time_base.numerator * 1000)
    whole, rest = np.divmod(scaled, time_base.denominator)
    twice = 2 * rest
    rounded: NDArray[np.int64] = whole + (
        (twice > time_base.denominator) | ((twice == time_base.denominator) & (whole % 2 == 1))
    )
    return rounded


def _check_whole(container: Any, packets: _Packets, where: str) -> None:
    stream = container.streams.video[0]
    if not packets.shown:
        raise BrokenMediaError(f"{where}: the video has no frame")
    if "mov" in container.format.name and packets.num_read < stream.frames:  # elsewhere the listed number is a guess
        raise BrokenMediaError(
            f"{where}: the file lists {stream.frames} frames but holds {packets.num_read}; fetch it again"
        )
    seconds = float((packets.end() - min(packets.shown)) * stream.time_base)
    if seconds * 1000 > _LONGEST_MS:
        raise BrokenMediaError(f"{where}: the video claims to last {seconds / 86400:.0f} days; it is damaged")
    declared = _declared_seconds(container, stream)
    slack = _LENGTH_TOLERANCE * declared + 2 * seconds / len(packets.shown)
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
