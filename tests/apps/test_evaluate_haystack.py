"""``python evaluate.py --niavh CONFIG``: from a model folder to the heat map."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from apps.evaluate.__main__ import main
from tests.documentation import ROOT
from tests.fixtures_exported import Trained

GRID = {"lengths_s": [2, 5], "depths": [0, 1], "videos_per_cell": 1, "controls": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a small test."""
    settings = {
        "class_path": "datamodules.haystack.haystack_benchmark.HaystackBenchmark",
        "init_args": {"grid": GRID, "needles": {"kinds": ["shape"]}, "chosen_by": "text"},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(trained: Trained, *more: str) -> list[str]:
    return ["--niavh", "small.yaml", "--model", str(trained.exported), "--device", "cpu", "--out", "out", *more]


def test_report_and_heat_map_are_written_and_nothing_is_asked_twice(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(trained))
    assert "The heat map is out/heatmap.png, the report out/report.md" in capsys.readouterr().out
    report = json.loads((folder / "out/report.json").read_text())
    assert report["items"] == 6
    assert report["evaluated"]["reading"] == "session"
    assert report["evaluated"]["videos of which the model's frames miss a needle"] == 0
    values = json.loads((folder / "out/heatmap.json").read_text())
    assert values["lengths_s"] == [2, 5]
    assert values["scorers"]["likelihood"]["retrieval"]["with_needle"]["n"] == [[1, 1], [1, 1]]
    [answers] = (folder / "out").glob("answers.*.jsonl")
    before = answers.stat().st_mtime_ns, answers.read_text()
    main(command(trained))
    assert (answers.stat().st_mtime_ns, answers.read_text()) == before


def test_given_clips_are_the_haystack_and_another_one_is_not_continued(trained: Trained, folder: Path) -> None:
    (folder / "clip.mp4").write_bytes(trained.video)
    main(command(trained, "--haystack", "clip.mp4", "--reading", "complete", "--max-new-tokens", "0"))
    report = json.loads((folder / "out/report.json").read_text())
    assert report["evaluated"]["haystack"].startswith("clips ")
    assert list(report["scores"]) == ["likelihood"]
    (folder / "out/answers.0-of-1.jsonl").write_text("")
    main(command(trained, "--haystack", "clip.mp4", "--reading", "session", "--max-new-tokens", "0"))
    content = (folder / "out/answers.0-of-1.jsonl").read_text().splitlines()
    (folder / "out/answers.0-of-1.jsonl").write_text("\n".join(content[:2]) + "\n")
    with pytest.raises(ValueError, match="haystack was 'clips"):
        main(command(trained, "--reading", "session", "--max-new-tokens", "0"))


def test_two_processes_share_the_videos_and_the_last_one_writes_the_heat_map(trained: Trained, folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), *command(trained, "--max-new-tokens", "0")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors
    files = sorted((folder / "out").glob("answers.*-of-2.jsonl"))
    assert [len(path.read_text().splitlines()) for path in files] == [3, 3]
    assert (folder / "out/heatmap.png").is_file()


def test_an_unknown_test_is_named_before_the_model_is_opened(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no haystack test 'smaller'"):
        main(["--niavh", "smaller", "--model", "missing", "--out", "out"])
