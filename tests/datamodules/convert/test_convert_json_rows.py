import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.json_rows import read_rows
from datamodules.convert.problems import ConversionError, Reason, RowProblem


def rows(path: Path, data: bytes) -> list[Any]:
    path.write_bytes(data)
    return list(read_rows(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


def test_a_list_and_lines_give_the_same_rows(file: Path) -> None:
    expected = [{"a": 1.5, "b": "ü"}, {"c": [None, True]}]
    as_list = json.dumps(expected, indent=1, ensure_ascii=False).encode()
    as_lines = "\n\n".join(json.dumps(row) for row in expected).encode()
    assert rows(file, as_list) == rows(file, b"\xef\xbb\xbf" + as_list) == rows(file, as_lines) == expected


def test_rows_are_yielded_before_the_file_is_read(file: Path) -> None:
    file.write_bytes(b"[" + b",".join(b'{"a": "%s"}' % (b"x" * 1000) for _ in range(1000)) + b"]")
    read: list[int] = []
    next(read_rows(file, read.append))
    assert 0 < sum(read) < file.stat().st_size / 4
    read.clear()
    assert len(list(read_rows(file, read.append))) == 1000
    assert sum(read) == file.stat().st_size


def test_bytes_that_are_no_utf8_cost_one_row(file: Path) -> None:
    wrong, half, right = b'{"a": "\xff\xfe"}', b'{"a": "\xc3"}', b'{"a": "\xc3\xbc"}'
    for data in (b"[" + b",".join([wrong, right, half, right]) + b"]", b"\n".join([wrong, right, half, right])):
        if data.startswith(b"{"):
            data = right + b"\n" + data
        found = rows(file, data)
        problems = [row.reason for row in found if isinstance(row, RowProblem)]
        assert problems == [Reason.ENCODING, Reason.ENCODING]
        assert [row for row in found if not isinstance(row, RowProblem)][-2:] == [{"a": "ü"}] * 2


def test_half_a_line_costs_one_row(file: Path) -> None:
    found = rows(file, b'{"a": 1}\n{"a": \n{"a": 2}\n[[[[\n{"a": 3')
    assert [found[0], found[2]] == [{"a": 1}, {"a": 2}]
    assert [row.reason for row in found if isinstance(row, RowProblem)] == [Reason.MALFORMED] * 3


def test_a_damaged_list_is_refused_with_its_place(file: Path) -> None:
    whole = b"[" + b",".join(b'{"a": "%s"}' % (b"x" * 1000) for _ in range(300)) + b"]"
    for data in (whole[:200_000], whole[:200_000] + b'"}}' + whole[200_000:]):
        with pytest.raises(ConversionError, match=r"rows.json is no whole JSON list.*byte \d+ and byte \d+") as caught:
            rows(file, data)
        start, end = (int(word) for word in str(caught.value).replace(";", "").split() if word.isdecimal())
        assert start <= 200_000 <= end + 1


@pytest.mark.parametrize("data", [b"", b"  \n", b'"text"', b"\x00\x01", b"12"])
def test_other_files_are_refused(file: Path, data: bytes) -> None:
    with pytest.raises(ConversionError, match=r"expected a JSON list of rows, or one JSON object a line"):
        rows(file, data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none\.json cannot be read"):
        list(read_rows(tmp_path / "none.json"))
