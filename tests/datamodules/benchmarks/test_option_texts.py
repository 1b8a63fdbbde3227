"""Options in the fields of many formats."""

from typing import Any

import pytest

from datamodules.benchmarks.option_texts import read_options


@pytest.mark.parametrize(
    "row",
    [
        {"option": {"option 0": "cat", "option 1": "dog"}},
        {"option": {"option 1": "dog", "option 0": "cat"}},
        {"options": ["cat", "dog"]},
        {"candidates": ["A. cat", "B. dog"]},
        {"choices": {"A": "cat", "B": "dog"}},
        {"options": ["(A) cat", "(B) dog"]},
        {"a0": "cat", "a1": "dog", "answer": 1},
        {"option0": "cat", "option1": " dog "},
        {"choice_a": "cat", "choice_b": "dog", "answer": "cat"},
        {"options": None, "option 0": "cat", "option 1": "dog"},
        {"options": ["cat", "dog", "N/A", "n/a"]},
    ],
)
def test_options_are_found(row: dict[str, Any]) -> None:
    options = read_options(row)
    assert options.texts == ("cat", "dog")
    assert options.problems == ()


def test_a_row_without_options_has_none() -> None:
    assert read_options({"question": "what", "answer": 1}) == ((), ())


def test_letters_that_are_no_labels_stay() -> None:
    assert read_options({"options": ["A. Smith", "C. Jones"]}).texts == ("A. Smith", "C. Jones")
    assert read_options({"options": ["N/A", "dog"]}).texts == ("N/A", "dog")


@pytest.mark.parametrize(
    ("row", "texts", "problem"),
    [
        ({"options": "cat, dog"}, (), "the options are of type str"),
        ({"options": 3}, (), "the options are of type int"),
        ({"options": ["cat", 2]}, ("cat", "2"), "the option '2' is of type int"),
        ({"options": {"option 0": "cat", "option 2": "dog"}}, ("cat", "dog"), "numbered 0, 2, with a gap"),
        ({"options": {"first": "cat", "b": "dog"}}, ("cat", "dog"), "'first' is no name of an option"),
    ],
)
def test_what_is_odd_is_reported(row: dict[str, Any], texts: tuple[str, ...], problem: str) -> None:
    options = read_options(row)
    assert options.texts == texts
    assert any(problem in each for each in options.problems)
