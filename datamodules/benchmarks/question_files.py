"""Reads files of questions and answers in whatever form they have, and lists what is odd about them.

``table_rows.py`` refuses a file with anything odd in it. Here one bad row does not hide the others.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.benchmarks.item import Problem
from datamodules.benchmarks.table_rows import read_rows

_TABLES = (".csv", ".tsv", ".parquet")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class FileRow(NamedTuple):
    """A row of a file."""

    where: str  # file and row, for messages
    values: dict[str, Any]
    key: str | None = None  # its name, where the file is an object with a value a row


class FileRows(NamedTuple):
    """The rows of a file."""

    rows: list[FileRow]
    problems: list[Problem]


def read_file_rows(path: Path) -> FileRows:
    """Read a list of objects, an object of objects, JSON lines, CSV, TSV or Parquet; the content decides, not the name.

    A list of plain values, or an object whose values are plain, becomes rows with the one field ``answer``.

    Args:
        path: The file.

    Returns:
        The rows that can be read, and what is wrong with the file.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: Parquet needs pyarrow, which is not installed.
        ValueError: Nothing of the file can be read.
    """
    if path.suffix.lower() in _TABLES:
        return _of_table(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give the file of questions, or the benchmark's folder")
    problems: list[Problem] = []
    content = _parse(_text_of(path, problems), path, problems)
    return FileRows(list(_rows_of(content, path.name, problems)), problems)


def _of_table(path: Path) -> FileRows:
    problems: list[Problem] = []
    if path.is_file() and path.suffix.lower() != ".parquet" and path.read_bytes().startswith(codecs.BOM_UTF8):
        problems.append(Problem(path.name, "it begins with a byte order mark; store it as UTF-8 without one"))
    rows = []
    for number, values in enumerate(read_rows(path), start=1):
        where = f"{path.name}, row {number}"
        if any(not isinstance(name, str) for name in values):
            problems.append(Problem(where, "it has more fields than the header names; the last ones are left out"))
        rows.append(FileRow(where, {name: value for name, value in values.items() if isinstance(name, str)}))
    return FileRows(rows, problems)


def _text_of(path: Path, problems: list[Problem]) -> str:
    content = path.read_bytes()
    encoding = "utf-8"
    for mark, name in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            problems.append(Problem(path.name, f"it begins with a byte order mark ({name}); store it as UTF-8 without"))
            content, encoding = content.removeprefix(mark) if name == "utf-8" else content, name
            break
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        problems.append(Problem(path.name, f"it is not {encoding} ({error.reason} at byte {error.start})"))
        return content.decode(encoding, errors="replace")


def _parse(text: str, path: Path, problems: list[Problem]) -> Any:
    """One JSON document, or one a line."""
    try:
        return _json(text, path.name, problems)
    except (ValueError, RecursionError) as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        parsed, found = [], list[Problem]()
        for number, line in lines:
            where = f"{path.name}, line {number}"
            try:
                parsed.append(_json(line, where, found))
            except (ValueError, RecursionError) as reason:
                found.append(Problem(where, f"it is no JSON ({_first_line(reason)}); it is left out"))
        if not any(isinstance(each, Mapping) for each in parsed):
            raise ValueError(f"{path} is no JSON ({_first_line(error)}); download it again") from error
        problems += found
        return parsed


def _json(text: str, where: str, problems: list[Problem]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = sorted({name for name in names if names.count(name) > 1} if len(names) < 1000 else _twice(names))
            problems.append(
                Problem(where, f"the key {repeated[0]!r} is there twice in an object; the last one is used")
            )
        return built

    def number(name: str) -> float:
        problems.append(Problem(where, f"it holds {name}, which is no JSON"))
        return float(name)

    return json.loads(text, object_pairs_hook=unique, parse_constant=number)


def _twice(names: list[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _rows_of(content: Any, name: str, problems: list[Problem]) -> Iterator[FileRow]:
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list) and _is_rows(value)]
        if "question" in content:
            content = [content]
        elif len(lists) == 1:
            content = lists[0]
    if isinstance(content, Mapping):
        for key, value in content.items():
            where = f"{name}, {key!r}"
            yield FileRow(where, dict(value) if isinstance(value, Mapping) else {"answer": value}, key)
    elif isinstance(content, list):
        for number, value in enumerate(_flat(content), start=1):
            where = f"{name}, row {number}"
            yield FileRow(where, dict(value) if isinstance(value, Mapping) else {"answer": value})
    else:
        problems.append(Problem(name, f"it holds neither a list nor an object, but {type(content).__name__}"))


def _is_rows(values: list[Any]) -> bool:
    return any(isinstance(value, Mapping) for value in values)


def _flat(values: list[Any]) -> Iterator[Any]:
    """The rows of a list, or of a list of lists of rows."""
    for value in values:
        if isinstance(value, list) and _is_rows(value):
            yield from value
        else:
            yield value


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
