"""The chart of a report is drawn for every share."""

import pytest

from membridge.evaluation.score_tables import draw_shares
from membridge.evaluation.shares import ScoredQuestion, share_of


@pytest.mark.parametrize(("score", "number"), [(0.0, 7), (1.0, 10), (0.0, 12), (1.0, 1)])
def test_shares_of_none_and_all_are_drawn_though_rounding_puts_them_outside_of_their_interval(
    score: float, number: int
) -> None:
    overall = share_of([ScoredQuestion(score, f"{index}") for index in range(number)]).plain()
    report = {"chance": 0.25, "scores": {"likelihood": {"overall": overall, "by_label": {}, "by_length": {}}}}
    [bar] = [patch for patch in draw_shares(report).axes[0].patches if patch.get_width() == score][:1]
    assert bar.get_width() == score
