"""Compares models on the same questions: paired bootstrap over videos, McNemar's test, Holm's correction."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
_MOST_NAMED = 5


class ScoredRun(NamedTuple):
    """The scores of one model on every question."""

    name: str
    about: Mapping[str, str]  # benchmark, prompt and scorer; must be equal to be compared
    scores: Mapping[str, float]  # 0 to 1, by the id of the question
    clusters: Mapping[str, str]  # video by the id of the question


class Comparison(NamedTuple):
    """Two models on the same questions."""

    first: str
    second: str
    difference: float  # mean score of the first less that of the second
    interval: tuple[float, float]  # 95 %, by paired bootstrap over videos
    only_first: int  # questions that the first alone has right
    only_second: int
    p_value: float | None  # of McNemar's exact test; None where scores are no 0 or 1
    corrected_p_value: float | None  # by Holm's method, over all comparisons


def compare_runs(runs: Sequence[ScoredRun], *, across_prompts: bool = False, seed: int = 0) -> list[Comparison]:
    """Compare every two runs.

    Args:
        runs: At least two, over the same questions.
        across_prompts: Compare runs although their prompts differ.
        seed: Of the bootstrap.

    Raises:
        ValueError: ``seed`` is negative, there are fewer than two runs, or they differ in questions, benchmark, scorer
            or prompt.
    """
    if seed < 0:
        raise ValueError(f"the seed is {seed}; expected 0 or more")
    if len(runs) < 2:
        raise ValueError("a comparison needs at least two runs")
    for other in runs[1:]:
        _check_comparable(runs[0], other, across_prompts)
    pairs = [_compare(first, second, seed) for first, second in combinations(runs, 2)]
    tested = [pair.p_value for pair in pairs if pair.p_value is not None]
    corrected = iter(holm(tested))
    return [pair if pair.p_value is None else pair._replace(corrected_p_value=next(corrected)) for pair in pairs]


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: whether two models differ on questions that one of them has right.

    Args:
        only_first: Questions that the first alone has right.
        only_second: Questions that the second alone has right.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise ImportError("comparing runs needs scipy: pip install 'membridge[compare]'") from error
    both = only_first + only_second
    return float(binomtest(only_first, both, 0.5).pvalue) if both else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several tests, so that the chance of any false finding stays below the level.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def bootstrap_interval(differences: Sequence[float], clusters: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Interval of 95 % of a mean difference, by resampling the videos with all their questions.

    Args:
        differences: Of the scores of every question.
        clusters: Video of every question.
        seed: Of the resampling.

    Returns:
        The 2.5 and 97.5 percentiles.
    """
    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(number, weights=np.asarray(differences, dtype=np.float64))
    counts = np.bincount(number)
    generator = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    at_once = max(1, 2**22 // len(sums))  # bounds the memory for many videos
    for first in range(0, NUM_RESAMPLES, at_once):
        chosen = generator.integers(len(sums), size=(min(at_once, NUM_RESAMPLES - first), len(sums)))
        means.append(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _compare(first: ScoredRun, second: ScoredRun, seed: int) -> Comparison:
    ids = sorted(first.scores)
    differences = [first.scores[each] - second.scores[each] for each in ids]
    interval = bootstrap_interval(differences, [first.clusters[each] for each in ids], seed)
    only_first, only_second = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    is_binary = all(run.scores[each] in (0, 1) for run in (first, second) for each in ids)
    p_value = mcnemar(only_first, only_second) if is_binary else None
    difference = sum(differences) / len(differences)
    return Comparison(first.name, second.name, difference, interval, only_first, only_second, p_value, None)


def _check_comparable(first: ScoredRun, other: ScoredRun, across_prompts: bool) -> None:
    for name in first.about.keys() | other.about.keys():
        values = first.about.get(name), other.about.get(name)
        if values[0] != values[1] and not (across_prompts and name == "prompt"):
            advice = "; give --across-prompts to compare them all the same" if name == "prompt" else ""
            raise ValueError(
                f"{first.name} and {other.name} differ in their {name}: {values[0]!r} and {values[1]!r}{advice}"
            )
    if not first.scores:
        raise ValueError(f"{first.name} has no scored question")
    if differing := sorted(first.scores.keys() ^ other.scores.keys()):
        raise ValueError(
            f"{first.name} and {other.name} have answers to different questions, {len(differing)} of which only one "
            f"has: {', '.join(differing[:_MOST_NAMED])}{', ...' if len(differing) > _MOST_NAMED else ''}"
        )
