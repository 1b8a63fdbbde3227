"""Sums up the answers to a benchmark: by scorer, by every label of the items, by length of video."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from components.checkpoints.atomic_folder import write_atomically
from datamodules.benchmarks.benchmark import Benchmark, ScoredItem
from datamodules.benchmarks.item import BenchmarkItem
from membridge.evaluation.score_tables import draw_shares, to_markdown
from membridge.evaluation.shares import ScoredQuestion, share_of

LENGTHS_S = (15, 60, 180, 600, 1800, 3600)
"""Ends of the bins of video length, in seconds."""


class Scored(NamedTuple):
    """An item with its line of the file of answers and one scorer's score."""

    item: BenchmarkItem
    line: Mapping[str, Any]
    score: float
    was_parsed: bool


def build_report(
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    answers: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    *,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Sum up.

    Args:
        benchmark: Gives the official scores.
        items: All questions.
        answers: The lines of the file of answers, by id; see ``BenchmarkRun.answers``.
        about: What was evaluated, and how; copied into the report.
        skip_missing: Leave items without answer out; otherwise they count as wrong.

    Returns:
        Plain values. ``scores`` has for every scorer ``overall``, ``by_label`` (label -> value -> share), ``by_length``
        and ``official``. ``without_answer`` names items that have no answer, and why.
    """
    labelled = [item for item in items if item.is_labelled]
    lines = {identity: line for identity, line in answers.items() if "error" not in line}
    without = [
        {"id": item.id, "media": [part.path for part in item.media], "reason": _reason(answers.get(item.id))}
        for item in items
        if item.id not in lines
    ]
    scores = {}
    for name in _scorer_names(lines.values()):
        scored = list(_scored(labelled, lines, name, skip_missing=skip_missing))
        scores[name] = _of_scorer(benchmark, scored)
    return {
        "evaluated": {**about, "prompt": benchmark.describe_prompt(), "versions": _versions()},
        "items": len(items),
        "labelled": len(labelled),
        "without_answer_count": "left out" if skip_missing else "as wrong",
        "without_answer": without,
        "chance": _chance(labelled),
        "means": _means(list(lines.values())),
        "scores": scores,
    }


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``scores.png``.

    Args:
        report: What ``build_report`` gives.
        folder: Where to; must exist.
    """
    write_atomically(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "report.md", to_markdown(report))
    draw_shares(report).savefig(folder / "scores.png", dpi=150)


def write_submission(
    benchmark: Benchmark, items: Sequence[BenchmarkItem], answers: Mapping[str, Mapping[str, Any]], path: Path
) -> int:
    """Write the choices, by likelihood, for items whose answers are not public.

    Args:
        benchmark: Gives the form, see ``Benchmark.submission``.
        items: All questions.
        answers: The lines of the file of answers, by id.
        path: File to write; nothing is written where every answer is public.

    Returns:
        Number of items written.
    """
    hidden = [item for item in items if item.options and not item.is_labelled]
    chosen = {item.id: answers[item.id].get("chosen") for item in hidden if item.id in answers}
    indices = {identity: index for identity, index in chosen.items() if index is not None}
    if indices:
        write_atomically(path, json.dumps(benchmark.submission(indices), indent=2) + "\n")
    return len(indices)


def length_bin(seconds: float | None) -> str:
    """Name of the bin of a video's length."""
    if seconds is None:
        return "unknown"
    for start, end in zip((0, *LENGTHS_S), LENGTHS_S, strict=False):
        if seconds <= end:
            return f"{start}-{end} s"
    return f"over {LENGTHS_S[-1]} s"


def _scorer_names(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line["scores"]))


def _scored(
    items: Sequence[BenchmarkItem], lines: Mapping[str, Mapping[str, Any]], scorer: str, *, skip_missing: bool
) -> Iterable[Scored]:
    """Items that the scorer applies to. One without answer counts for the scorers of its kind of item."""
    with_options = {bool(item.options) for item in items if item.id in lines and scorer in lines[item.id]["scores"]}
    for item in items:
        line = lines.get(item.id)
        if line is None:
            if not skip_missing and bool(item.options) in with_options:
                yield Scored(item, {}, 0.0, True)
        elif scorer in line["scores"]:
            value = line["scores"][scorer]
            yield Scored(item, line, 0.0 if value is None else value, value is not None)


def _of_scorer(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    by_label: dict[str, dict[str, list[Scored]]] = {}
    by_length: dict[str, list[Scored]] = {}
    for each in scored:
        for label, value in each.item.labels.items():
            by_label.setdefault(label, {}).setdefault(value, []).append(each)
        by_length.setdefault(length_bin(_seconds(each)), []).append(each)
    bins = [length_bin(end) for end in LENGTHS_S] + [length_bin(LENGTHS_S[-1] + 1), length_bin(None)]
    official = benchmark.summary([ScoredItem(each.item, each.score, each.was_parsed) for each in scored])
    return {
        "overall": _share(scored),
        "by_label": {
            label: {value: _share(some) for value, some in sorted(values.items())} for label, values in by_label.items()
        },
        "by_length": {name: _share(by_length[name]) for name in bins if name in by_length},
        "official": dict(official),
    }


def _share(scored: Sequence[Scored]) -> dict[str, Any]:
    questions = [ScoredQuestion(each.score, cluster_of(each.item), each.was_parsed) for each in scored]
    return share_of(questions).plain()


def cluster_of(item: BenchmarkItem) -> str:
    """Name of what an item's score may share with those of others: its first medium."""
    return item.media[0].path if item.media else item.id


def _seconds(scored: Scored) -> float | None:
    if scored.item.duration_s is not None:
        return scored.item.duration_s
    end: float | None = scored.line.get("shown_s")
    return end


def _reason(line: Mapping[str, Any] | None) -> str:
    return "it was not asked yet" if line is None else str(line["error"])


def _chance(items: Sequence[BenchmarkItem]) -> float | None:
    """Expected share of right answers of a random choice; None where no item has options."""
    shares = [1 / len(item.options) for item in items if item.options]
    return sum(shares) / len(shares) if shares else None


def _means(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = ("frames", "visual_tokens", "prompt_tokens", "new_tokens", "read_seconds", "answer_seconds")
    return {name: sum(line[name] for line in lines) / len(lines) for name in names} if lines else {}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("membridge", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder of sources
            found[name] = "not installed"
    return found
