"""Finds what a killed and resumed run has trained on, and compares it with an uninterrupted run.

The last steps before a kill are in no checkpoint. The next attempt starts at the checkpoint before them and trains
their samples again; the weights from the first time are lost. So only the *surviving history* counts: for every step,
the last attempt that trained it. A sample is lost if the surviving history has it fewer times than the uninterrupted
run, and doubled if it has it more often.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One optimizer step over all ranks."""

    losses: tuple[float, ...]  # of every rank
    conversations: tuple[str, ...]  # sorted, because the order depends on the split over ranks

    @property
    def loss(self) -> float:
        """Mean over ranks. It is the loss of the batch if all ranks have equally many answer tokens."""
        return fmean(self.losses)


History = Mapping[int, Step]
"""Steps by their number, which counts from 1."""


class Comparison(NamedTuple):
    """Differences of a resumed run from the uninterrupted one."""

    steps: int
    lost: int
    doubled: int
    first_other_samples: int | None  # first step with other samples than the uninterrupted run's
    first_other_loss: int | None  # first step whose loss differs by a bit
    largest_difference: float  # of the losses


def read_attempt(folder: Path) -> dict[int, Step]:
    """The steps that one attempt finished on all of its ranks.

    A line cut off by a kill is not counted: the line of a step in a checkpoint is complete.

    Args:
        folder: Folder of ``StepRecorder``; an attempt that was killed before its first step has none.
    """
    ranks = [dict(_read_lines(path)) for path in sorted(folder.glob("rank-*.jsonl"))]
    if not ranks:
        return {}
    finished = set.intersection(*(set(rank) for rank in ranks))
    return {
        step: Step(
            tuple(float.fromhex(rank[step]["loss"]) for rank in ranks),
            tuple(sorted(name for rank in ranks for name in rank[step]["conversations"])),
        )
        for step in sorted(finished)
    }


def _read_lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            record = json.loads(line)
            yield record["step"], record


def surviving(attempts: Sequence[History]) -> dict[int, Step]:
    """Join attempts: each replaces the steps of earlier ones from its own first step on.

    Args:
        attempts: Their steps, in the order of the attempts.
    """
    history: dict[int, Step] = {}
    for attempt in attempts:
        if attempt:
            first = min(attempt)
            history = {step: record for step, record in history.items() if step < first} | dict(attempt)
    return history


def compare(resumed: History, straight: History) -> Comparison:
    """Compare a surviving history with the uninterrupted run.

    Args:
        resumed: The surviving history.
        straight: The uninterrupted run.
    """
    wanted, got = (
        Counter(name for step in history.values() for name in step.conversations) for history in (straight, resumed)
    )
    steps = sorted(set(straight) | set(resumed))
    both = [step for step in steps if step in straight and step in resumed]
    return Comparison(
        steps=len(resumed),
        lost=(wanted - got).total(),
        doubled=(got - wanted).total(),
        first_other_samples=next((s for s in steps if _samples(resumed, s) != _samples(straight, s)), None),
        first_other_loss=next((s for s in both if resumed[s].loss != straight[s].loss), None),
        largest_difference=max((abs(resumed[step].loss - straight[step].loss) for step in both), default=0.0),
    )


def _samples(history: History, step: int) -> tuple[str, ...] | None:
    return history[step].conversations if step in history else None
