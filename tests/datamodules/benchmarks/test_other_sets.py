"""VideoEval-Pro, LVBench, TimeScope and VNBench."""

from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from tests.datamodules.benchmarks.question_writer import write_json


def test_video_eval_pro_asks_with_options_or_freely(tmp_path: Path) -> None:
    row = {
        "video": "1.mp4",
        "question": "Where is the key?",
        "options": ["A) in the box", "B) on the roof"],
        "answer": "B",
        "answer_text": "on the roof",
        "qa_type": "Local Perception",
    }
    write_json(tmp_path / "test.json", [row])
    [choice] = load_benchmark("videoevalpro_mcq").read(tmp_path).items
    free = load_benchmark("videoevalpro")
    [item] = free.read(tmp_path).items
    assert (choice.options, choice.answer) == (("in the box", "on the roof"), 1)
    assert (item.options, item.answer, item.reference) == ((), None, "on the roof")
    assert item.labels == {"type": "Local Perception"}
    assert free.prompt(item, []).text == "Where is the key?"


def test_options_are_found_in_the_text_of_the_question(tmp_path: Path) -> None:
    question = "Which year is it?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633"
    write_json(tmp_path / "lvbench.json", [{"uid": "1", "video_path": "a.mp4", "question": question, "answer": "D"}])
    [item] = load_benchmark("lvbench").read(tmp_path).items
    assert (item.question, item.options, item.answer) == ("Which year is it?", ("1636", "1366", "1363", "1633"), 3)


def test_options_in_a_field_of_their_own_are_kept(tmp_path: Path) -> None:
    row = {"uid": "1", "video_path": "a.mp4", "question": "Which?\n(A) x", "options": ["p", "q"], "answer": "A"}
    write_json(tmp_path / "lvbench.json", [row])
    [item] = load_benchmark("lvbench").read(tmp_path).items
    assert (item.question, item.options) == ("Which?\n(A) x", ("p", "q"))


def test_time_scope_has_its_prompt_in_input_and_a_length(tmp_path: Path) -> None:
    row = {"id": 7, "video": "b.mp4", "length": 3600, "type": "QA", "input": "What?\nA. x\nB. y", "answer": "B"}
    write_json(tmp_path / "timescope.json", [row])
    [item] = load_benchmark("timescope").read(tmp_path).items
    assert (item.question, item.options, item.answer) == ("What?", ("x", "y"), 1)
    assert item.labels == {"type": "QA", "length": "3600"}


def test_a_question_of_vn_bench_is_right_only_in_all_orders_of_its_options(tmp_path: Path) -> None:
    def row(question: str, order: list[str], category: str) -> dict[str, Any]:
        return {"video": "n.mp4", "question": question, "options": order, "gt": "red", "type": category}

    rows = [
        row("First?", ["red", "blue"], "ret_edit1"),
        row("First?", ["blue", "red"], "ret_edit1"),
        row("Second?", ["red", "green"], "cnt_edit1"),
        row("Second?", ["green", "red"], "cnt_edit1"),
    ]
    write_json(tmp_path / "VNBench-main-4try.json", rows)
    benchmark = load_benchmark("vnbench")
    items = benchmark.read(tmp_path).items
    assert [item.answer for item in items] == [0, 1, 0, 1]
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 1, 1, 0), strict=True)]
    assert benchmark.summary(scored) == {
        "right in all orders": 0.5,
        "right in all orders, ret": 1.0,
        "right in all orders, cnt": 0.0,
    }
