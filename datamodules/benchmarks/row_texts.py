"""Reads texts, names and times from a row, and says what is wrong with them."""

import math
from collections.abc import Sequence
from typing import Any

from datamodules.benchmarks.item import Problem
from datamodules.benchmarks.question_files import FileRow

_LARGEST = 1e10


def text_of(row: FileRow, fields: Sequence[str]) -> str:
    """The text in the first of these fields that has one; empty: none."""
    found = (row.values.get(name) for name in fields)
    return next((value.strip() for value in found if isinstance(value, str) and value.strip()), "")


def name_of(row: FileRow, fields: Sequence[str], problems: list[Problem], *, may_be_number: bool = False) -> str | None:
    """The name of a medium.

    Args:
        row: The row.
        fields: Names of the field, the first that is there.
        problems: Gets what is wrong with it.
        may_be_number: Whether a number is an expected name.
    """
    field = next((name for name in fields if row.values.get(name) not in (None, "")), None)
    if field is None:
        return None
    value = row.values[field]
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        if not may_be_number:
            problems.append(Problem(row.where, f"{field} is the number {value}, expected text; it is read as text"))
        return str(value)
    problems.append(Problem(row.where, f"{field} is of type {type(value).__name__}, expected text"))
    return None


def milliseconds_of(row: FileRow, field: str, problems: list[Problem]) -> int | None:
    """A time in seconds, in milliseconds; None where there is none, or none that can be read."""
    value = row.values.get(field)
    if value is None or value == "":
        return None
    seconds = _finite(value)
    if seconds is None:
        problems.append(Problem(row.where, f"{field} is {str(value)[:40]!r}, expected seconds; it is left out"))
        return None
    if isinstance(value, str):
        problems.append(Problem(row.where, f"{field} is text, expected a number of seconds"))
    return round(1000 * seconds)


def seconds_of(row: FileRow, fields: Sequence[str]) -> float | None:
    """A positive number of seconds in the first of these fields that has one."""
    found = (_finite(row.values.get(name)) for name in fields)
    return next((value for value in found if value is not None and value > 0), None)


def frame_of(row: FileRow, values: Any, field: str, problems: list[Problem]) -> int | None:
    """The number of a frame in an object of a row."""
    value = values.get(field) if isinstance(values, dict) else None
    number = _finite(value)
    if number is None or not number.is_integer() or number < 0:
        problems.append(Problem(row.where, f"{field} is {str(value)[:40]!r}, expected the number of a frame"))
        return None
    return int(number)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < _LARGEST else None
