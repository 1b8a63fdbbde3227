"""Compares an answer's text with the reference, and gives the interval of a share. Uses neither models nor files."""

import math
import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NORMAL_95 = 1.959963984540054  # the standard normal distribution is between its negative and it with probability 0.95


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def is_exact_match(prediction: str, answer: str) -> bool:
    """Whether prediction and answer are equal after normalisation."""
    return normalise_answer(prediction) == normalise_answer(answer)


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the words, after normalisation.

    Two empty texts are equal, so they score 1; an empty one beside another scores 0.

    Source: SQuAD (arXiv 1606.05250), section 6.1.
    """
    given, right = Counter(normalise_answer(prediction).split()), Counter(normalise_answer(answer).split())
    if not given or not right:
        return float(given == right)
    shared = sum((given & right).values())
    return 2 * shared / (given.total() + right.total())


def wilson_interval(correct: float, total: int) -> tuple[float, float]:
    """Interval of 95 % for a share of right answers; it is never empty, and never leaves 0 to 1.

    Args:
        correct: Number of right answers, or the sum of scores from 0 to 1.
        total: Number of answers.

    Returns:
        Lower and upper end; 0 and 1 without any answer.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if not total:
        return 0.0, 1.0
    share, square = correct / total, _NORMAL_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = _NORMAL_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)
