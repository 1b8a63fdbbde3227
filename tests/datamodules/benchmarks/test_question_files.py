"""Files of questions in many forms."""

import codecs
import json
from pathlib import Path

import pytest

from datamodules.benchmarks.question_files import read_file_rows

ROWS = [{"id": 1, "question": "é"}, {"id": 2, "question": "b"}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, ensure_ascii=False),
        "\n\n".join(json.dumps(row) for row in ROWS),
        json.dumps({"data": ROWS, "version": 1}),
        json.dumps([[ROWS[0]], [ROWS[1]]]),
        json.dumps({"first": ROWS[0], "second": ROWS[1]}),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "txt"])
def test_the_content_decides_how_a_file_is_read(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"questions.{ending}"
    path.write_text(text, encoding="utf-8")
    found = read_file_rows(path)
    assert [row.values for row in found.rows] == ROWS
    assert found.problems == []


def test_plain_values_become_answers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"q1": 3, "q2": "B"}')
    assert [(row.key, row.values) for row in read_file_rows(tmp_path / "a.json").rows] == [
        ("q1", {"answer": 3}),
        ("q2", {"answer": "B"}),
    ]
    (tmp_path / "a.json").write_text("[3, 1]")
    assert [row.values for row in read_file_rows(tmp_path / "a.json").rows] == [{"answer": 3}, {"answer": 1}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (codecs.BOM_UTF8 + json.dumps(ROWS).encode(), "byte order mark (utf-8)"),
        (json.dumps(ROWS).encode("utf-16"), "byte order mark (utf-16)"),
        (json.dumps(ROWS, ensure_ascii=False).encode("latin-1"), "it is not utf-8"),
        (b'[{"id": 1, "id": 2}, {"id": 2}]', "the key 'id' is there twice"),
        (b'[{"id": NaN}, {"id": 2}]', "it holds NaN"),
        (b'{"id": 1}\nnonsense\n{"id": 2}', "it is no JSON"),
    ],
)
def test_what_is_odd_in_a_file_is_reported_and_the_rest_is_read(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "q.json").write_bytes(content)
    found = read_file_rows(tmp_path / "q.json")
    assert len(found.rows) == 2
    assert any(problem in each.what for each in found.problems)


def test_csv_with_a_mark_and_too_many_fields_is_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(codecs.BOM_UTF8 + b"id,question\n1,a\n2,b,c\n")
    found = read_file_rows(tmp_path / "q.csv")
    assert [row.values for row in found.rows] == [{"id": "1", "question": "a"}, {"id": "2", "question": "b"}]
    assert len(found.problems) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\x01", b"nonsense", b"[" * 100_000])
def test_a_file_of_which_nothing_can_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no JSON"):
        read_file_rows(tmp_path / "q.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*q\.json"):
        read_file_rows(tmp_path / "q.json")
