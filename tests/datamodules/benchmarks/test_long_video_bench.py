"""LongVideoBench without, with and between subtitles."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import MediaPart
from datamodules.benchmarks.long_video_bench import LongVideoBench
from tests.datamodules.benchmarks.question_writer import write_json

ROW: dict[str, Any] = {
    "video_id": "86CxyhFV9MI",
    "video_path": "86CxyhFV9MI.mp4",
    "subtitle_path": "86CxyhFV9MI_en.json",
    "question": "What is on the table?",
    "candidates": ["a cup", "a hat", "N/A", "N/A"],
    "correct_choice": 1,
    "duration": 20.0,
    "duration_group": 15,
    "question_category": "S2E",
    "topic_category": "KH-Knowledge-History",
    "starting_timestamp_for_subtitles": 100.0,
    "id": "86CxyhFV9MI_0",
}
SUBTITLES = [
    {"start": "00:01:35.000", "end": "00:01:39.000", "line": "before the video"},
    {"start": "00:01:42.000", "end": "00:01:46.000", "line": "first"},
    {"start": "00:01:50.000", "end": "00:01:52.000", "line": "second"},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_json(tmp_path / "lvb_val.json", [ROW])
    write_json(tmp_path / "subtitles/86CxyhFV9MI_en.json", SUBTITLES)
    return tmp_path


def test_padding_is_no_option(root: Path) -> None:
    [item] = load_benchmark("longvideobench").read(root).items
    assert (item.options, item.answer, item.id) == (("a cup", "a hat"), 1, "86CxyhFV9MI_0")
    assert item.labels == {"length": "15", "type": "S2E", "topic": "KH-Knowledge-History"}
    assert item.media == (MediaPart("86CxyhFV9MI.mp4"),)


def test_subtitles_as_text_count_from_the_beginning_of_the_video(root: Path) -> None:
    benchmark = load_benchmark("longvideobench_text")
    [item] = benchmark.read(root).items
    text = benchmark.prompt(item, [[1000, 3000, 8000]]).text
    assert text.startswith("Subtitles of the video:\nfirst\n\nQuestion: What is on the table?\nA. a cup\nB. a hat\n")


def test_interleaved_parts_end_at_the_middle_of_their_subtitle(root: Path) -> None:
    benchmark = load_benchmark("longvideobench_interleaved")
    [item] = benchmark.read(root).items
    name = "86CxyhFV9MI.mp4"
    assert item.media == (MediaPart(name, 0, 4000), MediaPart(name, 4000, 11000), MediaPart(name, 11000, 20000))
    text = benchmark.prompt(item, [[0], [4500], [12000]]).text
    assert text.startswith("<video>\nfirst\n<video>\nsecond\n<video>\nQuestion: What is on the table?")


@pytest.mark.parametrize("most_parts", [1, 2, 3, 5])
def test_there_are_at_most_so_many_parts_and_no_subtitle_is_lost(tmp_path: Path, most_parts: int) -> None:
    write_json(tmp_path / "lvb_val.json", [ROW | {"starting_timestamp_for_subtitles": 0}])
    lines = [{"timestamp": [second, second + 1.5], "text": f"line {second}"} for second in range(19)]
    write_json(tmp_path / "subtitles/86CxyhFV9MI_en.json", lines)
    benchmark = LongVideoBench(form="interleaved", most_parts=most_parts)
    [item] = benchmark.read(tmp_path).items
    assert len(item.media) <= most_parts
    assert [part.start_ms for part in item.media[1:]] == [part.end_ms for part in item.media[:-1]]
    if most_parts > 1:
        text = benchmark.prompt(item, [[0]] * len(item.media)).text
        assert [f"line {second}\n" in text for second in range(19)] == [True] * 19
        assert text.count("<video>") == len(item.media)


def test_missing_subtitles_are_a_problem_and_the_question_is_asked_without(root: Path) -> None:
    (root / "subtitles/86CxyhFV9MI_en.json").unlink()
    benchmark = load_benchmark("longvideobench_interleaved")
    items, problems = benchmark.read(root)
    assert items[0].media == (MediaPart("86CxyhFV9MI.mp4"),)
    assert any("is asked without subtitles" in problem.what for problem in problems)
    assert benchmark.prompt(items[0], [[0]]).text.startswith("Question: ")
