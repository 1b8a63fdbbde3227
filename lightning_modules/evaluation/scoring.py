"""Counts right answers by group. Uses neither models nor files."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from components.answer_scores import wilson_interval

SKIPPED_KEY = ""
"""Key of the empty sample that stands for a batch whose samples were all skipped. It is not scored or written."""

NO_CATEGORY = "(no category)"
"""Category, in reports and logs, of questions whose sample names none."""


class Accuracy(NamedTuple):
    """Share of right answers with its uncertainty."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """Share of right answers; NaN without questions."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of 95 % for the share; sensible at 0 % and 100 % too."""
        return wilson_interval(self.correct, self.total)

    @property
    def standard_error(self) -> float:
        """Standard error of the share, from the Wilson-centred variance, which is not zero at 0 % or 100 %."""
        if not self.total:
            return math.nan
        centred = (self.correct + 2) / (self.total + 4)
        return math.sqrt(centred * (1 - centred) / (self.total + 4))


class AccuracyCounter:
    """Counts right answers by any number of labels."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, labels: tuple[str, ...], correct: bool) -> None:
        """Count one answer."""
        entry = self._counts[labels]
        entry[0] += int(correct)
        entry[1] += 1

    def counts(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Number of right answers and of all answers by labels: plain data, which ranks can exchange."""
        return {labels: (correct, total) for labels, (correct, total) in self._counts.items()}

    def merge(self, others: Iterable[Mapping[tuple[str, ...], tuple[int, int]]]) -> None:
        """Add the counts of other counters."""
        for counts in others:
            for labels, (correct, total) in counts.items():
                entry = self._counts[labels]
                entry[0] += correct
                entry[1] += total

    def by(self, *positions: int) -> dict[tuple[str, ...], Accuracy]:
        """Accuracy grouped by the labels at the given positions; no position means one group ``()``."""
        grouped: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
        for labels, (correct, total) in self._counts.items():
            entry = grouped[tuple(labels[position] for position in positions)]
            entry[0] += correct
            entry[1] += total
        return {labels: Accuracy(correct, total) for labels, (correct, total) in sorted(grouped.items())}
