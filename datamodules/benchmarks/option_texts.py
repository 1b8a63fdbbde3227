"""Finds the options of a question in a row, whatever the fields are called."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datamodules.benchmarks.item import LETTERS

OPTION_FIELDS = ("options", "option", "candidates", "choices")
"""Names of a field with all options: a list, or an object ``{"option 0": ...}`` or ``{"A": ...}``."""

PADDING = "N/A"
"""Text that fills up the options of a question that has fewer than the others."""

_NUMBERED = re.compile(r"(?:(?:option|choice|candidate|answer|a)[ _]?)?(\d{1,2}|[a-zA-Z])")
_ONE_FIELD_EACH = re.compile(r"(?:(?:option|choice|candidate)[ _]?(?:\d{1,2}|[a-zA-Z])|a\d{1,2})")


class Options(NamedTuple):
    """The options of a question."""

    texts: tuple[str, ...]
    problems: tuple[str, ...] = ()


def read_options(row: Mapping[str, Any]) -> Options:
    """Read the options, in order, without letters and without the padding at their end.

    Args:
        row: A row with ``options`` or the like, or with a field for each: ``a0``, ``option0``, ``choice_a``.
    """
    given = next((row[name] for name in OPTION_FIELDS if row.get(name) is not None), None)
    if given is None:
        given = {name: value for name, value in row.items() if _is_option(name)}
    problems: list[str] = []
    if isinstance(given, Mapping):
        values = _in_order(given, problems)
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        values = list(given)
    else:
        return Options((), (f"the options are {_type(given)}, expected a list or an object",))
    return Options(_without_padding(without_letters([_text(value, problems) for value in values])), tuple(problems))


def without_letters(texts: Sequence[str]) -> tuple[str, ...]:
    """Options without ``A. ``, ``(B) `` or ``C)`` before them, if all of them have their letter."""
    found = [re.match(rf"\(?{letter}[.):]\s*", text) for letter, text in zip(LETTERS, texts, strict=False)]
    if len(texts) < 2 or len(found) < len(texts) or not all(found):
        return tuple(texts)
    return tuple(text[match.end() :] for match, text in zip(found, texts, strict=True) if match)


def _is_option(name: str) -> bool:
    return name not in OPTION_FIELDS and _ONE_FIELD_EACH.fullmatch(name) is not None


def _in_order(given: Mapping[str, Any], problems: list[str]) -> list[Any]:
    numbers = {}
    for name, value in given.items():
        named = _NUMBERED.fullmatch(str(name))
        if named is None:
            problems.append(f"{name!r} is no name of an option; expected 'option 0' and so on, or letters")
            return list(given.values())
        number = int(named[1]) if named[1].isdigit() else LETTERS.index(named[1].upper())
        if number in numbers:
            problems.append(f"option {name!r} is there twice")
        numbers[number] = value
    ordered = sorted(numbers)
    if ordered and ordered != list(range(ordered[0], ordered[0] + len(ordered))):
        problems.append(f"the options are numbered {', '.join(map(str, ordered))}, with a gap")
    if ordered and ordered[0] not in (0, 1):
        problems.append(f"the first option is number {ordered[0]}")
    return [numbers[number] for number in ordered]


def _text(value: Any, problems: list[str]) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return ""
    problems.append(f"the option {str(value)[:40]!r} is {_type(value)}, expected text")
    return str(value)


def _without_padding(texts: tuple[str, ...]) -> tuple[str, ...]:
    end = len(texts)
    while end and texts[end - 1].upper() == PADDING:
        end -= 1
    return texts[:end]


def _type(value: Any) -> str:
    return f"of type {type(value).__name__}"
