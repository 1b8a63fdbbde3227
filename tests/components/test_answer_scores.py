"""Comparison of answers with the reference, and the interval of a share."""

import pytest

from components.answer_scores import token_f1, wilson_interval


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        ("The red circle.", "a red circle", 1.0),
        ("a red square", "the red circle", 0.5),
        ("red red", "red", 2 / 3),
        ("blue", "red", 0.0),
        ("", "red", 0.0),
        ("the", "a", 1.0),  # both are empty after normalisation
    ],
)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(prediction: str, answer: str, f1: float) -> None:
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_wilson_interval_has_the_published_values_and_is_not_empty_at_the_ends() -> None:
    # Table II of Brown, Cai and DasGupta, Interval estimation for a binomial proportion (2001): n = 10.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
