"""RTV-Bench: groups of questions at several times."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from tests.datamodules.benchmarks.question_writer import write_json


def row(level: int, end: float, group: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "video": "film.mp4",
        "questionID": f"q-group-{group}-{level}-a",
        "type": "Event-VP" if group == 1 else "Object-TP",
        "field": "sports",
        "start_time": 0,
        "end_time": end,
        "question": "What happens?",
        "options": {"A": "a run", "B": "a jump", "C": "nothing"},
        "answer": "B",
        **fields,
    }


def test_the_same_question_at_two_times_is_two_items(tmp_path: Path) -> None:
    write_json(tmp_path / "QA.json", [row(0, 10), row(0, 20.5)])
    items = load_benchmark("rtvbench").read(tmp_path).items
    assert [item.ask_ms for item in items] == [10_000, 20_500]
    assert len({item.id for item in items}) == 2
    assert items[0].labels == {"type": "Event-VP", "about": "Event", "ability": "VP", "field": "sports"}
    assert (items[0].options, items[0].answer) == (("a run", "a jump", "nothing"), 1)


def test_a_hard_question_counts_only_if_the_easier_ones_of_its_group_are_right(tmp_path: Path) -> None:
    rows = [row(level, 10, group) for group in (1, 2) for level in range(3)]
    write_json(tmp_path / "QA.json", rows)
    benchmark = load_benchmark("rtvbench")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 1, 1, 1, 0, 1), strict=True)]
    found = benchmark.summary(scored)
    assert found["score of the hard questions"] == 0.5
    assert found["mean of the means by about"] == pytest.approx((1 + 2 / 3) / 2)
    assert benchmark.summary([]) == {}


def test_a_wrong_time_is_a_problem_and_the_question_is_about_the_whole_video(tmp_path: Path) -> None:
    write_json(tmp_path / "QA.json", [row(0, -3)])
    items, problems = load_benchmark("rtvbench").read(tmp_path)
    assert items[0].ask_ms is None
    assert "asked about the whole video" in problems[0].what
