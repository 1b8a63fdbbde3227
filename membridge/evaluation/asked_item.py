"""The record of one answered question: one line of a benchmark's file of answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.benchmarks.item import BenchmarkItem

_MEASURED = ("frames", "shown_s", "visual_tokens", "prompt_tokens", "new_tokens", "read_seconds", "answer_seconds")
_IDENTIFYING = ("media", "question", "options", "answer", "reference", "ask_ms")


class AskedItem(NamedTuple):
    """What a model answered to an item, and what it took."""

    text: str = ""  # the generated answer
    likelihoods: tuple[float, ...] = ()  # of the choices: mean log likelihood per token, higher is better
    frames: int = 0  # that were read, of all media
    shown_s: float = 0.0  # time of the last frame that was read, of all media together
    visual_tokens: int = 0
    prompt_tokens: int = 0  # visual tokens included
    new_tokens: int = 0
    read_seconds: float = 0.0  # of decoding and reading the media, divided by the number of items about them
    answer_seconds: float = 0.0  # of items that are answered at the same time, the mean
    error: str = ""  # why there is no answer; empty where there is one

    @property
    def chosen(self) -> int | None:
        """Index of the most likely choice."""
        if not self.likelihoods:
            return None
        return max(range(len(self.likelihoods)), key=self.likelihoods.__getitem__)


def to_line(item: BenchmarkItem, asked: AskedItem, scores: Mapping[str, float | None]) -> dict[str, Any]:
    """The record as plain values.

    Args:
        item: The question.
        asked: The answer.
        scores: Score by the name of the scorer; None where the answer could not be parsed, which counts as wrong.
    """
    about = {
        "id": item.id,
        "media": [part._asdict() for part in item.media],
        "question": item.question,
        "options": list(item.options),
        "answer": item.answer,
        "reference": item.reference,
        "labels": dict(item.labels),
        "group": item.group,
        "duration_s": item.duration_s,
        "ask_ms": item.ask_ms,
    }
    if asked.error:
        return {**about, "error": asked.error}
    given = asked._asdict() | {"likelihoods": [round(value, 6) for value in asked.likelihoods], "chosen": asked.chosen}
    given |= {name: round(given[name], 4) for name in ("shown_s", "read_seconds", "answer_seconds")}
    del given["error"]
    return {**about, **given, "scores": dict(scores)}


def check_line(line: Mapping[str, Any], item: BenchmarkItem, path: Path) -> None:
    """Refuse a line that is no record of an answer to this item.

    Args:
        line: A line of a file of answers, with the item's id.
        item: The question.
        path: The file, for the message.

    Raises:
        ValueError: The line lacks a field or has one of another type, or it is about another question.
    """
    differing = _differing(line, item)
    if differing:
        raise ValueError(
            f"{path} has an answer to another question with the id {item.id!r}: {', '.join(differing)} differ. Choose "
            "another place for the answers, or remove the file to ask everything again"
        )
    if not _is_complete(line):
        raise ValueError(
            f"{path}: the line with the id {item.id!r} is no complete answer. Remove the line to have its question "
            "asked again"
        )


def _is_complete(line: Mapping[str, Any]) -> bool:
    if "error" in line:
        return isinstance(line["error"], str) and bool(line["error"])
    scores = line.get("scores")
    if not isinstance(scores, dict) or not all(_is_number(line.get(name)) for name in _MEASURED):
        return False
    return all(value is None or _is_number(value) for value in scores.values())


def is_about(line: Mapping[str, Any], item: BenchmarkItem) -> bool:
    """Whether a line of a file of answers is about an item as it is now."""
    return not _differing(line, item)


def _differing(line: Mapping[str, Any], item: BenchmarkItem) -> list[str]:
    asked = to_line(item, AskedItem(), {})
    return [name for name in _IDENTIFYING if line.get(name) != asked[name]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
