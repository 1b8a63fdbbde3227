"""VideoLLaMB's question and answer files."""

from pathlib import Path

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import BenchmarkFiles, MediaPart
from datamodules.benchmarks.videollamb_questions import VideoLLaMBQuestions
from tests.datamodules.benchmarks.question_writer import videollamb_rows, write_json, write_videollamb


def read(root: Path) -> BenchmarkFiles:
    return VideoLLaMBQuestions("test_q.json", "test_a.json").read(root)


def whats(found: BenchmarkFiles) -> list[str]:
    return [problem.what for problem in found.problems]


def test_questions_and_answers_become_items(tmp_path: Path) -> None:
    write_videollamb(tmp_path)
    items, problems = read(tmp_path)
    assert problems == []
    assert [item.id for item in items] == ["q0", "q1", "q2", "q3"]
    assert [item.answer for item in items] == [0, 1, 2, 0]
    assert items[1].media == (MediaPart("clip1"),)
    assert items[1].options == ("thing 0 of 1", "thing 1 of 1", "thing 2 of 1")
    assert items[1].reference == "thing 1 of 1"


def test_answers_in_another_order_are_matched_by_id_and_reported(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(4)
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers[::-1])
    found = read(tmp_path)
    assert [item.answer for item in found.items] == [0, 1, 2, 0]
    assert len(found.problems) == 1
    assert "the order differs from that of the questions at 4 of 4 positions" in whats(found)[0]


def test_answers_without_question_and_questions_without_answer_are_named(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(3)
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", [answers[0], answers[2], {"question_id": "other", "answer": 1}])
    found = read(tmp_path)
    assert [item.answer for item in found.items] == [0, None, 2]
    assert whats(found) == ["the answer to 'other' has no question", "q1: it has no answer"]


def test_ids_that_are_there_twice_keep_their_own_answers(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(3)
    for row in (questions[2], answers[2]):
        row["question_id"] = "q0"
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers)
    found = read(tmp_path)
    assert [(item.id, item.answer) for item in found.items] == [("q0", 0), ("q1", 1), ("q0#2", 2)]
    assert "the id 'q0' is there before; this question is called 'q0#2'" in whats(found)


def test_the_text_of_the_answer_must_be_that_of_the_option(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(2)
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", [answer | {"answer_act": "thing 0 of 0"} for answer in answers])
    assert whats(read(tmp_path)) == ["q1: the answer is 'thing 1 of 1', but its text 'thing 0 of 0'"]


def test_types_come_with_the_answers_and_their_groups_are_reported(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(4)
    types = ("CW", "TN", "DL", "CH")
    write_json(tmp_path / "test_q.json", questions)
    answers = [answer | {"type": each} for answer, each in zip(answers, types, strict=True)]
    write_json(tmp_path / "test_a.json", answers)
    benchmark = load_benchmark("videollamb_nextqa")
    items, problems = benchmark.read(tmp_path)
    assert [problem.what for problem in problems] == ["it gives 4 items; the published set has 4,996"]
    assert [item.labels["group"] for item in items] == ["causal", "temporal", "descriptive", "causal"]
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 1, 0, 0), strict=True)]
    assert benchmark.summary(scored) == {"causal": 0.5, "temporal": 1.0, "descriptive": 0.0}
    assert benchmark.summary([]) == {}


def test_mvbench_is_the_mean_of_the_means_of_tasks(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(3)
    for row, task in zip(questions, ("count", "count", "order"), strict=True):
        row["type"] = task
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers)
    benchmark = load_benchmark("videollamb_mvbench")
    scored = [ScoredItem(item, score) for item, score in zip(benchmark.read(tmp_path).items, (1, 0, 1), strict=True)]
    assert benchmark.summary(scored) == {"mean of the means by type": pytest.approx((0.5 + 1) / 2)}


def test_an_item_that_cannot_be_asked_is_left_out_and_named(tmp_path: Path) -> None:
    questions, answers = videollamb_rows(5)
    questions[0]["question"] = " "
    del questions[1]["option"]
    questions[2]["video_name"] = ["clip"]
    questions[3]["question"] = 3
    write_json(tmp_path / "test_q.json", questions)
    write_json(tmp_path / "test_a.json", answers)
    found = read(tmp_path)
    assert [item.id for item in found.items] == ["q4"]
    left_out = [what for what in whats(found) if what.endswith("it is left out")]
    assert left_out == [
        "q0 has no question; it is left out",
        "q1 has no options; it is left out",
        "q2 names no video; it is left out",
        "q3 has a question of type int, expected text; it is left out",
    ]
