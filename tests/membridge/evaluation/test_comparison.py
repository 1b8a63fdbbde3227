"""Comparisons of models on the same questions have textbook values."""

import random

import numpy as np
import pytest

from membridge.evaluation.comparison import ScoredRun, bootstrap_interval, compare_runs, holm, mcnemar
from membridge.evaluation.comparison_page import to_latex, to_markdown

ABOUT = {"benchmark": "made", "prompt": "by letter", "scorer": "likelihood"}


def run_of(name: str, scores: list[float], about: dict[str, str] | None = None) -> ScoredRun:
    ids = [f"q{number:02d}" for number in range(len(scores))]
    clusters = {each: f"v{number // 2}" for number, each in enumerate(ids)}
    return ScoredRun(name, about or ABOUT, dict(zip(ids, scores, strict=True)), clusters)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 2**5), (1, 9, 2 * 11 / 2**10), (9, 1, 2 * 11 / 2**10), (3, 1, 2 * 5 / 2**4)],
)
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(
    only_first: int, only_second: int, p_value: float
) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p_value)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_bootstrap_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for number in range(100):
        of_video = generator.normal(0.1, 0.5, size=40)
        differences = (of_video[:, None] + generator.normal(0, 0.2, size=(40, 3))).ravel()
        low, high = bootstrap_interval(
            list(differences), [f"v{video}" for video in range(40) for _ in range(3)], number
        )
        inside += low <= 0.1 <= high
    assert 88 <= inside <= 100


def test_questions_about_one_video_are_resampled_together() -> None:
    agreeing = [1.0, 1.0, 0.0, 0.0] * 10
    together = bootstrap_interval(agreeing, [f"v{number // 2}" for number in range(40)])
    alone = bootstrap_interval(agreeing, [f"v{number}" for number in range(40)])
    assert together[1] - together[0] > 1.2 * (alone[1] - alone[0])


def test_two_models_are_compared_question_by_question() -> None:
    first, second = run_of("a", [1, 1, 1, 0, 1, 0]), run_of("b", [1, 0, 0, 0, 0, 1])
    [found] = compare_runs([first, second])
    assert found.difference == pytest.approx(2 / 6)
    assert (found.only_first, found.only_second) == (3, 1)
    assert found.p_value == found.corrected_p_value == pytest.approx(2 * 5 / 2**4)
    [turned] = compare_runs([second, first])
    assert turned.difference == -found.difference
    assert turned.p_value == found.p_value


def test_equal_models_do_not_differ_and_one_question_is_enough() -> None:
    [same] = compare_runs([run_of("a", [1, 0, 1]), run_of("b", [1, 0, 1])])
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)
    [one] = compare_runs([run_of("a", [1]), run_of("b", [0])])
    assert one.interval == (1, 1)


def test_scores_between_0_and_1_have_no_mcnemar_test() -> None:
    found = compare_runs([run_of("a", [1, 0.5]), run_of("b", [1, 0]), run_of("c", [0, 1])])
    assert [pair.p_value is None for pair in found] == [True, True, False]
    assert [pair.corrected_p_value is None for pair in found] == [True, True, False]


def test_the_order_of_the_questions_changes_nothing() -> None:
    scores = [float(number % 3 == 0) for number in range(20)]
    first, second = run_of("a", scores), run_of("b", scores[::-1])
    ids = list(first.scores)
    random.Random(0).shuffle(ids)
    mixed = first._replace(scores={each: first.scores[each] for each in ids})
    assert compare_runs([mixed, second]) == compare_runs([first, second])


def test_runs_over_different_questions_or_prompts_are_refused() -> None:
    first = run_of("a", [1, 0, 1])
    with pytest.raises(ValueError, match="different questions, 1 of which only one has: q02"):
        compare_runs([first, run_of("b", [1, 0])])
    other = run_of("b", [1, 0, 1], {**ABOUT, "prompt": "by text"})
    with pytest.raises(ValueError, match="--across-prompts"):
        compare_runs([first, other])
    assert len(compare_runs([first, other], across_prompts=True)) == 1
    with pytest.raises(ValueError, match="differ in their benchmark"):
        compare_runs([first, run_of("b", [1, 0, 1], {**ABOUT, "benchmark": "other"})])
    with pytest.raises(ValueError, match="at least two"):
        compare_runs([first])


def test_tables_name_every_model_and_pair() -> None:
    runs = [run_of("a_1", [1, 1, 1, 0]), run_of("b|2", [1, 0, 0, 0]), run_of("c", [0, 0, 1, 0])]
    found = compare_runs(runs)
    page = to_markdown(runs, found)
    assert page.count("| a_1 |") == 3
    assert "b\\|2" in page
    assert "+0.5000" in page
    latex = to_latex(runs, found)
    assert latex.count("a\\_1") == 3
    assert latex.count("\\\\") == 2 + 3 + 3
