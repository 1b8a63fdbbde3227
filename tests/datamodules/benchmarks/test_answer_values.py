"""Answers as index, letter or text."""

from typing import Any

import pytest

from datamodules.benchmarks.answer_values import Form, read_answers

WORDS = ("cat", "dog", "bird")
NUMBERS = ("3", "2", "1", "0")


def options_of(values: list[Any]) -> list[tuple[str, ...]]:
    return [WORDS] * len(values)


@pytest.mark.parametrize(
    "values",
    [
        [0, 2, 1],
        ["0", "2", "1"],
        ["A", "C", "B"],
        ["a", "c", "b"],
        ["(A)", "(C)", "(B)"],
        ["A.", "C.", "B."],
        ["A. cat", "C. bird", "B. dog"],
        ["cat", "bird", "dog"],
        ["Cat ", "BIRD", "dog"],
    ],
)
def test_one_form_in_a_file_needs_no_remark(values: list[Any]) -> None:
    answers = read_answers(values, options_of(values))
    assert [answer.option for answer in answers] == [0, 2, 1]
    assert [answer.problem for answer in answers] == ["", "", ""]


@pytest.mark.parametrize(("expected", "option"), [("index", 2), ("text", 1)])
def test_a_number_that_is_an_options_text_too_is_read_in_the_formats_form(expected: Form, option: int) -> None:
    assert read_answers(["2"], [NUMBERS], expected)[0].option == option


def test_a_file_of_texts_is_read_as_texts_though_one_looks_like_an_index() -> None:
    answers = read_answers(["cat", "dog", "2"], [WORDS, WORDS, NUMBERS])
    assert [answer.option for answer in answers] == [0, 1, 1]


@pytest.mark.parametrize(
    ("value", "option", "problem"),
    [
        ("B", 1, "the answer 'B' is a letter, where those of other questions are index"),
        ("dog", 1, "the answer 'dog' is a text, where those of other questions are index"),
        (1.0, 1, "a number with a point"),
        ("1", 1, "text, where others are numbers"),
        (3, None, "the answer 3 is out of range: there are 3 options, 0 to 2"),
        (-1, None, "the answer -1 is out of range"),
        ("D", None, "the answer 'D' is out of range"),
        (1.5, None, "of type float"),
        (float("nan"), None, "of type float"),
        (True, None, "of type bool"),
        (None, None, "it has no answer"),
        ("", None, "it has no answer"),
        ("fish", None, "none of the options"),
        ({"a": 1}, None, "of type dict"),
        ("x" * 500, None, "..."),
    ],
)
def test_what_does_not_fit_the_others_is_reported(value: Any, option: int | None, problem: str) -> None:
    values = [0, 1, 2, value]
    answer = read_answers(values, options_of(values))[-1]
    assert answer.option == option
    assert problem in answer.problem
    assert len(answer.problem) < 150


def test_the_text_of_two_options_is_no_answer() -> None:
    [answer] = read_answers(["up"], [("up", "Up ".strip().lower(), "down")])
    assert (answer.option, answer.problem) == (None, "the answer 'up' is the text of several options")


def test_answers_that_count_from_1_are_suspected() -> None:
    values = [1, 2, 3]
    assert read_answers(values, options_of(values))[-1].problem.endswith("do the answers count from 1?")
    values = [0, 2, 3]
    assert not read_answers(values, options_of(values))[-1].problem.endswith("?")
