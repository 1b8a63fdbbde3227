"""Shows the reports of both models as one table, one plot and a few answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.evaluation.plots import draw_accuracies
from lightning_modules.evaluation.predictions import Prediction, read_predictions

ARMS = ("memory", "mean_pooling")
LENGTHS = ("1x", "2x", "4x", "8x")

Arms = Mapping[str, Mapping[str, Any]]


def collect_results(out: Path) -> dict[str, dict[str, Any]]:
    """Read the reports of both models.

    Args:
        out: Folder of the quickstart's run.

    Returns:
        By arm: ``by_length``, ``by_category`` and ``by_length_and_category``, as
        ``lightning_modules.evaluation.report`` writes them.
    """
    results = {}
    for arm in ARMS:
        report = json.loads((out / arm / "answers" / "report.json").read_text(encoding="utf-8"))
        results[arm] = {name: report[name] for name in ("by_length", "by_category", "by_length_and_category")}
    return results


def table(arms: Arms) -> str:
    """One row a length, one column an arm."""
    lines = [f"{'length':>8} {'questions':>10}" + "".join(f"{arm.replace('_', ' '):>20}" for arm in ARMS)]
    for length in LENGTHS:
        entries = [arms[arm]["by_length"][length] for arm in ARMS]
        cells = "".join(f"{entry['value']:>12.3f} +- {entry['standard_error']:.3f}" for entry in entries)
        lines.append(f"{length:>8} {entries[0]['questions']:>10}{cells}")
    return "\n".join(lines)


def plot(arms: Arms, file: Path) -> None:
    """Accuracy by length of both models, with standard errors."""
    figure = draw_accuracies({arm.replace("_", " "): arms[arm]["by_length"] for arm in ARMS})
    figure.savefig(file, dpi=150)


def sample_answers(out: Path, number: int = 6) -> str:
    """Questions about the longest videos with both models' answers: one of each category, then a second of each, ..."""
    by_arm = {arm: read_predictions(out / arm / "answers" / "predictions.jsonl") for arm in ARMS}
    asked = [each for each in by_arm[ARMS[0]] if each.length == LENGTHS[-1]]
    said = {arm: {(each.key, each.id): each for each in predictions} for arm, predictions in by_arm.items()}
    lines = []
    for question in _one_of_each_category_in_turn(asked)[:number]:
        answers = ", ".join(
            f"{arm.replace('_', ' ')}: {_said(said[arm].get((question.key, question.id)))}" for arm in ARMS
        )
        lines.append(f"  {question.key}  {question.question}  reference: {question.answer} | {answers}")
    return "\n".join(lines)


def _one_of_each_category_in_turn(questions: list[Prediction]) -> list[Prediction]:
    categories: dict[str, list[Prediction]] = {}
    for question in questions:
        categories.setdefault(question.category, []).append(question)
    ranked = [
        (rank, number, each)
        for number, of_category in enumerate(categories.values())
        for rank, each in enumerate(of_category)
    ]
    return [each for _, _, each in sorted(ranked, key=lambda entry: entry[:2])]


def _said(prediction: Prediction | None) -> str:
    return "(not asked)" if prediction is None else prediction.prediction or "(nothing)"
