"""Video-MME's table and subtitles."""

from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.item import MediaPart
from tests.datamodules.benchmarks.question_writer import write_json

SRT = """1
00:00:00,500 --> 00:00:02,000
<font color="white" size=".72c">Good morning.</font>

2
00:00:05,000 --> 00:00:06,000
We begin.
"""


def rows() -> list[dict[str, Any]]:
    return [
        {
            "video_id": "001",
            "duration": length,
            "domain": "Knowledge",
            "sub_category": "History",
            "url": "https://example.org/fFjv93ACGo8",
            "videoID": "fFjv93ACGo8",
            "question_id": f"001-{number}",
            "task_type": "Counting Problem",
            "question": "How many trees?",
            "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three."],
            "answer": "C",
        }
        for number, length in enumerate(("short", "medium", "long"), start=1)
    ]


def test_the_fields_of_the_table(tmp_path: Path) -> None:
    write_json(tmp_path / "videomme.json", rows())
    items, problems = load_benchmark("videomme").read(tmp_path)
    assert [problem.what for problem in problems] == ["it gives 3 items; the published set has 2,700"]
    assert [item.id for item in items] == ["001-1", "001-2", "001-3"]
    assert items[0].media == (MediaPart("fFjv93ACGo8"),)
    assert (items[0].options[2], items[0].answer) == ("Berries.", 2)
    assert items[0].labels == {
        "length": "short",
        "domain": "Knowledge",
        "part of domain": "History",
        "type": "Counting Problem",
    }


def test_subtitles_of_the_frames_that_were_seen_come_before_the_question(tmp_path: Path) -> None:
    write_json(tmp_path / "videomme.json", rows())
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle/fFjv93ACGo8.srt").write_text(SRT)
    plain, spoken = load_benchmark("videomme"), load_benchmark("videomme_subtitles")
    item = spoken.read(tmp_path).items[0]
    assert plain.read(tmp_path).items[0] == item
    prompt = spoken.prompt(item, [[1000, 3000]])
    assert prompt.text.startswith("Subtitles of the video:\nGood morning.\n\nHow many trees?\nA. Apples.\n")
    assert spoken.prompt(item, [[1000, 5500]]).text.startswith("Subtitles of the video:\nGood morning.\nWe begin.\n")
    assert spoken.prompt(item, [[3000]]).text.startswith("Subtitles of the video:\nnone\n")
    assert plain.prompt(item, [[1000]]).text.startswith("How many trees?")
    assert plain.prompt_name != spoken.prompt_name


def test_a_missing_folder_of_subtitles_is_a_problem(tmp_path: Path) -> None:
    write_json(tmp_path / "videomme.json", rows())
    problems = load_benchmark("videomme_subtitles").read(tmp_path).problems
    assert "this folder of subtitles is not there" in [problem.what for problem in problems]


def test_the_official_number_leaves_unparsed_answers_out(tmp_path: Path) -> None:
    write_json(tmp_path / "videomme.json", rows())
    benchmark = load_benchmark("videomme")
    items = benchmark.read(tmp_path).items
    scored = [ScoredItem(items[0], 1.0), ScoredItem(items[1], 0.0), ScoredItem(items[2], 0.0, was_parsed=False)]
    assert benchmark.summary(scored) == {"official, unparsed left out, %": 50.0}
    assert benchmark.summary(scored[2:]) == {}
