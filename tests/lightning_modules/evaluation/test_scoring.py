import math

import pytest

from components.answer_scores import is_exact_match, normalise_answer
from lightning_modules.evaluation.scoring import Accuracy, AccuracyCounter


@pytest.mark.parametrize(
    ("prediction", "answer", "matches"),
    [
        ("Red.", "red", True),
        ("  the   red circle ", "Red circle!", True),
        ("an answer", "answer", True),
        ("red", "blue", False),
        ("red circle", "red", False),
        ("", "none", False),
        ("another", "other", False),  # only whole words are articles
    ],
)
def test_answers_match_up_to_case_punctuation_articles_and_blanks(prediction: str, answer: str, matches: bool) -> None:
    assert is_exact_match(prediction, answer) is matches


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalise_answer("The  (Red) a CIRCLE, an end.")
    assert once == "red circle end"
    assert normalise_answer(once) == once


def test_standard_error_is_close_to_the_textbook_one_and_never_zero() -> None:
    assert Accuracy(300, 1000).value == 0.3
    assert Accuracy(300, 1000).standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 1000), rel=0.01)
    assert Accuracy(20, 20).standard_error > 0.01
    assert Accuracy(0, 20).standard_error == pytest.approx(Accuracy(20, 20).standard_error)
    assert math.isnan(Accuracy(0, 0).value)
    assert math.isnan(Accuracy(0, 0).standard_error)


def test_counts_are_grouped_by_any_labels() -> None:
    counter = AccuracyCounter()
    for length, category, correct in [("1x", "colour", True), ("1x", "shape", False), ("2x", "colour", True)]:
        counter.add((length, category), correct)
    assert counter.by(0) == {("1x",): Accuracy(1, 2), ("2x",): Accuracy(1, 1)}
    assert counter.by(1) == {("colour",): Accuracy(2, 2), ("shape",): Accuracy(0, 1)}
    assert counter.by(0, 1)[("1x", "shape")] == Accuracy(0, 1)
    assert counter.by() == {(): Accuracy(2, 3)}


def test_merged_counters_count_as_one() -> None:
    counters = [AccuracyCounter(), AccuracyCounter()]
    counters[0].add(("1x",), True)
    counters[1].add(("1x",), False)
    counters[1].add(("2x",), True)
    merged = AccuracyCounter()
    merged.merge(counter.counts() for counter in counters)
    assert merged.by(0) == {("1x",): Accuracy(1, 2), ("2x",): Accuracy(1, 1)}
