"""MVBench's own files."""

from pathlib import Path

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import MediaPart
from datamodules.benchmarks.mv_bench import TASKS, MVBench
from tests.datamodules.benchmarks.question_writer import write_json, write_mvbench


def test_there_are_20_tasks_and_five_of_them_have_parts() -> None:
    assert len(TASKS) == 20
    assert {name for name, task in TASKS.items() if task.has_parts} == {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
    assert [name for name, task in TASKS.items() if task.frames_per_second] == ["episodic_reasoning"]


def test_parts_count_in_the_tasks_that_have_them_and_folders_of_frames_are_read(tmp_path: Path) -> None:
    write_mvbench(tmp_path)
    items, problems = MVBench("json", mean_over="type").read(tmp_path)
    assert {item.id: item.media for item in items} == {
        "action_sequence_0": (MediaPart("star/Charades_v1_480/ZS9XR.mp4", 500, 1500),),
        "object_existence_0": (MediaPart("clevrer/video_validation/video_1.mp4"),),
        "episodic_reasoning_0": (MediaPart("tvqa/frames_fps3_hq/friends_s01", 500, 1500, 3.0),),
    }
    assert {item.answer for item in items} == {1}
    assert len(problems) == 17
    assert all(f"it is not in {tmp_path / 'json'}" == problem.what for problem in problems)


def test_the_score_is_the_mean_of_the_tasks(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "question": "what", "candidates": ["up", "down"], "answer": "up"}
    write_json(tmp_path / "json/action_count.json", [row, row])
    write_json(tmp_path / "json/state_change.json", [row])
    benchmark = load_benchmark("mvbench")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 0, 0), strict=True)]
    assert [item.labels["type"] for item in items] == ["action_count", "action_count", "state_change"]
    assert benchmark.summary(scored) == {"mean of the means by type": pytest.approx(0.25)}


def test_one_file_alone_is_read(tmp_path: Path) -> None:
    write_mvbench(tmp_path)
    items, problems = MVBench("json/action_sequence.json").read(tmp_path)
    assert [item.id for item in items] == ["action_sequence_0"]
    assert problems == []


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write_mvbench(tmp_path)
    (tmp_path / "json/action_count.json").write_text("[")
    items, problems = MVBench("json").read(tmp_path)
    assert len(items) == 3
    assert any(problem.where == "action_count.json" and "is no JSON" in problem.what for problem in problems)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no JSON file"):
        MVBench(".").read(tmp_path)
