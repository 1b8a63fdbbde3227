"""``python evaluate.py --model MODEL --benchmark NAME``, and ``evaluate.py compare``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apps.evaluate.__main__ import main
from datamodules.benchmarks.benchmark_config import load_benchmark
from tests.documentation import ROOT
from tests.fixtures_exported import Trained
from tests.membridge.evaluation.made_benchmark import OPTIONS, QUESTIONS, write_clips

READER = """
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.table_rows import read_rows


class OwnBenchmark(Benchmark):
    def read(self, root):
        rows = read_rows(root / self.questions)
        items = [
            BenchmarkItem(row["id"], (MediaPart(row["video"]),), row["question"], tuple(row["options"]), row["answer"])
            for row in rows
        ]
        return BenchmarkFiles(items, [Problem("row 1", "it is made up")])
"""


@pytest.fixture
def folder(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a benchmark of its own kind on three clips."""
    write_clips(tmp_path / "data/own/videos", 3)
    rows = [
        {
            "id": f"{question}-{video}",
            "video": f"clip{video}",
            "question": QUESTIONS[question],
            "options": OPTIONS,
            "answer": (question + video) % 4,
        }
        for question in range(3)
        for video in range(3)
    ]
    (tmp_path / "data/own/questions.json").write_text(json.dumps(rows))
    (tmp_path / "own_reader.py").write_text(READER)
    write_yaml(tmp_path / "own.yaml", chosen_by="text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write_yaml(path: Path, **settings: str) -> None:
    arguments = {"questions": "questions.json", "folder": "own", **settings}
    path.write_text(json.dumps({"class_path": "own_reader.OwnBenchmark", "init_args": arguments}))


def command(trained: Trained, out: str, *more: str) -> list[str]:
    model = ["--model", str(trained.exported), "--device", "cpu"]
    return [*model, "--benchmark", "own.yaml", "--data", "data", "--out", out, "--max-new-tokens", "2", *more]


def test_a_benchmark_is_answered_reported_and_continued(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(trained, "out"))
    printed = capsys.readouterr()
    report = json.loads((folder / "out/own/report.json").read_text())
    assert report["items"] == report["scores"]["likelihood"]["overall"]["questions"] == 9
    assert report["evaluated"]["benchmark"] == "own"
    assert report["evaluated"]["prompt"] == "options by the likelihood of their text, not listed"
    assert "The report is in out/own/report.md" in printed.out
    assert "row 1: it is made up" in printed.err
    [answers] = (folder / "out/own").glob("answers.*.jsonl")
    before = answers.stat().st_mtime_ns, answers.read_text()
    main(command(trained, "out"))
    assert (answers.stat().st_mtime_ns, answers.read_text()) == before


def test_two_processes_share_the_videos_and_the_last_one_writes_the_report(trained: Trained, folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), *command(trained, "out", "--max-new-tokens", "0")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": f"{ROOT}:{folder}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors
    lines = [
        json.loads(line)["id"]
        for path in (folder / "out/own").glob("answers.*-of-2.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == len(set(lines)) == 9
    report = json.loads((folder / "out/own/report.json").read_text())
    assert (report["items"], report["without_answer"]) == (9, [])


def test_missing_videos_are_named_and_if_all_are_missing_nothing_is_started(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data/own/videos/clip1.mp4").unlink()
    main(command(trained, "out"))
    assert "1 video of it are missing: clip1" in capsys.readouterr().err
    report = json.loads((folder / "out/own/report.json").read_text())
    assert [each["id"] for each in report["without_answer"]] == ["0-1", "1-1", "2-1"]
    for clip in (folder / "data/own/videos").glob("*.mp4"):
        clip.unlink()
    with pytest.raises(FileNotFoundError, match="all videos of own are missing"):
        main(command(trained, "other"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_such_benchmark", "there is no benchmark 'no_such_benchmark'"), ("absent.yaml", "there is no file")],
)
def test_a_benchmark_that_is_not_there_is_refused(trained: Trained, folder: Path, name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        main(["--model", str(trained.exported), "--benchmark", name, "--data", "data", "--out", "out"])


def test_a_wrong_setting_of_a_benchmark_is_refused(trained: Trained, folder: Path) -> None:
    write_yaml(folder / "own.yaml", chosen_by="guess")
    with pytest.raises(ValueError, match=r"(?s)own.yaml does not describe a benchmark.*guess"):
        main(command(trained, "out"))


def test_models_are_compared_on_equal_questions_alone(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(trained, "one"))
    main(command(trained, "two", "--max-new-tokens", "1"))
    capsys.readouterr()
    main(["compare", "one/own", "two/own"])
    assert "| one/own | two/own | +0.0000 | [+0.0000, +0.0000] | 0 / 0 | 1 | 1 |" in capsys.readouterr().out
    main(["compare", "one/own", "two/own", "--latex", "--out", "table.tex", "--scorer", "generated (strict)"])
    assert "\\begin{tabular}" in (folder / "table.tex").read_text()
    main(command(trained, "fewer", "--most-items", "4"))
    with pytest.raises(ValueError, match="different questions, 5 of which"):
        main(["compare", "one/own", "fewer/own"])
    with pytest.raises(ValueError, match="no scores by 'taste'"):
        main(["compare", "one/own", "two/own", "--scorer", "taste"])
    with pytest.raises(FileNotFoundError, match="no finished evaluation"):
        main(["compare", "one/own", "data"])


def test_if_no_question_can_be_answered_the_report_is_written_and_the_command_fails(
    trained: Trained, folder: Path
) -> None:
    for clip in (folder / "data/own/videos").glob("*.mp4"):
        clip.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"no question was answered of own \(.*clip0\.mp4 .*same command"):
        main(command(trained, "out"))
    assert len(json.loads((folder / "out/own/report.json").read_text())["without_answer"]) == 9


@pytest.mark.parametrize(
    ("option", "value"), [("--most-items", "0"), ("--most-items", "-1"), ("--max-new-tokens", "-1"), ("--at-once", "0")]
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--model", "M", "--benchmark", "B", "--data", "D", "--out", "O", option, value])
    assert ending.value.code == 2
    assert f"argument {option}: {value} is not a number of at least" in capsys.readouterr().err


@pytest.mark.parametrize("twice", [True, False])
def test_ids_that_cannot_be_found_again_are_refused(trained: Trained, folder: Path, twice: bool) -> None:
    rows = json.loads((folder / "data/own/questions.json").read_text())
    rows[1]["id"] = rows[0]["id"] if twice else 5
    (folder / "data/own/questions.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="is that of two questions" if twice else "the id 5 is no text"):
        main(command(trained, "out"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"most_items": "abc"}, "Expected a <class 'int'> Given value: abc"),
        ({"nope": 1}, "Option 'nope' is not accepted"),
        ({"most_items": 0}, "most_items is 0; expected at least 1"),
        ({"context_s": -5}, "context_s is -5.0; expected seconds above 0"),
        ("[" * 5000, "is no YAML file"),
        ("a: b: c", "is no YAML file"),
        ("[]", "Not a valid subclass of Benchmark"),
    ],
)
def test_a_wrong_yaml_file_is_refused_in_one_line(
    tmp_path: Path, content: dict[str, object] | str, message: str
) -> None:
    path = tmp_path / "own.yaml"
    arguments = {"questions": "q.json"} | (content if isinstance(content, dict) else {})
    whole = {"class_path": "datamodules.benchmarks.streaming_bench.StreamingBench", "init_args": arguments}
    path.write_text(content if isinstance(content, str) else json.dumps(whole))
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        load_benchmark(str(path))
    assert "\n" not in str(refused.value)
