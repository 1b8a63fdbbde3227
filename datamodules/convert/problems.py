"""Why a row is left out. Every row that is not written has one reason and a message; both are counted and listed."""

from enum import StrEnum
from pathlib import Path


class ConversionError(ValueError):
    """The conversion as a whole cannot go on: wrong settings, or an annotation file that cannot be read."""


class Reason(StrEnum):
    """What is wrong with a row."""

    MALFORMED = "malformed row"
    ENCODING = "wrong encoding"
    SEVERAL_MEDIA = "several media"
    TURNS = "turns out of order"
    EMPTY_TURN = "empty turn"
    PLACEHOLDER = "placeholder without media"
    SPAN = "wrong start or end"
    FIELD = "unsupported field"
    REFUSED_PATH = "refused path"
    MISSING = "missing media"
    UNSUPPORTED = "unsupported media"
    DAMAGED = "damaged media"
    CRASHED = "decoder crashed or hung"


class RowProblem(Exception):  # noqa: N818  it is one row's fault, not the program's
    """One row is left out.

    Args:
        reason: Under which reason it is counted.
        message: What was got, what was expected and what to do.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)  # both, so that it can be pickled
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


def damaged(path: Path, why: object) -> RowProblem:
    """Say that a file is no media that could be decoded."""
    return RowProblem(Reason.DAMAGED, f"{path} cannot be decoded ({why}); fetch it again")
