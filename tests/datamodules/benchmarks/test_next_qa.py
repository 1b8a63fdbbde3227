"""NExT-QA's own table."""

from pathlib import Path

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import MediaPart
from datamodules.benchmarks.next_qa import NExTQA
from tests.datamodules.benchmarks.question_writer import nextqa_rows, write_csv, write_json, write_nextqa


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_ids_hold_the_video_because_qid_is_unique_in_a_video_only(tmp_path: Path, ending: str) -> None:
    rows = [*nextqa_rows(), nextqa_rows()[0] | {"video": 22, "answer": 0}]
    path = tmp_path / f"test.{ending}"
    if ending == "csv":
        write_csv(path, rows)
    elif ending == "json":
        write_json(path, rows)
    else:
        path.write_text("".join(f"{write_json(tmp_path / 'row', row).read_text()}\n" for row in rows))
    items, problems = NExTQA(path.name, videos="NExTVideo").read(tmp_path)
    assert problems == []
    assert [item.id for item in items] == [*(f"4010069381_{number}" for number in range(4)), "22_0"]
    assert [item.answer for item in items] == [3, 3, 3, 3, 0]
    assert items[0].media == (MediaPart("4010069381"),)
    assert items[0].options == tuple(f"answer {number}" for number in range(5))


def test_the_map_names_the_files_of_videos(tmp_path: Path) -> None:
    write_nextqa(tmp_path)
    write_json(tmp_path / "map_vid_vidorID.json", {"4010069381": "1164/4010069381"})
    assert load_benchmark("nextqa").read(tmp_path).items[0].media[0].path == "1164/4010069381"


def test_a_damaged_map_is_a_problem(tmp_path: Path) -> None:
    write_nextqa(tmp_path)
    for content in ("{", "[]"):
        (tmp_path / "map_vid_vidorID.json").write_text(content)
        found = NExTQA("test.csv").read(tmp_path)
        assert len(found.items) == 4
        assert [problem.where for problem in found.problems] == ["map_vid_vidorID.json"]


def test_groups_are_reported(tmp_path: Path) -> None:
    write_nextqa(tmp_path)
    benchmark = load_benchmark("nextqa")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(item, score) for item, score in zip(items, (1, 0, 1, 0), strict=True)]
    assert benchmark.summary(scored) == {"causal": 0.5, "temporal": 0.0, "descriptive": 1.0}
