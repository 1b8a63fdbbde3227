"""``python -m datamodules.benchmarks inspect``: what files hold, and everything that is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.benchmarks.__main__ import main
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.benchmark_config import benchmark_names, load_benchmark
from datamodules.benchmarks.file_inspection import describe, inspect
from datamodules.benchmarks.item import BenchmarkFiles
from datamodules.benchmarks.question_table import QuestionTable
from tests.datamodules.benchmarks.question_writer import (
    egoplan_row,
    egoschema_rows,
    nextqa_rows,
    videollamb_rows,
    write_json,
    write_mvbench,
    write_nextqa,
)
from tests.fixtures_data import make_clip


def run(folder: Path, capsys: pytest.CaptureFixture[str], *more: str, name: str = "videollamb") -> tuple[int, str]:
    arguments = ["--questions", str(folder / "test_q.json"), "--answers", str(folder / "test_a.json"), *more]
    status = main(["inspect", "--format", name, *arguments])
    return status, capsys.readouterr().out


def test_files_in_order_have_status_0_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions, answers = videollamb_rows(4, type="count")
    questions[0]["option"]["option 3"] = "more"
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers)
    (tmp_path / "videos").mkdir()
    for clip in ("clip0.mp4", "clip1.mp4"):
        (tmp_path / "videos" / clip).write_bytes(make_clip(8, fps=4))
    status, printed = run(tmp_path, capsys, "--videos", str(tmp_path / "videos"))
    assert status == 0
    assert printed.splitlines() == [
        "items: 4, 4 with answer",
        "videos: 2",
        "options an item: 3: 3, 4: 1",
        "right options: A: 2, B: 1, C: 1",
        "type: count: 4",
        "length of videos: 2.0 to 2.0 s, median 2.0 s",
        "parts of videos: 0",
        "problems: 0",
    ]


BROKEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"question_id": "q0"}, {}, "the id 'q0' is there before"),
    ({"question": ""}, {}, "q1 has no question; it is left out"),
    ({"question": None}, {}, "q1 has no question; it is left out"),
    ({"question": 5}, {}, "q1 has a question of type int"),
    ({"question": "a\u200bb"}, {}, "U+200B (an invisible character)"),
    ({"question": "a\ufffdb"}, {}, "U+FFFD (a character that was lost in decoding)"),
    ({"question": "a\ud83d"}, {}, "U+D83D (half a character)"),
    ({"question": "\ufeffwhat"}, {}, "U+FEFF (an invisible character)"),
    ({"option": {}}, {}, "q1 has no options; it is left out"),
    ({"option": {"option 0": "a", "option 1": ""}}, {}, "option 1 is empty"),
    ({"option": {"option 0": "a", "option 1": None}}, {}, "option 1 is empty"),
    ({"option": {"option 0": "a", "option 1": "A"}}, {}, "options 0 and 1 are the same, one of which is the right"),
    ({"option": {"option 0": "N/A", "option 1": "b"}}, {}, "option 0 is the padding 'N/A'"),
    ({"option": {"option 0": "a"}}, {"answer": 0}, "it has one option only"),
    ({"option": ["a", 3]}, {}, "the option '3' is of type int"),
    ({"video_name": ""}, {}, "q1 names no video"),
    ({"video_name": 3}, {}, "video_name is the number 3, expected text"),
    ({"video_name": "../up"}, {}, "is not inside the folder of media"),
    ({"video_name": "away"}, {}, "nor one that ends in .mp4, .avi, .mov, .mkv, .webm"),
    ({"video_name": "damaged"}, {}, "damaged.mp4"),
    ({"start": 1.5, "end": 1.0}, {}, "starts at 1500 ms, not before its end at 1000 ms"),
    ({"start": -1.0, "end": 1.0}, {}, "starts at -1000 ms, before the video begins"),
    ({"start": 9, "end": 12}, {}, "starts at 9000 ms, after the video ends at 2.0 s"),
    ({"start": "soon"}, {}, "start is 'soon', expected seconds"),
    ({"question_id": 1}, {"question_id": 1}, "question ids are of several types (int, str)"),
    ({}, {"answer": 3}, "the answer 3 is out of range"),
    ({}, {"answer": -1}, "the answer -1 is out of range"),
    ({}, {"answer": None}, "it has no answer"),
    ({}, {"answer": "B"}, "is a letter, where those of other questions are index"),
    ({}, {"answer": True}, "of type bool"),
    ({}, {"question_id": "other"}, "the answer to 'other' has no question"),
    ({}, {"question_id": "q0"}, "the answer to 'q0' is there 2 times"),
    ({"type": "count"}, {"type": "order"}, "its type is 'count', and 'order' with the answer"),
]


@pytest.mark.parametrize(("question", "answer", "message"), BROKEN)
def test_every_kind_of_damage_is_named_and_gives_status_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    question: dict[str, Any],
    answer: dict[str, Any],
    message: str,
) -> None:
    questions, answers = videollamb_rows(4)
    questions[1] |= question
    answers[1] |= answer
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers)
    for clip in ("clip0.mp4", "clip1.mp4"):
        (tmp_path / clip).write_bytes(make_clip(8, fps=4))
    (tmp_path / "damaged.mp4").write_bytes(make_clip(8, fps=4)[:200])
    status, printed = run(tmp_path, capsys, "--videos", str(tmp_path))
    assert status == 1
    assert message in printed.split("problems: ")[1]
    assert printed.isprintable() or printed.replace("\n", "").isprintable()


def test_answers_beside_the_published_questions_are_found_and_without_any_they_are_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, answers = videollamb_rows(2)
    path = write_json(tmp_path / "test_q.json", questions)
    arguments = ["inspect", "--format", "videollamb", "--questions", str(path)]
    assert main(arguments) == 1
    assert capsys.readouterr().out.count("it has no answer") == 2
    write_json(tmp_path / "test_a.json", answers)
    assert main(arguments) == 0
    assert main([*arguments[:-1], str(tmp_path)]) == 0  # their folder


def test_answers_in_the_rows_of_the_questions_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions, answers = videollamb_rows(3)
    lines = (json.dumps(one | other) for one, other in zip(questions, answers, strict=True))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    assert main(["inspect", "--format", "table", "--questions", str(tmp_path / "mine.jsonl")]) == 0
    assert "right options: A: 1, B: 1, C: 1" in capsys.readouterr().out


def test_the_published_files_are_looked_for_below_the_folder_of_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nextqa(tmp_path / "nextqa")
    assert main(["inspect", "--format", "nextqa", "--data", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "test.csv: it gives 4 items; the published set has 8,564" in printed
    assert f"4010069381: there is no {tmp_path}/nextqa/NExTVideo/4010069381, nor one that ends in" in printed
    assert "type: CH: 1, CW: 1, DL: 1, TN: 1" in printed


def test_folders_of_frames_are_measured(tmp_path: Path) -> None:
    write_mvbench(tmp_path)
    frames = tmp_path / "video/tvqa/frames_fps3_hq/friends_s01"
    frames.mkdir(parents=True)
    for number in range(1, 7):
        (frames / f"{number:05d}.jpg").write_bytes(b"")
    found = inspect(load_benchmark("mvbench"), tmp_path, tmp_path / "video")
    assert found.lengths_s == {"tvqa/frames_fps3_hq/friends_s01": 2.0}
    assert "parts of videos: 2, 1.0 to 1.0 s, median 1.0 s" in describe(found)


def test_files_that_are_not_there_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        main(["inspect", "--format", "videollamb", "--questions", str(tmp_path / "none.json")])
    with pytest.raises(FileNotFoundError, match=r"choose one of .*nextqa"):
        main(["inspect", "--format", "next", "--questions", str(tmp_path / "none.json")])


class CarelessReader(Benchmark):
    """A reader of the user's own that expects the published form."""

    def read(self, root: Path) -> BenchmarkFiles:
        raise KeyError("question")


def test_a_reader_that_stops_is_a_problem(tmp_path: Path) -> None:
    found = inspect(CarelessReader("q.json"), tmp_path)
    assert found.items == []
    assert "CarelessReader stopped with KeyError: 'question'" in found.problems[0].what


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["A", "1", "N/A", "clip0", "q0", "\ud800", "CW", "0:00:01"]),
)
FIELDS = st.sampled_from(
    [
        *("video_name", "question_id", "question", "option", "options", "answer", "type", "start", "end", "video"),
        *("a0", "a1", "option 0", "option 1", "candidates", "qid", "q_uid", "video_id", "current_observation_frame"),
        *("task_progress_metadata", "start_frame", "stop_frame", "duration", "choice_a", "data", "time_stamp"),
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=8), max_leaves=30
)


def read_content(folder: Path, name: str, questions: Any, answers: Any) -> None:
    """Inspect files of this content."""
    write_json(folder / "q.json", questions)
    benchmark = load_benchmark(name)
    benchmark.questions = "q.json"
    if hasattr(benchmark, "answers"):
        write_json(folder / "a.json", answers)
        benchmark.answers = "a.json"
    found = inspect(benchmark, folder, folder)
    assert found.items or found.problems
    assert all(line.isprintable() for line in describe(found))
    if isinstance(benchmark, QuestionTable):
        assert [problem for problem in found.problems if "stopped with" in problem.what] == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=VALUES, answers=VALUES)
@pytest.mark.parametrize("name", benchmark_names())
def test_no_content_of_the_files_stops_an_inspection(tmp_path: Path, name: str, questions: Any, answers: Any) -> None:
    read_content(tmp_path, name, questions, answers)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.dictionaries(FIELDS, VALUES, max_size=2), min_size=3, max_size=3), answers=VALUES)
@pytest.mark.parametrize("name", benchmark_names())
def test_no_change_of_a_good_file_stops_an_inspection(
    tmp_path: Path, name: str, changes: list[dict[str, Any]], answers: Any
) -> None:
    good = [egoplan_row(), *nextqa_rows()[:1], *egoschema_rows(1), *videollamb_rows(1)[0]]
    read_content(tmp_path, name, [row | change for row, change in zip(good, [*changes, {}], strict=True)], answers)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), ending=st.sampled_from(["json", "jsonl", "csv", "tsv", "txt"]))
def test_no_bytes_stop_an_inspection(tmp_path: Path, content: bytes, ending: str) -> None:
    (tmp_path / f"q.{ending}").write_bytes(content)
    benchmark = load_benchmark("table")
    benchmark.questions = f"q.{ending}"
    assert inspect(benchmark, tmp_path).problems
