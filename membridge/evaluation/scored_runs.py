"""Reads the scores of finished evaluations, to compare them."""

import json
from pathlib import Path
from typing import Any

from membridge.answer_file import read_answers
from membridge.evaluation.comparison import ScoredRun

REPORT = "report.json"
PREDICTIONS = "predictions.jsonl"


def read_scored_run(folder: Path, scorer: str | None = None) -> ScoredRun:
    """Read the scores of one evaluation.

    Args:
        folder: Folder of a benchmark's answers, or of the answers to the questions of shards.
        scorer: Which scores of a benchmark to read; the first ones by default.

    Returns:
        The scores. Items of a benchmark without answer have 0.

    Raises:
        FileNotFoundError: The folder holds no evaluation.
        ValueError: There are no scores of this scorer, or a file is damaged.
    """
    if (folder / PREDICTIONS).is_file():
        return _of_shards(folder)
    if any(folder.glob("answers.*-of-*.jsonl")) and (folder / REPORT).is_file():
        return _of_benchmark(folder, scorer)
    raise FileNotFoundError(
        f"{folder} holds no finished evaluation: neither {PREDICTIONS}, nor answers.*.jsonl with {REPORT}; give the "
        "--out folder of evaluate.py"
    )


def _of_benchmark(folder: Path, scorer: str | None) -> ScoredRun:
    report = _read_report(folder / REPORT)
    names = list(report["scores"])
    chosen = scorer or next(iter(names), "")
    if chosen not in names:
        raise ValueError(f"{folder} has no scores by {chosen!r}; choose one of {', '.join(names) or '(none)'}")
    lines: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("answers.*-of-*.jsonl")):
        for line in read_answers(path):
            if not _can_compare(line):
                raise ValueError(
                    f"{path}: the line with the id {line['id']!r} is no complete answer; run the same evaluation again"
                )
            if "error" not in line or line["id"] not in lines:
                lines[line["id"]] = line
    applies = {bool(line["options"]) for line in lines.values() if chosen in line.get("scores", {})}
    scores = {
        identity: float(line.get("scores", {}).get(chosen) or 0.0)
        for identity, line in lines.items()
        if chosen in line.get("scores", {}) or ("error" in line and bool(line["options"]) in applies)
    }
    clusters = {identity: lines[identity]["media"][0]["path"] for identity in scores}
    evaluated = report["evaluated"]
    about = {name: str(evaluated.get(name)) for name in ("benchmark", "prompt")} | {"scorer": chosen}
    return ScoredRun(str(folder), about, scores, clusters)


def _can_compare(line: dict[str, Any]) -> bool:
    """Whether a line names what it is about, and has scores from 0 to 1, or an error."""
    media, scores = line.get("media"), line.get("scores")
    names_video = isinstance(media, list) and bool(media) and isinstance(media[0], dict) and "path" in media[0]
    if not names_video or not isinstance(line.get("options"), list):
        return False
    if "error" in line:
        return True
    return isinstance(scores, dict) and all(
        value is None or (isinstance(value, int | float) and 0 <= value <= 1) for value in scores.values()
    )


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the same evaluation again, which writes it anew") from error
    is_report = isinstance(report, dict) and all(isinstance(report.get(name), dict) for name in ("scores", "evaluated"))
    if not is_report:
        raise ValueError(f"{path} is no report on a benchmark; run the same evaluation again, which writes it anew")
    found: dict[str, Any] = report
    return found


def _of_shards(folder: Path) -> ScoredRun:
    scores: dict[str, float] = {}
    clusters: dict[str, str] = {}
    path = folder / PREDICTIONS
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            identity = " ".join(str(line.get(name, "")) for name in ("key", "id", "turn")).strip()
            scores[identity] = float(line["correct"])
            if not 0 <= scores[identity] <= 1:
                raise ValueError(f"correct is {line['correct']}")
            clusters[identity] = line.get("media") or line["key"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is no prediction ({error}); finish the evaluation first"
            ) from error
    return ScoredRun(str(folder), {"benchmark": "shards", "prompt": "as in training"}, scores, clusters)
