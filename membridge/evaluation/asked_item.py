"""The record of one answered question: one line of a benchmark's file of answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from datamodules.benchmarks.item import BenchmarkItem


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
