"""Shares of right answers, with errors that know of questions about one video."""

import math

import pytest

from membridge.evaluation.shares import ScoredQuestion, share_of


def questions(*scores_of_videos: tuple[float, ...]) -> list[ScoredQuestion]:
    return [ScoredQuestion(score, str(video)) for video, scores in enumerate(scores_of_videos) for score in scores]


def test_with_one_question_a_video_the_error_is_that_of_a_mean() -> None:
    share = share_of(questions((1,), (0,), (1,), (1,)))
    assert (share.value, share.questions, share.videos) == (0.75, 4, 4)
    assert share.standard_error == pytest.approx(math.sqrt(0.25 / 4))  # sample variance 0.25


def test_the_error_of_questions_that_agree_within_a_video_is_that_of_the_videos() -> None:
    # Residuals of the two videos: 2 * 0.5 and 2 * -0.5; sqrt(2 / 1 * 2) / 4.
    assert share_of(questions((1, 1), (0, 0))).standard_error == pytest.approx(0.5)
    assert share_of(questions((1, 0), (0, 1))).standard_error == 0


def test_videos_of_unequal_many_questions() -> None:
    # Mean 0.6; residuals 3 - 1.8 = 1.2 and 0 - 1.2; sqrt(2 * (1.44 + 1.44)) / 5.
    assert share_of(questions((1, 1, 1), (0, 0))).standard_error == pytest.approx(math.sqrt(5.76) / 5)


def test_ends_have_an_interval_and_one_video_has_no_error() -> None:
    right = share_of(questions((1, 1, 1, 1)))
    assert right.value == 1
    assert 0 < right.interval[0] < right.interval[1] == 1
    assert math.isnan(right.standard_error)
    assert right.plain()["standard_error"] is None


def test_without_questions_nothing_is_known() -> None:
    share = share_of([])
    assert math.isnan(share.value)
    assert share.interval == (0, 1)
    assert share.plain()["value"] is None


def test_unparsed_answers_are_counted() -> None:
    assert share_of([ScoredQuestion(0, "a", False), ScoredQuestion(1, "b")]).unparsed == 1
