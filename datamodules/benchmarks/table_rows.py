"""Reads tables of questions: JSON, JSON lines, CSV, TSV and Parquet."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a table, a dictionary a row.

    Args:
        path: A file with the ending ``.json`` (a list, or an object whose values are rows), ``.jsonl``, ``.csv``,
            ``.tsv`` or ``.parquet``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: Parquet needs pyarrow, which is not installed.
        ValueError: The file is damaged, is no table, or has another ending.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give the folder that the benchmark was downloaded to")
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} ends in none of {', '.join(readers)}; give the benchmark's file of questions")
    try:
        rows = reader(path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise ValueError(f"{path}, row {wrong} is no object with named fields; is it the file of questions?")
    return [dict(row) for row in rows]


def _json(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        content = list(content.values())
    if not isinstance(content, list):
        raise ValueError(f"{path} holds neither a list nor an object; is it the file of questions?")
    return content


def _json_lines(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _csv(path: Path) -> list[Any]:
    return _separated(path, ",")


def _tsv(path: Path) -> list[Any]:
    return _separated(path, "\t")


def _separated(path: Path, separator: str) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def _parquet(path: Path) -> list[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path} is a Parquet file; reading it needs pyarrow: pip install pyarrow") from error
    rows: Iterable[Any] = parquet.read_table(path).to_pylist()
    return list(rows)
