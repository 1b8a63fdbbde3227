"""Reads JSON values from a file of any size, one after the other, with only a part of its text in memory.

The standard ``json`` module parses every value, so a row is read as in any other Python program.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from json.scanner import make_scanner
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.convert.row_problems import ConversionError, Reason, RowProblem

_CHUNK = 1 << 16
_MARGIN = 1 << 13  # less text than this left: read more, so that no row is parsed in vain because it is cut
_LONGEST_VALUE = 1 << 26  # characters of a row
_LONGEST_INDENT = 64
_LONGEST_TOKEN = 32  # an error this close to the window's end may be a word, number or escape that is cut

_SPACE = re.compile(r"[ \t\n\r\v\f\ufeff]*")
_SPACE_IN_LINE = re.compile(r"[ \t\v\f\ufeff]*")
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD]")
_HALF_CHARACTER = re.compile(  # a surrogate without its other half, or what looks like one
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_DECODER = json.JSONDecoder()
_SCAN: Callable[[str, int], tuple[Any, int]] = make_scanner(_DECODER)  # type: ignore[arg-type]  # as raw_decode does


class BrokenJsonError(ValueError):
    """There is no JSON value where one was expected."""


class JsonText:
    """The text of a JSON file from a position on.

    Args:
        path: Of the file, for messages.
        file: The file, open. Bytes that are no UTF-8 are reported with the value that holds them.
        advance: Called with the number of bytes that were read since the last call.
    """

    def __init__(self, path: Path, file: BinaryIO, advance: Callable[[int], object]) -> None:
        self.path = path
        self._file = file
        self._advance = advance
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._num_bytes = 0
        self._is_at_end = False
        self._text = ""
        self._at = 0
        self._value_at = 0  # where the last value began
        self._may_hold_half = False  # of a character; then every value in the window is checked

    def peek(self) -> str:
        """Go to the next character that is no white space, and return it; empty at the end of the file."""
        next_one = self._text[self._at : self._at + 1]
        if " " < next_one < "\x7f":
            return next_one
        while True:
            self._at = _end_of(_SPACE, self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def peek_in_line(self) -> str:
        """Like ``peek``, but a line break is returned too."""
        while True:
            self._at = _end_of(_SPACE_IN_LINE, self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def peek_two(self) -> str:
        """The next two characters that are no white space; fewer at the end of the file."""
        first = self.peek()
        while first and (second := _end_of(_SPACE, self._text, self._at + 1)) >= len(self._text):
            if not self._read_on():
                return first
        return first and first + self._text[second]

    def look_ahead(self, num_characters: int) -> tuple[str, bool]:
        """At least this much text from the position, and whether that is the rest of the file."""
        while len(self._text) - self._at < num_characters and self._read_on():
            pass
        return self._text[self._at :], self._is_at_end

    def take(self, expected: str) -> str:
        """Read the next character that is no white space, which must be one of these.

        Raises:
            ConversionError: It is another.
        """
        found = self.peek()
        if not found or found not in expected:
            raise self.error(f"expected {' or '.join(expected)}")
        self._at += 1
        return found

    def decode(self) -> Any:
        """Read the value at the position.

        Returns:
            The value, or a ``RowProblem`` if it cannot be used but its end is known.

        Raises:
            BrokenJsonError: There is no JSON value.
            ConversionError: The value is longer than a row may be.
        """
        self._value_at = self._at
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or len(self._text) - error.pos <= _LONGEST_TOKEN
                if is_cut and self._read_on():
                    continue
                raise BrokenJsonError(f"{error.msg} {self._place(error.pos)}") from None
            except (ValueError, RecursionError) as error:  # a number of 5000 digits, lists in lists in lists
                found = _end_of_value(self._text, self._at)
                if found is None:
                    if self._read_on():
                        continue
                    raise BrokenJsonError(f"the value that begins {self._place(self._at)} has no end") from None
                self._at = found
                return RowProblem(Reason.MALFORMED, f"the row cannot be read: {error}")
            is_near_end = len(self._text) - end < _LONGEST_TOKEN
            if is_near_end and self._text[self._at] not in '{["' and self._read_on():
                continue  # more digits may follow
            self._at = end
            if self._may_hold_half and (problem := _encoding_problem(self._text[self._value_at : end], value)):
                return problem
            return value

    def rows_in_window(self) -> Iterator[dict[str, Any]]:
        """Read rows of a list, each with its comma, until more of the file is needed or a row is unusual.

        This is a faster form of ``decode``, which has to read what follows.
        """
        while self.peek() == "{" and not self._may_hold_half:
            text, at = self._text, self._at
            if at > len(text) - _MARGIN and self._read_on():
                continue
            try:
                row, end = _SCAN(text, at)
                while text.startswith(", {", end) and end < len(text) - _MARGIN:
                    self._at = end + 2
                    yield row
                    row, end = _SCAN(text, self._at)
            except (StopIteration, ValueError, RecursionError):
                return
            if not text.startswith(",", end):
                return
            self._at = end + 1
            yield row

    def skip_row(self) -> None:
        """Go to the next line that begins an object with the same indent as the last value."""
        before = self._text[max(0, self._value_at - _LONGEST_INDENT) : max(0, self._value_at)]
        indent = before[max(before.rfind("\n"), before.rfind("\r")) + 1 :]
        indent = "" if indent.strip(" \t") else indent
        next_row = re.compile(rf"[\r\n]\ufeff?{indent}(?=\{{)")
        while not (found := next_row.search(self._text, self._at)):
            tail = len(self._text) - _LONGEST_INDENT - 2
            self._at = max(self._at, self._text.rfind("\n", max(0, tail)), tail)
            if not self._read_on():
                self._at = len(self._text)
                return
        self._at = found.end()

    def error(self, why: str) -> ConversionError:
        """The error to raise if the file cannot be read from here."""
        place = self._place(self._at) if why.startswith("expected") else ""
        return ConversionError(
            f"{self.path} is no complete JSON list or object of rows: {f'{why} {place}'.strip()}; fetch the file again "
            "or repair it there"
        )

    def _place(self, at: int) -> str:
        num_after = len(self._text[at:].encode("utf-8", "surrogateescape")) + len(self._decoder.getstate()[0])
        position = self._num_bytes - num_after
        if at >= len(self._text) and self._is_at_end:
            return f"at byte {position}, but the file ends there"
        return f"at byte {position}, got {self._text[at : at + 20]!r}"

    def _read_on(self) -> bool:
        """Read more of the file and drop the text before the position; False at the end of the file."""
        if self._is_at_end:
            return False
        num_held = len(self._text) - self._at
        if num_held > _LONGEST_VALUE:
            raise ConversionError(
                f"{self.path}: a row has more than {_LONGEST_VALUE} characters "
                f"({self._place(self._at)}); expected a list, an object or lines of rows"
            )
        data = self._file.read(max(_CHUNK, num_held))  # twice as much each time, so a long value is not parsed often
        self._is_at_end = not data
        self._num_bytes += len(data)
        self._advance(len(data))
        more = self._decoded(data)
        if self._is_at_end:
            self._text += more  # half a character at most
            return bool(more)
        dropped = max(0, self._at - _LONGEST_INDENT)
        self._text = self._text[dropped:] + more
        self._at -= dropped
        self._value_at -= dropped
        self._may_hold_half = self._decoder.errors != "strict" or _SURROGATE.search(self._text) is not None
        return True

    def _decoded(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, final=self._is_at_end)
        except UnicodeDecodeError:
            self._decoder.errors = "surrogateescape"  # wrong bytes become halves of characters
            return self._decoder.decode(data, final=self._is_at_end)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _end_of_value(text: str, start: int) -> int | None:
    """End of the list or object that starts here, found by its brackets; None if it is not closed."""
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.end()
    return None


def _encoding_problem(raw: str, value: Any) -> RowProblem | None:
    try:
        raw.encode()
    except UnicodeEncodeError:
        return RowProblem(Reason.ENCODING, "the row holds bytes that are no UTF-8; write it again as UTF-8")
    if _HALF_CHARACTER.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = str(error.object)[error.start].encode("unicode_escape").decode()
            return RowProblem(Reason.ENCODING, f"the row holds half a character ({half}); repair the text")
    return None
