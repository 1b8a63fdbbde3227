"""OVO-Bench: backward, real-time and forward questions."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from tests.datamodules.benchmarks.question_writer import write_json

COMMON: dict[str, Any] = {"video": "src/1.mp4", "question": "What now?", "options": ["a cup", "a hat"], "gt": 1}
ROWS: list[dict[str, Any]] = [
    {"id": 0, "task": "EPM", "realtime": 12.5, **COMMON},
    {"id": 1, "task": "OCR", "realtime": 20, **COMMON},
    {
        "id": 2,
        "task": "REC",
        "video": "src/2.mp4",
        "activity": "jump",
        "test_info": [{"realtime": 5, "count": 1}, {"realtime": 9, "count": 2}],
    },
    {"id": 3, "task": "SSR", "video": "3.mp4", "test_info": [{"realtime": 4, "step": "open the box", "type": 1}]},
    {"id": 4, "task": "CRR", "video": "4.mp4", "question": "Who?", "test_info": [{"realtime": 6, "type": 0}]},
]


def test_questions_are_asked_at_their_times(tmp_path: Path) -> None:
    write_json(tmp_path / "ovo_bench_new.json", ROWS)
    items = load_benchmark("ovobench").read(tmp_path).items
    assert [(item.id, item.ask_ms, item.labels["group"]) for item in items] == [
        ("0", 12_500, "backward"),
        ("1", 20_000, "real-time"),
        ("2_0", 5_000, "forward"),
        ("2_1", 9_000, "forward"),
        ("3_0", 4_000, "forward"),
        ("4_0", 6_000, "forward"),
    ]
    assert [item.reference for item in items] == ["a hat", "a hat", "1", "2", "Yes", "No"]
    assert "jump" in items[2].question
    assert "open the box" in items[4].question
    assert [len(item.options) for item in items] == [2, 2, 0, 0, 2, 2]


def test_the_official_score_is_the_mean_of_the_groups(tmp_path: Path) -> None:
    write_json(tmp_path / "ovo_bench_new.json", ROWS)
    benchmark = load_benchmark("ovobench")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 0, 1, 0, 1, 0), strict=True)]
    found = benchmark.summary(scored)
    assert found["mean of the tasks' means, forward"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["mean of the groups"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert "mean of the groups" not in benchmark.summary(scored[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ABC"}, "its task 'ABC' is none of"),
        ({"gt": 5}, "out of range"),
        ({"video": ""}, "it names no video"),
        ({"realtime": "soon"}, "'soon' is no time"),
        ({"task": "SSR"}, "no test_info"),
    ],
)
def test_a_wrong_row_is_left_out_with_the_reason(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_json(tmp_path / "ovo_bench_new.json", [ROWS[0] | change, ROWS[1]])
    items, problems = load_benchmark("ovobench").read(tmp_path)
    assert [item.id for item in items] == ["1"]
    assert message in problems[0].what
