"""Why a row is left out. Every row that is not written has one reason and a message; both are counted and listed."""

import errno
from enum import StrEnum
from pathlib import Path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of where the conversion writes, never of one row's media


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
    OVERSIZED = "media too large"
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
        self.message = message.encode(errors="backslashreplace").decode()  # names of files need not be UTF-8

    def __str__(self) -> str:
        return self.message


def damaged(path: Path, why: object) -> RowProblem:
    """Say that a file is no media that could be decoded.

    Raises:
        ConversionError: The disk that the conversion writes to is full, which is no fault of the file.
    """
    refuse_full_disk(why)
    return RowProblem(Reason.DAMAGED, f"{path} cannot be decoded ({why}); fetch it again")


def unforeseen(what: str, error: Exception) -> RowProblem:
    """The problem of a row whose work failed with an error that nobody foresaw.

    Args:
        what: The row or its file.
        error: What was raised.

    Raises:
        ConversionError: It concerns the conversion as a whole.
    """
    if isinstance(error, ConversionError):
        raise error
    refuse_full_disk(error)
    return RowProblem(Reason.CRASHED, f"{what} failed with {type(error).__name__}: {error}; it is left out")


def refuse_full_disk(error: object) -> None:
    """End the conversion where its own disk takes no more.

    Raises:
        ConversionError: The error says so.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise ConversionError(f"OUT cannot be written to ({error}); make room, then give the same command to go on")
