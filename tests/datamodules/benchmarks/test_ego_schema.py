"""EgoSchema: all questions, and the subset whose answers are public."""

from pathlib import Path

from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.ego_schema import EgoSchema
from datamodules.benchmarks.item import MediaPart
from tests.datamodules.benchmarks.question_writer import egoschema_rows, write_egoschema, write_json


def test_all_questions_have_no_answers_and_are_submitted_as_indices(tmp_path: Path) -> None:
    write_egoschema(tmp_path)
    benchmark = load_benchmark("egoschema")
    items, problems = benchmark.read(tmp_path)
    assert [problem.what for problem in problems] == ["it gives 4 items; the published set has 5,031"]
    assert not any(item.is_labelled for item in items)
    assert items[0].media == (MediaPart("uid-0"),)
    assert items[0].duration_s == 180
    assert benchmark.submission({"uid-0": 3, "uid-1": 0}) == {"uid-0": 3, "uid-1": 0}


def test_the_subset_has_the_questions_with_answers(tmp_path: Path) -> None:
    write_egoschema(tmp_path)
    items, problems = EgoSchema(subset=True).read(tmp_path)
    assert problems == []  # neither hidden answers nor another order of an object's keys
    assert [(item.id, item.answer, item.reference) for item in items] == [
        ("uid-0", 1, "c does 1"),
        ("uid-2", 4, "c does 4"),
    ]


def test_an_answer_that_is_there_but_wrong_is_a_problem(tmp_path: Path) -> None:
    write_json(tmp_path / "questions.json", egoschema_rows())
    write_json(tmp_path / "subset_answers.json", {"uid-0": 5, "uid-1": 0})
    items, problems = EgoSchema(subset=True).read(tmp_path)
    assert [item.id for item in items] == ["uid-1"]
    assert [problem.what for problem in problems] == [
        "uid-0: the answer 5 is out of range: there are 5 options, 0 to 4"
    ]
