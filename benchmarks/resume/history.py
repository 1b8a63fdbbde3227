"""What a run that was killed and resumed has really trained on, and how that compares with an uninterrupted run.

A killed run leaves steps behind that no checkpoint holds. The next attempt starts at the checkpoint before them, and
trains their samples again; the weights that came of the first time are gone with the process. So what counts is the
*surviving history*: of every step the attempt that trained it last. A sample is lost if the surviving history has it
fewer times than the uninterrupted run, doubled if it has it more often.
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
    conversations: tuple[str, ...]  # sorted, since ranks share a batch in their own way

    @property
    def loss(self) -> float:
        """Mean over the ranks, which is that of the whole batch where they have equally many answer tokens."""
        return fmean(self.losses)


History = Mapping[int, Step]
"""Steps by their number, which counts from 1."""


class Comparison(NamedTuple):
    """A resumed run beside the uninterrupted one."""

    steps: int
    lost: int
    doubled: int
    first_other_samples: int | None  # first step with other samples than the uninterrupted run's
    first_other_loss: int | None  # first step whose loss differs by a bit
    largest_difference: float  # of the losses


def read_attempt(folder: Path) -> dict[int, Step]:
    """The steps that one attempt finished on all of its ranks.

    A line that a kill cut short is no step: had it been in a checkpoint, the line would be whole.

    Args:
        folder: What ``StepRecorder`` wrote into; an attempt that was killed before its first step has none.
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
    """Join attempts: each drops what earlier ones trained from its own first step on.

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
    """Hold a surviving history against the uninterrupted run.

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
