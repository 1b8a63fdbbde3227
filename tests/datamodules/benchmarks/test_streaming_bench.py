"""StreamingBench: questions at times of a video."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import MediaPart
from tests.datamodules.benchmarks.question_writer import write_json


def question(time: str, answer: str = "B", **fields: Any) -> dict[str, Any]:
    return {
        "task_type": "Object Recognition",
        "question": f"What is shown at {time}?",
        "time_stamp": time,
        "answer": answer,
        "options": ["A. a cup", "B. a hat", "C. a dog", "D. a tree"],
        **fields,
    }


def write(root: Path, name: str, questions: list[dict[str, Any]]) -> None:
    video = {"time": "[0:00:00 - 0:05:00]", "video_path": "./sample_1.mp4", "questions": questions}
    write_json(root / name, [video])


def test_the_last_seconds_or_all_of_the_video_so_far_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "questions_real.json", [question("00:01:30"), question("00:00:10", "D")])
    last, rest = load_benchmark("streamingbench_real").read(tmp_path).items
    assert (last.media, last.ask_ms) == ((MediaPart("sample_1.mp4", 30_000),), 60_000)
    assert (rest.media, rest.ask_ms) == ((MediaPart("sample_1.mp4"),), 10_000)
    assert [item.answer for item in (last, rest)] == [1, 3]
    whole = load_benchmark("streamingbench_real_all")
    assert [(item.media[0].start_ms, item.ask_ms) for item in whole.read(tmp_path).items] == [
        (None, 90_000),
        (None, 10_000),
    ]
    assert whole.prompt_name != load_benchmark("streamingbench_real").prompt_name


def test_options_without_letters_are_the_same_options(tmp_path: Path) -> None:
    write(tmp_path, "questions_omni.json", [question("00:00:10", options=["a cup", "a hat", "a dog", "a tree", "no"])])
    [item] = load_benchmark("streamingbench_omni").read(tmp_path).items
    assert (item.options[:2], item.answer) == (("a cup", "a hat"), 1)


def test_right_answers_to_earlier_questions_are_in_the_prompt(tmp_path: Path) -> None:
    write(tmp_path, "questions_sqa.json", [question("00:00:10"), question("00:00:20", "D"), question("00:00:30")])
    benchmark = load_benchmark("streamingbench_sqa")
    items = benchmark.read(tmp_path).items
    assert benchmark.prompt(items[0], []).text.startswith("What is shown")
    assert benchmark.prompt(items[2], []).text.startswith(
        "Asked before:\nQuestion: What is shown at 00:00:10? Answer: a hat\n"
        "Question: What is shown at 00:00:20? Answer: a tree\n\nWhat is shown at 00:00:30?"
    )


def test_what_cannot_be_asked_is_a_problem(tmp_path: Path) -> None:
    proactive = {"question": "Say when.", "time_stamp": "00:00:01", "ground_truth_time_stamp": "00:00:09"}
    wrong = [proactive, question("late"), question("00:00:10", "E"), "text"]
    write(tmp_path, "questions_real.json", wrong)  # type: ignore[arg-type]
    items, problems = load_benchmark("streamingbench_real").read(tmp_path)
    assert [item.answer for item in items] == [None]
    found = [problem.what for problem in problems]
    assert "proactive questions are not read" in found[0]
    assert "'late' is no time" in found[1]
    assert "'E' is none of the options" in found[2]
    assert "it is no question" in found[3]
    assert found[-1] == "it gives 1 items; the published set has 2,500"


def test_the_official_number_leaves_empty_answers_out(tmp_path: Path) -> None:
    questions = [question("00:00:10"), question("00:00:20"), question("00:00:30", task_type="Counting")]
    write(tmp_path, "questions_real.json", questions)
    benchmark = load_benchmark("streamingbench_real")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(items[0], 1.0), ScoredItem(items[1], 0.0, was_parsed=False), ScoredItem(items[2], 0.0)]
    found = benchmark.summary(scored)
    assert found == {"official, unparsed left out": 0.5, "mean of the tasks' means": pytest.approx(0.25)}
