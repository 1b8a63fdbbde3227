"""Looks through the files of a benchmark: how many items, options and videos there are, and everything that is wrong.

``python -m datamodules.benchmarks inspect`` prints what is found here.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import LETTERS, BenchmarkItem, Problem
from datamodules.benchmarks.item_checks import check_items
from datamodules.benchmarks.media_lengths import VideoLengths, find_lengths

_MOST_VALUES = 40


class Inspection(NamedTuple):
    """What the files of a benchmark hold."""

    items: list[BenchmarkItem]
    problems: list[Problem]
    lengths_s: dict[str, float]  # of the videos whose lengths are known, by name


def inspect(benchmark: Benchmark, root: Path, videos: Path | None = None) -> Inspection:
    """Read the files of a benchmark and check everything.

    Args:
        benchmark: Reads the files.
        root: The benchmark's folder.
        videos: Folder of the media; None: media are not looked for.

    Raises:
        FileNotFoundError: A file is missing.
        ImportError: A file needs a package that is not installed.
    """
    try:
        items, problems = benchmark.read(root)
    except (FileNotFoundError, ImportError):
        raise
    except ValueError as error:
        return Inspection([], [Problem(Path(benchmark.questions).name, str(error))], {})
    except Exception as error:  # files of any form are given, and readers expect the published one
        what = f"its reader {type(benchmark).__name__} stopped with {type(error).__name__}: {error}"
        return Inspection([], [Problem(Path(benchmark.questions).name, f"{what}; is the format another one?")], {})
    if not items:
        problems = [*problems, Problem(Path(benchmark.questions).name, "no question can be asked")]
    found = find_lengths(items, videos) if videos is not None else VideoLengths({}, [])
    lengths = {item.media[0].path: item.duration_s for item in items if item.media and item.duration_s is not None}
    measured = {**lengths, **found.seconds}
    timed = [
        item._replace(duration_s=measured[item.media[0].path])
        if item.media and item.media[0].path in measured
        else item
        for item in items
    ]
    every = dict.fromkeys([*problems, *check_items(timed), *found.problems])
    return Inspection(items, list(every), measured)


def describe(found: Inspection) -> list[str]:
    """Lines that say what the files hold; problems last, one a line."""
    items = found.items
    labelled = [item for item in items if item.is_labelled]
    lines = [
        f"items: {len(items):,}, {len(labelled):,} with answer",
        f"videos: {len({part.path for item in items for part in item.media}):,}",
        f"options an item: {_counts(len(item.options) for item in items)}",
        f"right options: {_counts(_letter(item.answer) for item in items if item.answer is not None)}",
    ]
    names = dict.fromkeys(name for item in items for name in item.labels)
    lines += [f"{name}: {_counts(item.labels[name] for item in items if name in item.labels)}" for name in names]
    lines.append(f"length of videos: {_lengths(found)}")
    lines.append(f"parts of videos: {_parts(items)}")
    asked = [item.ask_ms / 1000 for item in items if item.ask_ms is not None]
    if asked:
        lines.append(f"asked at: {_spread(asked)}")
    lines.append(f"problems: {len(found.problems):,}")
    return [
        *map(_printable, lines),
        *(f"  {_printable(each.where)}: {_printable(each.what)}" for each in found.problems),
    ]


def _printable(text: str) -> str:
    """A text on one line, without characters that a terminal cannot show."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def _counts(values: Iterable[object]) -> str:
    counted = Counter(values)
    shown = sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))
    more = f", and {len(shown) - _MOST_VALUES} others" if len(shown) > _MOST_VALUES else ""
    return ", ".join(f"{value}: {count:,}" for value, count in shown[:_MOST_VALUES]) + more or "none"


def _letter(answer: int) -> str:
    return LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else str(answer)


def _lengths(found: Inspection) -> str:
    videos = {item.media[0].path for item in found.items if item.media}
    unknown = len(videos - found.lengths_s.keys())
    known = [found.lengths_s[name] for name in videos if name in found.lengths_s]
    left = f"{unknown:,} unknown" if unknown else ""
    return ", ".join(filter(None, (_spread(known) if known else "", left))) or "none"


def _parts(items: Sequence[BenchmarkItem]) -> str:
    parts = [part for item in items for part in item.media if part.start_ms is not None or part.end_ms is not None]
    lengths = [(part.end_ms - (part.start_ms or 0)) / 1000 for part in parts if part.end_ms is not None]
    return f"{len(parts):,}" + (f", {_spread(lengths)}" if lengths else "")


def _spread(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.1f} to {max(seconds):.1f} s, median {statistics.median(seconds):.1f} s"
