"""Reads the times of all frames of a video and of its keyframes, without decoding.

Times count from the first frame that can be decoded. Players count from the container's zero, which may be earlier:
sound may begin before the picture, and a recording may start at any time of day.
"""

import bisect
import contextlib
from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.format import Flags
from numpy.typing import NDArray

from datamodules.errors import BrokenMediaError
from datamodules.media.shown_packets import frame_test

_LENGTH_TOLERANCE = 0.05
"""A file is cut off if its packets end earlier than its declared length by more than this share of it."""

_SHORTEST_PART = 4
"""Where FFmpeg guesses durations, one that is shorter than the mean divided by this is wrong."""

_LONGEST_MS = 1 << 31  # 25 days; a file that claims to be longer is damaged

_LONGEST_GAP_S = 10.0
"""In formats whose clock may restart, a longer step is a jump. Source: FFmpeg's dts_delta_threshold."""


class VideoTimeline(NamedTuple):
    """Times of a video's frames, in plain arrays, since a film has hundreds of thousands."""

    format_name: str  # FFmpeg's name of the container's format
    stream_index: int  # which of the file's streams was read
    shown: Sequence[int]  # increasing, in the stream's time base
    end: int  # end of the last frame, in the stream's time base
    time_base: Fraction  # seconds
    frame_ms: NDArray[np.int64]  # ``shown`` in milliseconds after the first frame
    keyframes: Sequence[int]  # times of keyframes, increasing
    has_times: bool  # False: the container stores no presentation times, so only the order of ``shown`` is right
    order_is_guessed: bool  # as above, and the codec may store frames in any order
    starts_with_keyframe: bool  # False: it may be impossible to decode the first frames
    may_store_fields: bool  # a packet may hold half a frame (a field), so at least half of the packets give a frame

    @property
    def duration_ms(self) -> int:
        """End of the last frame, in milliseconds after the start of the first one."""
        return max(1, round((self.end - self.shown[0]) * self.time_base * 1000))

    def keyframe_before(self, index: int) -> int:
        """Time of the keyframe from which a frame is decoded, in the stream's time base."""
        return self.keyframes[max(0, bisect.bisect_right(self.keyframes, self.shown[index]) - 1)]

    def index_at(self, shown: int) -> int:
        """Index of the frame on display at a time of the stream's clock; 0 before the first one."""
        return max(0, bisect.bisect_right(self.shown, shown) - 1)

    def starting_at(self, shown: int) -> "VideoTimeline":
        """The timeline without the frames before this time."""
        first = min(bisect.bisect_left(self.shown, shown), len(self.shown) - 1)
        times = array("q", self.shown[first:])
        frame_ms = _milliseconds(np.frombuffer(times, dtype=np.int64), self.time_base)
        return self._replace(shown=times, frame_ms=frame_ms, starts_with_keyframe=True)


class _Packets:
    """Times of packets, collected in the order of the file."""

    def __init__(self, container: Any, time_base: Fraction, where: str) -> None:
        self.shown = array("q")  # presentation times
        self.keyframes = array("q")
        self.last = (-(1 << 63), 0)  # presentation time, duration
        self._last_decoded = -(1 << 63)
        self.has_times = True
        self.num_read = 0
        self.starts_with_keyframe = True
        self.may_jump = bool(container.format.flags & Flags.ts_discont.value)
        self._durations_are_guessed = "matroska" in container.format.name
        self._times_are_guessed = container.format.name == "avi"
        self.is_reordered = False
        self._time_base = time_base
        self._where = where

    def add(self, packet: Any) -> None:
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is None:
            raise BrokenMediaError(f"{self._where}: frame {len(self.shown)} has no time stamp; encode the video again")
        decoded = self._last_decoded if packet.dts is None else packet.dts
        self._refuse_jump(shown, decoded, packet.is_keyframe)
        self._last_decoded = max(self._last_decoded, decoded)
        self.has_times &= packet.pts is not None
        self.is_reordered |= shown < self.last[0]
        self.shown.append(shown)
        self.last = max(self.last, (shown, packet.duration or 0))
        if packet.is_keyframe:
            self.keyframes.append(shown)
        elif not self.keyframes or shown < self.keyframes[0]:
            self.starts_with_keyframe = False

    def end(self) -> int:
        """End of the last frame; without a duration of its own it gets the mean one."""
        shown, duration = self.last
        mean = (shown - min(self.shown)) // max(1, len(self.shown) - 1)
        if self._durations_are_guessed and duration * _SHORTEST_PART < mean:
            return shown + mean
        return shown + (duration or mean)

    def _refuse_jump(self, shown: int, decoded: int, is_keyframe: bool) -> None:
        latest = self.last[0]
        # A keyframe is displayed after earlier frames. A B-frame marked as a keyframe is at least decoded after them.
        back = is_keyframe and shown < latest and decoded < self._last_decoded and not self._times_are_guessed
        gap = (shown - latest) * self._time_base if self.shown and self.may_jump else 0
        if back or gap > _LONGEST_GAP_S:
            before, after = (float(time * self._time_base) for time in (latest, shown))
            raise BrokenMediaError(
                f"{self._where}: its times jump from {before:.1f} s to {after:.1f} s at frame {len(self.shown)}, as in "
                "files that were joined; repair them with 'ffmpeg -i FILE -c copy MENDED.mp4'"
            )


def read_timeline(container: Any, stream: Any, where: str) -> VideoTimeline:
    """Read the times of all packets of a video stream that show a frame.

    Args:
        container: PyAV's open container.
        stream: Its video stream.
        where: Shard and key, for messages.

    Returns:
        The timeline.

    Raises:
        BrokenMediaError: The file is cut off, has no frame, jumps in time, or claims to last for weeks.
    """
    packets = _Packets(container, stream.time_base, where)
    broken_after: int | None = None
    shows_frame = frame_test(stream.codec_context.name)
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        packets.num_read += 1
        if packet.is_discard:
            continue
        if packet.is_corrupt and broken_after is None:
            broken_after = len(packets.shown)
            if not packets.may_jump:  # in joined files packets look damaged too; there the jump in time is reported
                break
        if shows_frame is None or shows_frame(packet):
            packets.add(packet)
    if broken_after is not None:
        raise BrokenMediaError(
            f"{where}: the video breaks off, or is damaged, after {broken_after} frames; fetch it again"
        )
    _check_complete(container, stream, packets, where)
    shown = np.sort(np.frombuffer(packets.shown, dtype=np.int64))
    is_avi = container.format.name == "avi"  # no stored times, and often wrong keyframes
    codec, has_b_frames = stream.codec_context.name, bool(stream.codec_context.has_b_frames)
    may_reorder = codec in ("h264", "hevc") or has_b_frames
    # Some programs store Xvid's B-frames with the times at which they are decoded.
    lacks_times = not packets.has_times or (codec == "mpeg4" and has_b_frames and not packets.is_reordered)
    return VideoTimeline(
        format_name=container.format.name,
        stream_index=stream.index,
        shown=array("q", shown.tobytes()),
        end=max(packets.end(), int(shown[-1]) + 1),
        time_base=stream.time_base,
        frame_ms=_milliseconds(shown, stream.time_base),
        keyframes=(not is_avi and sorted(packets.keyframes)) or [int(shown[0])],
        has_times=not lacks_times and not (is_avi and may_reorder),
        order_is_guessed=lacks_times or (is_avi and codec in ("h264", "hevc")),
        starts_with_keyframe=packets.starts_with_keyframe,
        may_store_fields=codec in ("h264", "hevc"),
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


def _check_complete(container: Any, stream: Any, packets: _Packets, where: str) -> None:
    if not packets.shown:
        raise BrokenMediaError(f"{where}: the video has no frame")
    # An MP4 lists all frames but those that its edit list cuts off; other formats list only some.
    if "mov" in container.format.name and packets.num_read < len(stream.index_entries):
        raise BrokenMediaError(
            f"{where}: the file lists {len(stream.index_entries)} frames but holds {packets.num_read}; fetch it again"
        )
    start = min(packets.shown)
    seconds = float((packets.end() - start) * stream.time_base)
    if seconds * 1000 > _LONGEST_MS:
        raise BrokenMediaError(f"{where}: the video claims to last {seconds / 86400:.0f} days; it is damaged")
    # Some formats and programs count the length from the first frame, others from the container's zero.
    declared = _declared_seconds(container, stream) - max(0.0, float(start * stream.time_base))
    slack = _LENGTH_TOLERANCE * declared + 2 * seconds / len(packets.shown)
    if seconds < declared - slack:
        raise BrokenMediaError(
            f"{where}: the video breaks off after {seconds:.1f} s of {declared:.1f} s; fetch the file again"
        )


def _declared_seconds(container: Any, stream: Any) -> float:
    """The length or end of the video as the file declares it; 0 where it does not."""
    if "DURATION" in stream.metadata:  # Matroska's and WebM's, as 00:00:05.000000000
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = str(stream.metadata["DURATION"]).split(":")
            return int(hours) * 3600.0 + int(minutes) * 60.0 + float(seconds)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return 0.0
