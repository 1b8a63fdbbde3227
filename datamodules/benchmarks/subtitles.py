"""Subtitles of a video: SubRip files, and the JSON lists of LongVideoBench."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.benchmarks.clock_times import to_seconds

_TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


class Subtitle(NamedTuple):
    """A line of text and when it is shown, in milliseconds."""

    start_ms: int
    end_ms: int
    text: str

    @property
    def middle_ms(self) -> int:
        """The time half-way."""
        return (self.start_ms + self.end_ms) // 2


def read_subtitles(path: Path, first_s: float = 0.0) -> list[Subtitle]:
    """Read subtitles in the order of time.

    Args:
        path: A SubRip file (``.srt``), or a JSON list of objects with ``start``, ``end`` and ``line``, or with
            ``timestamp`` (start and end) and ``text``.
        first_s: Time of the subtitles' clock at which the video begins, in seconds.

    Returns:
        The lines that end after the video begins, with times of the video.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no subtitles {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _of_json(json.loads(text)) if path.suffix == ".json" else _of_srt(text)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} holds no subtitles ({error}); download it again") from error
    shift = round(1000 * first_s)
    moved = [Subtitle(max(0, each.start_ms - shift), each.end_ms - shift, each.text) for each in found]
    return sorted(each for each in moved if each.end_ms > 0 and each.text)


def shown_at(subtitles: Iterable[Subtitle], times_ms: Sequence[int]) -> list[Subtitle]:
    """Those that are shown while at least one frame is, each once."""
    return [each for each in subtitles if any(each.start_ms <= time <= each.end_ms for time in times_ms)]


def _of_srt(text: str) -> list[Subtitle]:
    found = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    places = [(number, times) for number, line in enumerate(lines) if (times := _TIMES.search(line))]
    ends = [number for number, _ in places[1:]] + [len(lines) + 1]
    for (number, times), end in zip(places, ends, strict=True):
        words = lines[number + 1 : end]
        if end <= len(lines) and words and words[-1].strip().isdigit():
            words = words[:-1]  # the number of the next one
        start, stop = (_milliseconds(times.groups()[first : first + 4]) for first in (0, 4))
        found.append(Subtitle(start, stop, _plain(" ".join(words))))
    return found


def _of_json(rows: Any) -> list[Subtitle]:
    found = []
    for row in rows:
        start, end = row["timestamp"] if "timestamp" in row else (row["start"], row["end"])
        end = end if end is not None else start
        text = row["text"] if "timestamp" in row or "text" in row else row["line"]
        found.append(Subtitle(round(1000 * to_seconds(start)), round(1000 * to_seconds(end)), _plain(text)))
    return found


def _milliseconds(parts: Sequence[str]) -> int:
    hours, minutes, seconds, fraction = parts
    return 1000 * (3600 * int(hours) + 60 * int(minutes) + int(seconds)) + round(1000 * float(f"0.{fraction}"))


def _plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", str(text)).split())
