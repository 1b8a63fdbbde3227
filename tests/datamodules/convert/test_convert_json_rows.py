import codecs
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.convert.json_rows import read_rows
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem
from tests.datamodules.convert.conversions import llava_item


def rows(path: Path, data: bytes) -> list[Any]:
    path.write_bytes(data)
    return list(read_rows(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


def forms(rows: list[Any], ascii_only: bool = True, indent: int = 1, between: str = "\n") -> dict[str, bytes]:
    """The same rows in every form of file."""

    def dump(value: Any, indent: int | None = None) -> bytes:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()

    return {
        "list": dump(rows),
        "indented list": dump(rows, indent),
        "list below a name": dump({"version": 1, "data": rows, "authors": ["a"]}, indent),
        "object of rows": dump({f"row {number}": row for number, row in enumerate(rows)}, indent),
        "lines": between.encode().join(map(dump, rows)),
        "indented objects": between.encode().join(dump(row, indent) for row in rows),
        "list with a byte order mark": codecs.BOM_UTF8 + dump(rows),
        "lines with byte order marks": codecs.BOM_UTF8 + (b"\n" + codecs.BOM_UTF8).join(map(dump, rows)),
    }


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ANY_ROW = st.dictionaries(st.text(), ANY_JSON, max_size=3).map(lambda fields: {**fields, "conversations": []})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ANY_ROW, min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""]),
    st.integers(1, 100),
)
def test_all_forms_give_the_rows_that_json_reads_wherever_the_file_is_cut_into_chunks(
    file: Path, made: list[Any], ascii_only: bool, indent: int, between: str, chunk: int
) -> None:
    expected = [json.dumps(json.loads(json.dumps(row))) for row in made]  # as text, since NaN is not NaN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.convert.json_text._CHUNK", chunk)
        patch.setattr("datamodules.convert.json_text._MARGIN", 1)
        for name, data in forms(made, ascii_only, indent, between).items():
            assert [json.dumps(row) for row in rows(file, data)] == expected, name


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400", "123456789012345678901234567890", '"\u2028"', "-0.0"])
def test_values_that_json_reads_are_read_in_every_form(file: Path, value: str) -> None:
    row = f'{{"score": {value}, "conversations": []}}'
    expected = repr([json.loads(row)] * 2)
    assert repr(rows(file, f"[{row}, {row}]".encode())) == repr(rows(file, f"{row}\n{row}".encode())) == expected
    assert repr(rows(file, f'{{"data": [{row}, {row}]}}'.encode())) == expected


@pytest.mark.parametrize("text", ["caf\\udce9 ?", "smile \\ud83d ok", "\\ude00\\ud83d", "\\\\\\ud83d"])
def test_half_a_character_is_a_wrong_encoding_in_every_form(file: Path, text: str) -> None:
    right = '{"conversations": "\\ud83d\\ude00 and \\\\ud83d"}'
    wrong = right.replace("and", text)
    for data in (
        f"[{right}, {wrong}, {right}]",
        f"{right}\n{wrong}\n{right}",
        f'{{"data": [{right}, {wrong}, {right}]}}',
    ):
        found = rows(file, data.encode())
        assert [row.reason if isinstance(row, RowProblem) else row for row in found] == [
            json.loads(right),
            Reason.ENCODING,
            json.loads(right),
        ]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_what_json_cannot_hold_costs_one_row_in_every_form(file: Path, value: str) -> None:
    row, right = f'{{"conversations": {value}}}', '{"conversations": 1}'
    for data in (f"[{row}, {right}]", f"{right}\n{row}\n{right}", f'{{"data": [{right}, {row}]}}'):
        found = rows(file, data.encode())
        assert [one.reason for one in found if isinstance(one, RowProblem)] == [Reason.MALFORMED]
        assert {"conversations": 1} in found


@pytest.mark.parametrize("indent", [1, 4])
def test_a_wrong_row_over_several_lines_is_one_problem(file: Path, indent: int) -> None:
    texts = [json.dumps(llava_item(f"{number} ?"), indent=indent) for number in range(4)]
    texts[1] = texts[1].replace(",", "", 1)
    texts[2] = texts[2].rpartition("}")[0]  # without its end
    found = rows(file, "\n".join(texts).encode())
    assert [isinstance(row, RowProblem) for row in found] == [False, True, True, False]


@pytest.mark.parametrize("indent", ["", "  "])
def test_commas_between_rows_without_a_list_are_named(file: Path, indent: str) -> None:
    data = "".join(f'{indent}{{"id": {number}, "conversations": []}},\n' for number in range(3))
    found = rows(file, data.encode())
    assert [str(row) for row in found] == ["',' follows the row; expected the next one on a new line"] * 3


def test_zero_bytes_at_the_end_of_lines_are_one_problem(file: Path) -> None:
    found = rows(file, b'{"conversations": []}\n' + bytes(200_000))
    assert found[0] == {"conversations": []}
    (problem,) = found[1:]
    assert "at byte 22, got '\\x00" in str(problem)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[{}, {},]", r"expected a row at byte 8, got '\]'"),
        (b"[{}, {}] {}", r"expected the end of the file at byte 9, got '\{\}'"),
        (b"[{}, {}\0]", r"expected , or \] at byte 7, got '\\x00\]'"),
        (b"[{}, {} {}]", r"expected , or \] at byte 8"),
        (b"[{}, {}", r"expected , or \] at byte 7, but the file ends there"),
        (b"[{}, {'a': 1}]", r"property name enclosed in double quotes at byte 6, got \"'a': 1"),
        ('["ü", True]'.encode(), r"Expecting value at byte 7, got 'True"),
        (b'{"data": [{}, {}], "val": [{}]}', r"several lists, 'data' and 'val'"),
        (b'{"data": [{}, {}] "a": 1}', r"expected , or \} at byte 18"),
        (b'{"data": [{}, {', r"at byte 15, but the file ends there"),
        (b"\xff\xfe[\0]\0", r"is UTF-16: write it again as UTF-8"),
        (b"\x1f\x8b\x08\0", r"is a gzip file: unpack it first"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_place(file: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        rows(file, data)


@pytest.mark.parametrize("head", ['{"version": 1, "data": [', '{"anything": ['])
def test_a_large_object_is_read_row_by_row(file: Path, head: str) -> None:
    row = json.dumps({"conversations": "x" * 1000})
    file.write_text(head + ",".join([row] * 3000) + "]}")
    read: list[int] = []
    found = read_rows(file, read.append)
    next(found)
    assert sum(read) < file.stat().st_size / 2
    assert len(list(found)) == 2999
    assert sum(read) == file.stat().st_size


def test_one_row_is_a_row_and_no_object_of_rows(file: Path) -> None:
    row = {"meta": {"a": {"b": 1}}, "extra": [{"c": 1}], "conversations": [{"from": "human", "value": "a"}]}
    assert rows(file, json.dumps(row).encode()) == rows(file, json.dumps(row, indent=2).encode()) == [row]
    assert rows(file, b'{"meta": {"a": 1}}') == [{"meta": {"a": 1}}]


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
        with pytest.raises(ConversionError, match=r"rows.json is no complete JSON list.*at byte \d+") as caught:
            rows(file, data)
        (position,) = re.findall(r"at byte (\d+)", str(caught.value))
        assert 200_000 - 1000 <= int(position) <= 200_003


@pytest.mark.parametrize("data", [b"", b"  \n", b'"text"', b"\x00\x01", b"12"])
def test_other_files_are_refused(file: Path, data: bytes) -> None:
    with pytest.raises(ConversionError, match=r"expected a JSON list of rows, or JSON lines"):
        rows(file, data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none\.json cannot be read"):
        list(read_rows(tmp_path / "none.json"))
