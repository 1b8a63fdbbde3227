"""Finds a row's media file, and learns from its header (and its end) whether it is whole, how large and how long.

The annotations were written by others. A path in them never leaves the media roots: absolute paths, ``..`` and urls are
refused. Links inside the media roots are the user's own and are followed.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import av
from PIL import Image, ImageOps

from datamodules.convert.problems import Reason, RowProblem
from datamodules.schema import IMAGE_ENDINGS, VIDEO_ENDINGS

_READ_FORMATS = ("JPEG", "PNG", "WEBP")  # what the reader of shards decodes, as Pillow names them
_ENCODED_FORMATS = (*_READ_FORMATS, "GIF", "BMP", "TIFF")  # not all: for some Pillow starts other programs

# A playlist that is called .mp4 would make FFmpeg open whatever it names, here or elsewhere.
_SAFE_OPENING = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,gif,asf,flv,mpeg,mpegts,ogg,rm",
    "protocol_whitelist": "file",
}

_TRIED_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_SAME_AS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "m4v": "mp4", "qt": "mov"}
_MOST_PIXELS = 80_000_000
_CUT_OFF_PART = 0.05  # of the length that a file declares; less may be rounding
_CUT_OFF_SECONDS = 1.0


class VideoFacts(NamedTuple):
    """What a video's file tells of it."""

    width: int  # as it is shown, after the turn that a player makes
    height: int
    duration_ms: int


def checked_path(name: str) -> str:
    """Bring the path that a row names into one form.

    Raises:
        RowProblem: It could lead out of the media roots, or cannot be a path.
    """
    if "://" in name or name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name):
        raise RowProblem(Reason.REFUSED_PATH, f"path {name[:200]!r} is refused: absolute paths, '..' and urls are")
    path = PurePosixPath(name).as_posix()
    if path == "." or not path.isprintable():
        raise RowProblem(Reason.REFUSED_PATH, f"path {name[:200]!r} cannot be the path of a file")
    return path


def find_media(name: str, folders: tuple[str, ...]) -> Path:
    """Find a media file; a path without an ending is tried with those of videos.

    Raises:
        RowProblem: It is in none of the folders, or is itself a folder: one of frames is not supported.
    """
    endings = ("",) if PurePosixPath(name).suffix.lower().lstrip(".") in _known_endings() else ("", *_TRIED_ENDINGS)
    for folder in folders:
        for ending in endings:
            path = Path(folder, name + ending)
            if path.is_file():
                return path
    if any(Path(folder, name).is_dir() for folder in folders):
        raise RowProblem(Reason.UNSUPPORTED, f"{name} is a folder, of frames perhaps; encode them as a video first")
    tried = f" (endings tried: {' '.join(endings[1:])})" if len(endings) > 1 else ""
    raise RowProblem(Reason.MISSING, f"{name} is not in {' or '.join(folders)}{tried}; fetch it, or set --media-root")


def stored_ending(path: Path) -> str | None:
    """The ending under which a shard stores this file as it is; None where it cannot."""
    ending = path.suffix.lower().lstrip(".")
    ending = _SAME_AS.get(ending, ending)
    return ending if ending in VIDEO_ENDINGS | IMAGE_ENDINGS else None


def probe_image(path: Path) -> tuple[int, int]:
    """Width and height of a picture, once it was decoded at the smallest scale that its format has.

    Raises:
        RowProblem: It is no whole JPEG, PNG or WebP picture, or one of absurd size.
    """
    try:
        with Image.open(path, formats=_READ_FORMATS) as image:
            _refuse_bomb(path, image)
            turned = image.getexif().get(0x0112, 1) >= 5
            width, height = image.size
            image.draft("RGB", (width // 8, height // 8))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from error
    return (height, width) if turned else (width, height)


def open_image(path: Path) -> Image.Image:
    """Decode a picture, upright and in RGB.

    Raises:
        RowProblem: It cannot be decoded.
    """
    try:
        with Image.open(path, formats=_ENCODED_FORMATS) as image:
            _refuse_bomb(path, image)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from error


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


def damaged(path: Path, why: object) -> RowProblem:
    """Say that a file is no media that could be decoded."""
    return RowProblem(Reason.DAMAGED, f"{path} cannot be decoded ({why}); fetch it again")


def _refuse_bomb(path: Path, image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise damaged(path, f"{image.width}x{image.height} pixels are more than {_MOST_PIXELS}, a decompression bomb")


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


def _known_endings() -> frozenset[str]:
    return VIDEO_ENDINGS | IMAGE_ENDINGS | _SAME_AS.keys()
