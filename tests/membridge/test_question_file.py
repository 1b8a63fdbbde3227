import json
from pathlib import Path

import pytest

from membridge.question_file import VideoPart, by_part, read_questions


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def test_questions_have_ids_options_and_parts(tmp_path: Path) -> None:
    lines: list[object] = [
        {"video": "a.mp4", "question": "one\u2028line ?", "id": 7},
        "",
        {"video": "b.mp4", "question": "which ?", "options": ["red", "blue"], "start": "0:01", "end": 2.5, "more": 1},
    ]
    first, second = read_questions(write(tmp_path / "q.jsonl", *lines), VideoPart("", None, 9000))
    assert (first.id, second.id) == ("7", "3")
    assert first.question.text == "one\u2028line ?"
    assert first.part == VideoPart("a.mp4", None, 9000)
    assert second.part == VideoPart("b.mp4", 1000, 2500)
    assert second.question.options == ("red", "blue")


def test_questions_of_a_video_are_grouped_wherever_they_are_in_the_file(tmp_path: Path) -> None:
    lines = [{"video": video, "question": f"q{number} ?"} for number, video in enumerate("abab")]
    groups = dict(by_part(read_questions(write(tmp_path / "q.jsonl", *lines))))
    assert [part.video for part in groups] == ["a", "b"]
    assert [[each.question.text for each in of_part] for of_part in groups.values()] == [
        ["q0 ?", "q2 ?"],
        ["q1 ?", "q3 ?"],
    ]


GOOD = {"video": "a.mp4", "question": "what ?"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ([1], "line 2: it is no JSON object"),
        ({"question": "what ?"}, "line 2: video is None; expected text"),
        ({"video": "a.mp4", "question": " "}, "line 2: question is ' '; expected text"),
        (GOOD | {"options": "red"}, "line 2: options is 'red'; expected a list of texts"),
        (GOOD | {"id": 1.5}, "line 2: id is 1.5; expected text or a number"),
        (GOOD | {"id": "1"}, "line 2: its id '1' is that of line 1 too"),
        (GOOD | {"start": "soon"}, "line 2: 'soon' is no time"),
        (GOOD | {"start": 3, "end": "0:02"}, "line 2: it ends at 2 s, not after its start at 3 s"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / "q.jsonl", GOOD, line))


def test_only_some_of_many_wrong_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 5: .*; and 15 lines more$"):
        read_questions(write(tmp_path / "q.jsonl", *["{"] * 20))


def test_a_file_without_questions_or_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no questions; write one a line"):
        read_questions(write(tmp_path / "q.jsonl", ""))
    (tmp_path / "q.jsonl").write_bytes('{"video": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "line 2: maximum recursion depth"),
        (json.dumps(GOOD | {"question": "a\ud800"}), "line 2: question has half a character"),
        (json.dumps(GOOD | {"options": ["a", "\ud800"]}), "line 2: options has half a character"),
    ],
    ids=["nested", "question", "option"],
)
def test_lines_that_no_model_can_be_asked_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / "q.jsonl", GOOD, line))
