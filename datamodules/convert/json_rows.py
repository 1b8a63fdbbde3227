"""Reads the rows of a JSON file one at a time, whatever the file's size and form.

The forms give the same rows:

- a list: ``[ROW, ROW]``;
- an object that holds one list of rows, under any name: ``{"version": 1, "data": [ROW, ROW]}``;
- an object of rows: ``{"1": ROW, "2": ROW}``;
- objects one after the other: JSON lines, or written over several lines each.

In the last form a wrong row costs only itself: reading continues at the next line that begins a row. In a list or
object that is cut off or damaged, nothing after the damage can be trusted: reading raises ``ConversionError``.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datamodules.convert.json_text import BrokenJsonError, JsonText
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem

_LOOK_AHEAD = 1 << 20
_TOKEN = re.compile(r'"[^"\\\r\n]*+(?:\\.[^"\\\r\n]*+)*+"|[\[\]{}:"]')
_OF_ROWS = frozenset({"conversations", "messages", "conversation", "QA", "image", "images", "video", "videos"})
_OF_LISTS = frozenset({"data", "rows", "annotations", "samples", "items", "examples", "instances", "train"})
_PACKED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_rows(path: Path, advance: Callable[[int], object] = lambda num_bytes: None) -> Iterator[Any]:
    """Yield every row of a file in its order, or a ``RowProblem`` for a row that cannot be read.

    Args:
        path: A file in one of the forms above; its first bytes decide which.
        advance: Called with the number of bytes that were read since the last call.

    Yields:
        Whatever JSON value the row is, or a ``RowProblem``.

    Raises:
        ConversionError: The file is missing, empty, in none of these forms, or its list or object is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            text = JsonText(path, file, advance)
            first = "" if head[:2] in _UTF16 or head[:2] in _PACKED else text.peek()
            if first == "[":
                yield from _list_rows(text)
                _expect_end(text)
            elif first == "{" and (form := _form_of_object(*text.look_ahead(_LOOK_AHEAD))):
                yield from _object_rows(text, form)
                _expect_end(text)
            elif first == "{":
                while text.peek():
                    yield _next_row(text)
            else:
                raise ConversionError(f"{path} {_what_begins(head)}; expected a JSON list of rows, or JSON lines")
    except OSError as error:
        raise ConversionError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _what_begins(head: bytes) -> str:
    if head[:2] in _PACKED:
        return f"is a {_PACKED[head[:2]]} file: unpack it first"
    if head[:2] in _UTF16:
        return "is UTF-16: write it again as UTF-8"
    begin = head.lstrip()[:10]
    return f"starts with {begin!r}" if begin else "is empty"


def _list_rows(text: JsonText) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    separator = ","
    while separator == ",":
        yield from text.rows_in_window()
        yield _value(text, "a row")
        separator = text.take(",]")


def _object_rows(text: JsonText, form: str) -> Iterator[Any]:
    name_of_rows = None
    text.take("{")
    separator = ","
    while separator == ",":
        if text.peek() != '"':
            raise text.error("expected a name in quotes")
        name = _value(text, "a name")
        text.take(":")
        if form == "rows":
            yield _value(text, "a row")
        elif _is_list_of_rows(name, text.peek_two()):
            if name_of_rows is not None:
                raise ConversionError(
                    f"{text.path} holds several lists, {name_of_rows!r} and {name!r}; write the list of rows to a "
                    "file of its own"
                )
            name_of_rows = name
            yield from _list_rows(text)
        else:
            _value(text, "a value")
        separator = text.take(",}")


def _next_row(text: JsonText) -> Any:
    try:
        row = text.decode()
    except BrokenJsonError as error:
        text.skip_row()
        return RowProblem(Reason.MALFORMED, f"the row is no JSON: {error}")
    behind = text.peek_in_line()
    if behind and behind not in "\r\n{":
        text.skip_row()
        return RowProblem(Reason.MALFORMED, f"{behind!r} follows the row; expected the next one on a new line")
    return row


def _value(text: JsonText, what: str) -> Any:
    if text.peek() in "]}":  # or empty
        raise text.error(f"expected {what}")  # a comma before the bracket, or the file is cut off
    try:
        return text.decode()
    except BrokenJsonError as error:
        raise text.error(str(error)) from error


def _expect_end(text: JsonText) -> None:
    if text.peek():
        raise text.error("expected the end of the file")


def _is_list_of_rows(name: object, opening: str) -> bool:
    return opening == "[{" or (opening[:1] == "[" and name in _OF_LISTS)


def _form_of_object(text: str, is_all: bool) -> str:
    """Decide where the rows are in a file that begins with an object.

    Args:
        text: The file's beginning.
        is_all: Whether that is the complete file.

    Returns:
        ``list`` if the object holds a list of rows, ``rows`` if its values are rows, empty if it is a row itself.
    """
    members, names_below, end = _outline(text)
    if (end is not None and text[end:].strip()) or _OF_ROWS & members.keys():
        return ""
    is_clear = bool(_OF_ROWS & names_below) or (end is None and not is_all)
    if any(name in _OF_LISTS and opening[:1] == "[" for name, opening in members.items()):
        return "list"
    if is_clear and "[{" in members.values():
        return "list"
    return "rows" if is_clear and members and set(map(_first, members.values())) == {"{"} else ""


def _first(opening: str) -> str:
    return opening[:1]


def _outline(text: str) -> tuple[dict[str, str], set[str], int | None]:
    """The first object of a text: how the value of each name begins, names up to two levels below, and its end."""
    members: dict[str, str] = {}
    below: set[str] = set()
    depth, string, name, opened = 0, "", "", ""
    for token in _TOKEN.finditer(text):
        found = token.group()
        if found == '"':
            break  # a string without an end
        if found == ":":
            if depth == 1:
                name = string
                members[name] = ""
            elif depth <= 3:
                below.add(string)
        elif found[0] == '"':
            string = found[1:-1]
        elif found in "[{":
            if depth == 1 and name:
                members[name], opened = found, name
            elif depth == 2 and members.get(opened) == "[" and found == "{":
                members[opened] = "[{"
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return members, below, token.end()
    return members, below, None
