"""Learns from a video's header, first frame and last packets whether it is whole, how large and how long."""

from pathlib import Path
from typing import Any, NamedTuple

import av

from datamodules.convert.problems import damaged

# A playlist that is called .mp4 would make FFmpeg open whatever it names, here or elsewhere.
_SAFE_OPENING = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,gif,asf,flv,mpeg,mpegts,ogg,rm",
    "protocol_whitelist": "file",
}

_CUT_OFF_PART = 0.05  # of the length that a file declares; less may be rounding
_CUT_OFF_SECONDS = 1.0


class VideoFacts(NamedTuple):
    """What a video's file tells of it."""

    width: int  # as it is shown, after the turn that a player makes
    height: int
    duration_ms: int


def probe_video(path: Path) -> VideoFacts:
    """Read a video's header, decode its first frame and read the packets at its end.

    Raises:
        RowProblem: It cannot be decoded, or breaks off before the end that its header declares.
    """
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise damaged(path, "it has no frame")
            size = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            declared = declared_seconds(container, stream)
            end = _end_seconds(container, stream, path, declared)
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        raise damaged(path, error) from error
    if end < declared - max(_CUT_OFF_SECONDS, declared * _CUT_OFF_PART):
        raise damaged(path, f"it breaks off after {end:.1f} s of {declared:.1f} s")
    return VideoFacts(*size, max(1, round(1000 * max(declared, end))))


def open_container(path: Path) -> Any:
    """Open a video file; titles in old encodings are common, and nothing to fail at."""
    return av.open(str(path), metadata_errors="replace", options=_SAFE_OPENING)


def video_stream(container: Any, path: Path) -> Any:
    """The video stream, set to be decoded by one thread: worker processes are what runs side by side.

    Raises:
        RowProblem: There is none, or its codec is unknown.
    """
    if not container.streams.video:
        raise damaged(path, "it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise damaged(path, "its video codec is unknown")
    stream.codec_context.thread_count = 1
    return stream


def declared_seconds(container: Any, stream: Any) -> float:
    """The video's length as its file tells it, 0 where it does not."""
    hours, _, rest = str(stream.metadata.get("DURATION", "")).partition(":")  # Matroska's, as 00:00:05.000000000
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600.0 + int(minutes) * 60.0 + float(seconds)
    except ValueError:
        pass
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / av.time_base


def _end_seconds(container: Any, stream: Any, path: Path, declared: float) -> float:
    """When the last packet ends: read after a seek near the declared end, else (no length, no index) from the start."""
    first = stream.start_time or 0
    if declared > 2 * _CUT_OFF_SECONDS:
        try:
            container.seek(first + int((declared - _CUT_OFF_SECONDS) / stream.time_base), stream=stream)
            if (end := _last_packet_end(container, stream, path)) is not None:
                return float((end - first) * stream.time_base)
        except av.FFmpegError:  # not every container can seek
            pass
    with open_container(path) as again:
        stream = again.streams.video[0]
        end = _last_packet_end(again, stream, path)
    return 0.0 if end is None else float((end - first) * stream.time_base)


def _last_packet_end(container: Any, stream: Any, path: Path) -> int | None:
    end: int | None = None
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise damaged(path, "its last packets are cut off")
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is not None:
            end = max(end or 0, shown + (packet.duration or 0))
    return end
