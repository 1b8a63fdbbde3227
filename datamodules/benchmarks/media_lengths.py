"""Looks for the media of questions, and measures the videos' lengths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.benchmarks.item import BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.media_search import find_media
from datamodules.convert.row_problems import RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.errors import SampleError
from datamodules.media.file_formats import HEAD_BYTES, VIDEO_FORMATS, format_of
from datamodules.shards.member_names import IMAGE_ENDINGS


class VideoLengths(NamedTuple):
    """Lengths in seconds of the videos that are there, and a problem for each that is not, or is damaged."""

    seconds: dict[str, float]
    problems: list[Problem]


def find_lengths(items: Sequence[BenchmarkItem], folder: Path) -> VideoLengths:
    """Look for every medium once.

    Args:
        items: Questions.
        folder: The folder of media.
    """
    parts = {part.path: part for item in items for part in item.media}
    seconds, problems = dict[str, float](), list[Problem]()
    for name, part in parts.items():
        try:
            length = _seconds(find_media(folder, name), part)
        except (OSError, SampleError, RowProblem, ValueError) as error:  # ValueError: a name with a NUL
            problems.append(Problem(name, str(error)))
        else:
            if length is not None:
                seconds[name] = length
    return VideoLengths(seconds, problems)


def _seconds(path: Path, part: MediaPart) -> float | None:
    """Length of a video or folder of frames; None for a picture."""
    if part.frames_per_second is not None:
        endings = tuple(f".{ending}" for ending in IMAGE_ENDINGS)
        frames = sum(name.lower().endswith(endings) for name in os.listdir(path))
        if not frames:
            raise SampleError(f"{path} has no picture; expected one for each frame")
        return frames / part.frames_per_second
    if path.is_dir():
        raise SampleError(f"{path} is a folder; expected a video")
    with path.open("rb") as file:
        form = format_of(file.read(HEAD_BYTES))
    if form is not None and form not in VIDEO_FORMATS and form in ("JPEG", "PNG", "WEBP", "BMP"):
        return None
    return probe_video(path).duration_ms / 1000
