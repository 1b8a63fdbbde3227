"""Opens a video file with FFmpeg and chooses its video stream, for training and conversion alike."""

from typing import Any, BinaryIO

import av

from datamodules.errors import BrokenMediaError, undecodable
from datamodules.media.file_formats import HEAD_BYTES, VIDEO_FORMATS, format_of

STORED_FORMATS = "mov,mp4,matroska,webm,avi,gif"
"""FFmpeg's names of the formats in shards."""

CONVERTED_FORMATS = f"{STORED_FORMATS},asf,flv,mpeg,mpegts,ogg,rm"
"""The formats that the converter can read; none of them refers to other files."""


def check_container(file: BinaryIO, where: str) -> None:
    """Refuse every file that is no video container.

    FFmpeg knows formats that are lists of other files and addresses (HLS playlists, concatenation scripts). With such a
    file, FFmpeg would open any file or connection. So the first bytes are checked here.

    Raises:
        BrokenMediaError: The file is no MP4, MOV, Matroska, WebM, AVI or GIF.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    form = format_of(head)
    if form not in VIDEO_FORMATS:
        found = f"it starts with {head[:12]!r}" if form is None else f"it is {form}"
        raise BrokenMediaError(
            f"{where}: the file is no MP4, MOV, Matroska, WebM, AVI or GIF ({found}); convert it "
            "(--reencode takes more formats), or leave the sample out"
        )


def open_container(file: BinaryIO, formats: str = STORED_FORMATS) -> Any:
    """Open a video file with FFmpeg.

    Args:
        file: The video's file.
        formats: FFmpeg's names of the formats that are tried. Lists of other files are in none of these sets.

    Returns:
        PyAV's open container.

    Raises:
        av.FFmpegError: It has none of these formats.
    """
    file.seek(0)
    # Titles and comments in old encodings are common, and must not be an error.
    return av.open(file, metadata_errors="replace", options={"format_whitelist": formats})


def best_video_stream(container: Any, where: str) -> Any:
    """Choose the video stream that players show: the default or longest one, not a cover picture.

    Args:
        container: PyAV's open container.
        where: File or key, for messages.

    Returns:
        The stream, set to one decoding thread, because several worker processes decode at the same time.

    Raises:
        BrokenMediaError: There is none, or its codec is unknown.
    """
    films = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not films:
        cover = ", only a cover picture" if container.streams.video else ""
        raise BrokenMediaError(undecodable(where, f"it has no video stream{cover}"))
    stream = container.streams.best("video")
    if stream not in films or stream.frames == 1:  # FFmpeg may choose a picture if it knows little of the others
        stream = max(films, key=lambda film: (film.frames != 1, bool(film.disposition.default)))
    if stream.codec_context is None:
        raise BrokenMediaError(f"{where}: its video codec is unknown; encode the video again as H.264")
    stream.codec_context.thread_count = 1
    return stream
