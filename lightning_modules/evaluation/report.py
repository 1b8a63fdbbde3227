"""Makes a report of predictions: accuracy by length of video, category, source and turn, losses, and a plot."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.answer_scores import token_f1
from lightning_modules.evaluation.plots import draw_accuracies
from lightning_modules.evaluation.predictions import Prediction
from lightning_modules.evaluation.report_page import to_markdown
from lightning_modules.evaluation.scoring import NO_CATEGORY, Accuracy, AccuracyCounter

_NUMBER = re.compile(r"\d+(\.\d+)?")
_SECONDS = [(15, "0-15 s"), (60, "15-60 s"), (180, "1-3 min"), (600, "3-10 min"), (3600, "10-60 min")]
_LONGER = "> 60 min"
_NO_SECONDS = "no video, or its length is unknown"
_LAST_TURN = 10  # turns from this one on are reported together
_MOST_NLL = 700.0  # its exponential is just finite


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
        ``accuracy``, ``by_length``, ``by_category``, ``by_length_and_category``, ``by_source``, ``by_seconds`` and
        ``by_turn``: each entry has the share of right answers as ``value``, the ends of its 95 % interval, its standard
        error, and the number of right answers and of questions. ``options`` is such an entry for the most likely
        option, ``f1`` the mean F1 of open answers, ``loss`` that of the reference answers; None where no question has
        it. ``skipped`` has the number of samples that were left out, the same by kind of reason, and the records. Can
        be written as JSON.

    Raises:
        ValueError: There is no prediction.
    """
    if not predictions:
        raise ValueError("there is no prediction to report on; did the shards hold any question?")
    counter = _count(predictions, lambda each: (each.length, each.category or NO_CATEGORY))
    by_both: dict[str, dict[str, Any]] = {}
    for (length, category), accuracy in counter.by(0, 1).items():
        by_both.setdefault(length, {})[category] = _entry(accuracy)
    lengths = sorted(by_both, key=length_order)
    by_length = counter.by(0)
    return {
        "evaluated": dict(about),
        "accuracy": _entry(counter.by()[()]),
        "options": _options_entry([each for each in predictions if each.choice_correct is not None]),
        "f1": _f1_entry([each for each in predictions if not each.options]),
        "loss": _loss_entry([each for each in predictions if each.nll is not None]),
        "by_length": {length: _entry(by_length[(length,)]) for length in lengths},
        "by_category": {category: _entry(accuracy) for (category,), accuracy in counter.by(1).items()},
        "by_length_and_category": {length: by_both[length] for length in lengths},
        "by_source": _groups(predictions, lambda each: each.source),
        "by_seconds": _groups(predictions, lambda each: seconds_label(each.seconds), SECONDS_ORDER),
        "by_turn": _groups(predictions, lambda each: turn_label(each.turn), TURN_ORDER),
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


def length_order(label: str) -> tuple[float, str]:
    """Sort key that puts ``2x`` before ``16x``, and labels without a number last."""
    number = _NUMBER.search(label)
    return (float(number.group()) if number else float("inf"), label)


def seconds_label(seconds: float | None) -> str:
    """Name of the range that a length of video is in; each range includes its upper end."""
    if seconds is None:
        return _NO_SECONDS
    return next((label for end, label in _SECONDS if seconds <= end), _LONGER)


def turn_label(turn: int) -> str:
    """Name of a turn, from 1 on; late turns share one."""
    return str(turn) if turn < _LAST_TURN else f"{_LAST_TURN} and later"


SECONDS_ORDER = [*(label for _, label in _SECONDS), _LONGER, _NO_SECONDS]
TURN_ORDER = [turn_label(turn) for turn in range(1, _LAST_TURN + 1)]


def _count(predictions: Iterable[Prediction], labels: Callable[[Prediction], tuple[str, ...]]) -> AccuracyCounter:
    counter = AccuracyCounter()
    for prediction in predictions:
        counter.add(labels(prediction), prediction.correct)
    return counter


def _groups(
    predictions: Iterable[Prediction], label: Callable[[Prediction], str], order: Sequence[str] | None = None
) -> dict[str, Any]:
    """Entries by a label, in the given order; by default in that of the alphabet."""
    found = _count(predictions, lambda each: (label(each),)).by(0)
    names = sorted((name for (name,) in found), key=None if order is None else order.index)
    return {name: _entry(found[(name,)]) for name in names}


def _options_entry(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Accuracy of the most likely option, and what drawing options at random would reach."""
    if not predictions:
        return None
    entry = _entry(Accuracy(sum(bool(each.choice_correct) for each in predictions), len(predictions)))
    return {**entry, "chance": math.fsum(1 / len(each.options) for each in predictions) / len(predictions)}


def _f1_entry(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    if not predictions:
        return None
    total = math.fsum(token_f1(each.prediction, each.answer) for each in predictions)
    return {"value": total / len(predictions), "questions": len(predictions)}


def _loss_entry(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Mean negative log likelihood of the tokens of all reference answers."""
    tokens = sum(each.tokens for each in predictions)
    if not tokens:
        return None
    value = math.fsum(each.nll or 0.0 for each in predictions) / tokens
    perplexity = math.exp(min(value, _MOST_NLL))
    return {"value": value, "perplexity": perplexity, "tokens": tokens, "questions": len(predictions)}


def _entry(accuracy: Accuracy) -> dict[str, float | int]:
    low, high = accuracy.interval
    return {
        "value": accuracy.value,
        "low": low,
        "high": high,
        "standard_error": accuracy.standard_error,
        "correct": accuracy.correct,
        "questions": accuracy.total,
    }
