"""MLVU's seven files."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.mlvu import TASKS
from tests.datamodules.benchmarks.question_writer import write_json


def row(number: int, category: str) -> dict[str, Any]:
    return {
        "video": f"{category}_{number}.mp4",
        "duration": 480.5,
        "question": "What colour is the car?",
        "candidates": ["Yellow", "Red", "Blue", "White"],
        "answer": "Blue",
        "question_type": category,
    }


def write(root: Path) -> None:
    for file, task in TASKS.items():
        category = "findNeedle" if task == "needle" else task
        write_json(root / f"json/{file}.json", [row(number, category) for number in range(2)])


def test_every_task_is_read_from_its_own_file_and_folder(tmp_path: Path) -> None:
    write(tmp_path)
    items, problems = load_benchmark("mlvu").read(tmp_path)
    assert [problem.what for problem in problems] == ["it gives 14 items; the published set has 2,175"]
    assert items[2].media[0].path == "2_needle/findNeedle_0.mp4"
    assert [items[index].labels["type"] for index in (0, 2, 13)] == ["plotQA", "needle", "topic_reasoning"]
    assert (items[0].id, items[0].answer, items[0].duration_s) == ("1_plotQA_0", 2, 480.5)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "json/4_count.json").unlink()
    assert "4_count.json" in [problem.where for problem in load_benchmark("mlvu").read(tmp_path).problems]


def test_both_averages_are_given_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    benchmark = load_benchmark("mlvu")
    items = benchmark.read(tmp_path).items
    # All of plotQA, one of needle, nothing else, and one question of needle was left out.
    scored = [ScoredItem(item, float(number < 3)) for number, item in enumerate(items) if number != 3]
    found = benchmark.summary(scored)
    assert found["plotQA, %"] == found["needle, %"] == 100
    assert found["M-Avg, mean of the tasks' means, %"] == pytest.approx(100 * 2 / 7)
    assert found["M-Avg, over all questions, %"] == pytest.approx(100 * 3 / 13)
    assert benchmark.summary([]) == {}


def test_the_prompt_has_a_system_text(tmp_path: Path) -> None:
    write(tmp_path)
    benchmark = load_benchmark("mlvu")
    assert "details" in (benchmark.prompt(benchmark.read(tmp_path).items[0], []).system or "")
