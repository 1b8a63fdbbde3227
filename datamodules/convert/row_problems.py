"""Why a row is left out: a reason, by which rows are counted, and a message, which is listed."""

import errno
from enum import StrEnum
from pathlib import Path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of the output disk, not of one row's media


class ConversionError(ValueError):
    """The conversion must stop: wrong settings, or an annotation file that cannot be read."""


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
    OVERSIZED = "media too large"
    DAMAGED = "damaged media"
    CRASHED = "decoder crashed or hung"


class RowProblem(Exception):  # noqa: N818  a problem of one row, not an error of the program
    """One row is left out.

    Args:
        reason: The reason under which it is counted.
        message: What was found, what was expected and what to do.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)  # both, so that it can be pickled
        self.reason = reason
        self.message = message.encode(errors="backslashreplace").decode()  # file names may not be UTF-8

    def __str__(self) -> str:
        return self.message


def damaged(path: Path, why: object) -> RowProblem:
    """The problem of a file that cannot be decoded.

    Raises:
        ConversionError: The output disk is full, which is no problem of the file.
    """
    refuse_full_disk(why)
    return RowProblem(Reason.DAMAGED, f"{path} cannot be decoded ({why}); fetch it again")


def unforeseen(what: str, error: Exception) -> RowProblem:
    """The problem of a row that failed with an unexpected error.

    Args:
        what: The row or its file.
        error: What was raised.

    Raises:
        ConversionError: The error is about the conversion, not the row.
    """
    if isinstance(error, ConversionError):
        raise error
    refuse_full_disk(error)
    return RowProblem(Reason.CRASHED, f"{what} failed with {type(error).__name__}: {error}; it is left out")


def refuse_full_disk(error: object) -> None:
    """Stop the conversion if its output disk is full.

    Raises:
        ConversionError: It is full or read-only.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise ConversionError(f"OUT cannot be written to ({error}); make room, then run the same command to continue")
