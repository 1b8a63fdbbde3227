"""EgoPlan's own file: several clips a question."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.pretrained.frame_settings import FrameSettings
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.ego_plan import EgoPlan
from datamodules.benchmarks.item import BenchmarkFiles
from membridge.frame_folder import read_frame_folder
from tests.datamodules.benchmarks.question_writer import egoplan_row, write_egoplan, write_json


def read(root: Path, **fields: Any) -> BenchmarkFiles:
    write_json(root / "EgoPlan_validation.json", [egoplan_row(**fields)])
    return EgoPlan().read(root)


def test_the_last_actions_before_the_question_are_shown_and_then_its_frame(tmp_path: Path) -> None:
    """Actions end where the next one begins (50 to 65, then 60 to 80), and none of the future is shown."""
    [item], problems = read(tmp_path)
    assert problems == []
    assert {part.path for part in item.media} == {"EPIC-KITCHENS/P01/rgb_frames/P01_13"}
    assert {part.frames_per_second for part in item.media} == {60.0}
    seconds = [(part.start_ms or 0) * 60 / 1000 for part in item.media]
    ends = [(part.end_ms or 0) * 60 / 1000 for part in item.media]
    assert seconds == pytest.approx([29, 49, 59, 89, 99], abs=0.06)
    assert ends == pytest.approx([40, 60, 80, 100, 100], abs=0.06)


def test_the_last_frame_of_a_folder_is_exactly_the_one_that_the_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 131):
        pixels = np.full((8, 8, 3), number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"frame_{number:010d}.png")
    settings = FrameSettings(8, num_frames=2)
    for now in (1, 2, 3, 50, 100, 130):
        [item], _ = read(tmp_path, current_observation_frame=now)
        part = item.media[-1]
        shown = read_frame_folder(folder, 60.0, settings, start_ms=part.start_ms, end_ms=part.end_ms)
        assert shown.frames.unique().tolist() == [now]


def test_frames_of_ego4d_are_counted_in_its_videos(tmp_path: Path) -> None:
    [item], _ = read(tmp_path, video_source="Ego4D", video_id="000786a7", task_progress_metadata=[])
    assert [(part.path, part.start_ms, part.end_ms) for part in item.media] == [
        ("Ego4D/v1_288p/000786a7.mp4", 3334, 3367)
    ]
    assert item.labels == {"source": "Ego4D"}


def test_the_question_is_asked_without_options_and_the_options_are_compared(tmp_path: Path) -> None:
    write_egoplan(tmp_path)
    benchmark = load_benchmark("egoplan")
    items = benchmark.read(tmp_path).items
    prompt = benchmark.prompt(items[0], [])
    assert prompt.text == items[0].question
    assert prompt.choices == ("put box", "take bag", "open door", "put bag")
    assert [item.answer for item in items] == [2, 0]
    assert benchmark.prompt_name == "question alone"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"golden_choice_idx": "A"}, "the answer is option C, but golden_choice_idx is 'A'"),
        ({"task_progress_metadata": None}, "task_progress_metadata is no list"),
        ({"task_progress_metadata": [{"start_frame": 9, "stop_frame": 5}]}, "an action is from frame 9 to 5"),
        ({"task_progress_metadata": [{"start_frame": "x", "stop_frame": 5}]}, "start_frame is 'x'"),
        ({"current_observation_frame": None}, "current_observation_frame is 'None'"),
        ({"video_source": "Films"}, "video_source is 'Films'"),
        ({"answer": "sing"}, "the answer 'sing' is none of the options"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    found = read(tmp_path, **fields)
    assert any(message in problem.what for problem in found.problems)
    assert not found.items or found.items[0].media
