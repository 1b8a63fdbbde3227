"""Makes a report of predictions: accuracy by length of video and category of question, as JSON, Markdown and a plot."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.evaluation.plots import draw_accuracies
from lightning_modules.evaluation.predictions import Prediction
from lightning_modules.evaluation.scoring import NO_CATEGORY, Accuracy, AccuracyCounter

_NUMBER = re.compile(r"\d+(\.\d+)?")
_NUM_SHOWN = 50  # samples that the Markdown lists as left out
_NOTE = (
    "The standard error takes questions for independent; questions about one video are not quite, so it is a lower "
    "bound where videos have several."
)


def count_predictions(predictions: Iterable[Prediction]) -> AccuracyCounter:
    """Count right answers by (length, category)."""
    counter = AccuracyCounter()
    for prediction in predictions:
        counter.add((prediction.length, prediction.category or NO_CATEGORY), prediction.correct)
    return counter


def build_report(
    predictions: Sequence[Prediction], about: Mapping[str, Any], skipped: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Summarise predictions.

    Args:
        predictions: At least one.
        about: What was evaluated; copied into the report.
        skipped: What was left out, one record a sample with ``shard``, ``key``, ``kind`` and ``reason``, and ``media``
            where its file is known.

    Returns:
        ``accuracy``, ``by_length``, ``by_category`` and ``by_length_and_category``, each entry with the share of right
        answers, its standard error and the number of questions. Lengths are in their natural order. ``skipped`` has the
        number of samples that were left out, the same by kind of reason, and the records. Can be written as JSON.

    Raises:
        ValueError: There is no prediction.
    """
    if not predictions:
        raise ValueError("there is no prediction to report on; did the shards hold any question?")
    counter = count_predictions(predictions)
    by_both: dict[str, dict[str, Any]] = {}
    for (length, category), accuracy in counter.by(0, 1).items():
        by_both.setdefault(length, {})[category] = _entry(accuracy)
    return {
        "evaluated": dict(about),
        "accuracy": _entry(counter.by()[()]),
        "by_length": {
            length: _entry(accuracy)
            for (length,), accuracy in sorted(counter.by(0).items(), key=lambda group: length_order(group[0][0]))
        },
        "by_category": {category: _entry(accuracy) for (category,), accuracy in counter.by(1).items()},
        "by_length_and_category": {length: by_both[length] for length in sorted(by_both, key=length_order)},
        "skipped": {
            "samples": len(skipped),
            "by_kind": dict(Counter(sample["kind"] for sample in skipped).most_common()),
            "which": [dict(sample) for sample in skipped],
        },
    }


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``accuracy_by_length.png``.

    Args:
        report: What ``build_report`` gives.
        folder: Where to; must exist.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    draw_accuracies({"": report["by_length"]}).savefig(folder / "accuracy_by_length.png", dpi=150)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown.

    First what was evaluated, then one table with a row a length and a column a category, then what was left out.
    """
    categories = list(report["by_category"])
    rows = [
        [
            length,
            _cell(report["by_length"][length]),
            *(_cell(report["by_length_and_category"][length].get(name)) for name in categories),
        ]
        for length in report["by_length"]
    ]
    rows.append(["all", _cell(report["accuracy"]), *(_cell(report["by_category"][name]) for name in categories)])
    header = ["length", "all categories", *categories]
    about = [f"- {name}: {_plain(value)}" for name, value in report["evaluated"].items()]
    table = [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]
    lines = ["# Accuracy", "", *about, "", "Share of right answers ± standard error (number of questions). " + _NOTE]
    return "\n".join([*lines, "", *table, "", *_skipped_lines(report["skipped"])])


def length_order(label: str) -> tuple[float, str]:
    """Sort key that puts ``2x`` before ``16x``, and labels without a number last."""
    number = _NUMBER.search(label)
    return (float(number.group()) if number else float("inf"), label)


def _skipped_lines(skipped: Mapping[str, Any]) -> Iterator[str]:
    if not skipped["samples"]:
        return
    counts = ", ".join(f"{kind}: {count}" for kind, count in skipped["by_kind"].items())
    yield from ("## Left out", "", f"Samples that could not be evaluated: {skipped['samples']} ({counts}).")
    yield from ("Their questions count neither as right nor as wrong.", "")
    yield from (_line(["key", "file", "kind", "reason"]), _line(["---"] * 4))
    for sample in skipped["which"][:_NUM_SHOWN]:
        reason = " ".join(sample["reason"].split())
        yield _line([sample["key"], sample.get("media") or sample["shard"], sample["kind"], reason])
    if skipped["samples"] > _NUM_SHOWN:
        yield from ("", f"The other {skipped['samples'] - _NUM_SHOWN} are in report.json.")
    yield ""


def _entry(accuracy: Accuracy) -> dict[str, float | int]:
    return {
        "value": accuracy.value,
        "standard_error": accuracy.standard_error,
        "correct": accuracy.correct,
        "questions": accuracy.total,
    }


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['value']:.3f} ± {entry['standard_error']:.3f} ({entry['questions']})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
