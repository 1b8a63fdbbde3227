"""Reads the rows of a JSON list or of JSON lines one at a time, whatever the file's size.

A wrong line of JSON lines, and a row with bytes that are no UTF-8, are one bad row each. A JSON list that breaks off or
is no JSON somewhere has no rows that could be trusted after that place: reading it raises ``ConversionError``.
"""

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from datamodules.convert.problems import ConversionError, Reason, RowProblem

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 26
_NOT_UTF8 = "\ufdd0"  # a code point that Unicode keeps out of all texts
_MARK_WRONG_BYTES = "datamodules.convert.mark"

codecs.register_error(_MARK_WRONG_BYTES, lambda error: (_NOT_UTF8, getattr(error, "end", 0)))


def read_rows(path: Path, advance: Callable[[int], object] = lambda num_bytes: None) -> Iterator[Any]:
    """Yield every row as it stands in the file; a row that cannot be read as a ``RowProblem`` in its place.

    Args:
        path: A JSON list, or JSON lines; the first character tells which.
        advance: Called with the number of bytes that were read since the last call.

    Yields:
        Whatever JSON value the row is, or a ``RowProblem``.

    Raises:
        ConversionError: The file is missing, empty, holds neither form, or its JSON list is damaged.
    """
    try:
        with path.open("rb") as file:
            first = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            file.seek(0)
            if first == b"[":
                yield from _list_rows(path, file, advance)
            elif first == b"{":
                yield from _line_rows(path, file, advance)
            else:
                found = f"starts with {first!r}" if first else "is empty"
                raise ConversionError(f"{path} {found}; expected a JSON list of rows, or one JSON object a line")
    except OSError as error:
        raise ConversionError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _list_rows(path: Path, file: BinaryIO, advance: Callable[[int], object]) -> Iterator[Any]:
    reader = _Utf8Reader(file, advance)
    try:
        # ijson's C parser holds one chunk and the row that is being built.
        for row in ijson.items(reader, "item", use_float=True, buf_size=_CHUNK):
            if reader.found_wrong_bytes and _NOT_UTF8 in json.dumps(row, ensure_ascii=False):
                yield RowProblem(Reason.ENCODING, "the row holds bytes that are no UTF-8; write it again as UTF-8")
            else:
                yield row
    except ijson.JSONError as error:
        raise ConversionError(
            f"{path} is no whole JSON list: {str(error).splitlines()[0]}, between byte {reader.chunk_start} and byte "
            f"{reader.position}; fetch the file again or repair it there"
        ) from error


def _line_rows(path: Path, file: BinaryIO, advance: Callable[[int], object]) -> Iterator[Any]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ConversionError(
                f"{path}: the line before byte {file.tell()} is longer than {_LONGEST_LINE} bytes; expected JSON lines"
            )
        advance(len(line))
        if line.strip():
            yield _parse_line(line)


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowProblem(Reason.ENCODING, f"byte {error.start} of the line is no UTF-8; write it again as UTF-8")
    except (ValueError, RecursionError) as error:
        return RowProblem(Reason.MALFORMED, f"the line is no JSON: {error}")


class _Utf8Reader:
    """A file whose bytes are UTF-8 for certain, since ijson would give up at the first that is not."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors=_MARK_WRONG_BYTES)
        self.chunk_start = 0
        self.position = 0
        self.found_wrong_bytes = False

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of the file, repaired; none only at its end (or when asked for none)."""
        text = ""
        while size and not text:
            data = self._file.read(size)
            if data:
                self.chunk_start = self.position
                self.position += len(data)
                self._advance(len(data))
            text = self._decoder.decode(data, final=not data)
            if not data:
                break
        self.found_wrong_bytes = self.found_wrong_bytes or _NOT_UTF8 in text
        return text.encode()
