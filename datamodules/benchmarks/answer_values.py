"""Finds out which option an answer means: it may be an index, a letter, or the option's text."""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from datamodules.benchmarks.item import LETTERS

Form = Literal["index", "letter", "text"]
FORMS: tuple[Form, ...] = ("index", "letter", "text")


class ReadAnswer(NamedTuple):
    """The right option of a question."""

    option: int | None
    problem: str = ""


def read_answers(values: Sequence[Any], options: Sequence[Sequence[str]], expected: Form = "index") -> list[ReadAnswer]:
    """Read the answers of a file. All of them have the form that fits most of them; exceptions are reported.

    Args:
        values: The answers.
        options: The options of the same questions.
        expected: The form that is preferred where several fit: the answer ``2`` may be an index or an option's text.

    Returns:
        The options' indices; None and the reason where an answer means no option.
    """
    order = (expected, *(form for form in FORMS if form != expected))
    fits = {form: [_index(value, texts, form) for value, texts in zip(values, options, strict=True)] for form in order}
    best = max(order, key=lambda form: sum(index is not None for index in fits[form]))
    used = [value for value, index in zip(values, fits[best], strict=True) if index is not None]
    counts_from_1 = best == "index" and _counts_from_1(values, options)
    answers = []
    for number, (value, texts) in enumerate(zip(values, options, strict=True)):
        index = fits[best][number]
        other = next((form for form in order if fits[form][number] is not None), None)
        if index is not None:
            odd = _odd_type(value, used)
            answers.append(ReadAnswer(index, f"the answer {value!r} is {odd}, read as option {index}" if odd else ""))
        elif other is not None:
            problem = f"the answer {_short(value)} is {_named(other)}, where those of other questions are {best}"
            answers.append(ReadAnswer(fits[other][number], problem))
        else:
            hint = "; do the answers count from 1?" if counts_from_1 else ""
            answers.append(ReadAnswer(None, _no_option(value, texts) + hint))
    return answers


def _index(value: Any, options: Sequence[str], form: Form) -> int | None:
    """The option that a value means in a form; None: none."""
    if form == "index":
        number = _number(value)
        return number if number is not None and 0 <= number < len(options) else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if form == "letter":
        letter = re.fullmatch(r"\(?([A-Za-z])(?:\)|\.|:|\))?(?:\s+(.*))?", text, re.DOTALL)
        index = LETTERS.index(letter[1].upper()) if letter else -1
        if letter is None or index >= len(options) or (letter[2] and letter[2].strip() != options[index]):
            return None
        return index
    same = [index for index, option in enumerate(options) if option == text]
    same = same or [index for index, option in enumerate(options) if option.casefold() == text.casefold()]
    return same[0] if len(same) == 1 else None


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,6}", value.strip()):
        return int(value)
    return None


def _counts_from_1(values: Sequence[Any], options: Sequence[Sequence[str]]) -> bool:
    numbers = [_number(value) for value in values]
    return 0 not in numbers and any(
        number == len(texts) and number > 0 for number, texts in zip(numbers, options, strict=True)
    )


def _odd_type(value: Any, used: Sequence[Any]) -> str:
    """What is odd about the type of a value that could be read."""
    if isinstance(value, float):
        return "a number with a point"
    if isinstance(value, str) and any(isinstance(each, int) for each in used):
        return "text, where others are numbers"
    return ""


def _no_option(value: Any, options: Sequence[str]) -> str:
    number = _number(value)
    if number is not None:
        return f"the answer {value!r} is out of range: there are {len(options)} options, 0 to {len(options) - 1}"
    if value is None or value == "":
        return "it has no answer"
    if not isinstance(value, str):
        return f"the answer {_short(value)} is of type {type(value).__name__}, expected an index, a letter or a text"
    if sum(option.casefold() == value.strip().casefold() for option in options) > 1:
        return f"the answer {_short(value)} is the text of several options"
    if re.fullmatch(r"\(?[A-Za-z]\)?", value.strip()):
        return f"the answer {value!r} is out of range: there are {len(options)} options"
    return f"the answer {_short(value)} is none of the options"


def _named(form: Form) -> str:
    return {"index": "an index", "letter": "a letter", "text": "a text"}[form]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
