"""Parsers of generated answers find the option that a text names, and no other."""

import pytest

from datamodules.benchmarks.item import BenchmarkItem
from membridge.evaluation.asked_item import AskedItem
from membridge.evaluation.scorers import (
    ExactAnswer,
    GradedAnswer,
    LenientChoice,
    OptionLikelihood,
    Score,
    StrictChoice,
    TokenF1,
    lenient_choice,
    strict_choice,
)

OPTIONS = ("a dog", "the cat", "a bird", "nothing")
ITEM = BenchmarkItem("1", (), "Which animal?", OPTIONS, 1, OPTIONS[1])
FREE = BenchmarkItem("2", (), "Which animal?", reference="the red cat")


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("B", 1, 1),
        (" b. ", 1, 1),
        ("(B)", 1, 1),
        ("B) the cat", 1, 1),
        ("B. The cat.", 1, 1),
        ("Cat", 1, 1),
        ("the cat", 1, 1),
        ("B. a dog", None, 1),  # the letter is announced, the text is another option's
        ("The answer is B", None, 1),
        ("Answer: C", None, 2),
        ("Best option: (D", None, 3),
        ("I think it is (C) because of the wings.", None, 2),
        ("C\nBecause of the wings", None, 2),
        ("A dog.", 0, 0),
        ("A man walks with the cat", None, 1),  # no letter: an article
        ("there is a bird in it", None, 2),
        ("a dog and a bird", None, None),
        ("A or B", None, 1),
        ("B or C", None, None),
        ("E", None, None),
        ("", None, None),
        ("no idea", None, None),
    ],
)
def test_texts_name_options(text: str, strict: int | None, lenient: int | None) -> None:
    assert strict_choice(text, OPTIONS) == strict
    assert lenient_choice(text, OPTIONS) == lenient


def test_what_the_strict_parser_finds_the_lenient_one_finds_too() -> None:
    for letter in "ABCD":
        for form in ("{}", "({})", "{}.", "{}:", " {} ", "{})"):
            text = form.format(letter)
            assert strict_choice(text, OPTIONS) == lenient_choice(text, OPTIONS) == "ABCD".index(letter)


def test_options_that_are_letters_or_numbers_are_found_by_their_text() -> None:
    assert strict_choice("3", ("1", "2", "3")) == 2
    assert lenient_choice("There are 3 of them", ("1", "2", "3")) == 2
    assert lenient_choice("13", ("1", "2", "3")) is None
    assert strict_choice("yes", ("yes", "no")) == 0


def test_an_answer_that_names_no_option_is_unparsed_and_wrong() -> None:
    for scorer in (StrictChoice(), LenientChoice()):
        assert scorer(ITEM, AskedItem("no idea")) == Score(0.0, was_parsed=False)
        assert scorer(ITEM, AskedItem("B")) == Score(1.0)
        assert scorer(ITEM, AskedItem("C")) == Score(0.0)
        assert scorer(FREE, AskedItem("B")) is None


def test_the_most_likely_choice_is_the_answer_and_the_first_of_equals() -> None:
    assert OptionLikelihood()(ITEM, AskedItem(likelihoods=(-2.0, -1.0, -1.5, -3.0))) == Score(1.0)
    assert OptionLikelihood()(ITEM, AskedItem(likelihoods=(-1.0, -1.0, -1.5, -3.0))) == Score(0.0)
    assert OptionLikelihood()(ITEM._replace(answer=None), AskedItem(likelihoods=(-1.0, -2.0))) is None
    assert OptionLikelihood()(FREE, AskedItem("cat")) is None


def test_free_answers_are_compared_word_by_word() -> None:
    assert ExactAnswer()(FREE, AskedItem("Red cat.")) == Score(1.0)
    assert ExactAnswer()(FREE, AskedItem("cat")) == Score(0.0)
    score = TokenF1()(FREE, AskedItem("cat"))
    assert score is not None
    assert score.value == pytest.approx(2 / 3)
    assert ExactAnswer()(ITEM, AskedItem("cat")) is None


def test_a_grader_scores_free_answers_within_0_and_1() -> None:
    seen: list[tuple[str, str, str]] = []

    def half(question: str, reference: str, answer: str) -> float:
        seen.append((question, reference, answer))
        return 0.5

    assert GradedAnswer(half, "half")(FREE, AskedItem("cat")) == Score(0.5)
    assert seen == [("Which animal?", "the red cat", "cat")]
    with pytest.raises(ValueError, match="expected 0 to 1"):
        GradedAnswer(lambda *_: 5.0, "of ten")(FREE, AskedItem("cat"))
