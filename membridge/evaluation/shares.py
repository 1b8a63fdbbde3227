"""The share of right answers with its uncertainty, where several questions may be about one video."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from components.answer_scores import wilson_interval


class Share(NamedTuple):
    """A mean of scores from 0 to 1."""

    value: float  # NaN without questions
    interval: tuple[float, float]  # 95 %, Wilson, as if questions were independent
    standard_error: float  # questions about one video may depend on each other; NaN for fewer than 2 videos
    questions: int
    videos: int
    unparsed: int  # answers that name no option; they count as wrong

    def plain(self) -> dict[str, Any]:
        """The values for JSON, which has no NaN."""
        return {
            "value": None if math.isnan(self.value) else self.value,
            "interval": list(self.interval),
            "standard_error": None if math.isnan(self.standard_error) else self.standard_error,
            "questions": self.questions,
            "videos": self.videos,
            "unparsed": self.unparsed,
        }


class ScoredQuestion(NamedTuple):
    """The score of one question."""

    score: float
    cluster: str  # its video
    was_parsed: bool = True


def share_of(questions: Sequence[ScoredQuestion]) -> Share:
    """Mean of scores, with its interval and standard error.

    With the sums of residuals ``u_g`` over the questions of each of G videos, the standard error of the mean of n
    scores is ``sqrt(G / (G - 1) * sum(u_g ** 2)) / n``. With one question a video it is the usual one.

    Args:
        questions: The scores.

    Source: Miller, Adding error bars to evals (arXiv 2411.00640), section 2.2, with the correction for few clusters.
    """
    count = len(questions)
    if not count:
        return Share(math.nan, (0.0, 1.0), math.nan, 0, 0, 0)
    total = sum(each.score for each in questions)
    mean = total / count
    residuals: defaultdict[str, float] = defaultdict(float)
    for each in questions:
        residuals[each.cluster] += each.score - mean
    num_videos = len(residuals)
    error = math.nan
    if num_videos > 1:
        error = math.sqrt(num_videos / (num_videos - 1) * sum(value**2 for value in residuals.values())) / count
    unparsed = sum(not each.was_parsed for each in questions)
    return Share(mean, wilson_interval(total, count), error, count, num_videos, unparsed)
