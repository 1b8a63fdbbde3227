"""The questions on docs/benchmarks.md are evaluated and compared as the page says, on tiny parts."""

import shlex
import shutil
from pathlib import Path

import pytest

from apps.evaluate.__main__ import main
from tests.documentation import blocks_of, write_shown_files
from tests.fixtures_exported import Trained

PAGE = "docs/benchmarks.md"


def command_about(name: str) -> list[str]:
    """Arguments of the page's first command that names something."""
    lines = [line for block in blocks_of(PAGE, "bash") for line in block.text.splitlines() if name in line]
    return shlex.split(lines[0], comments=True)[2:]


def test_questions_of_ones_own_are_evaluated_and_compared(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shown_files(PAGE, tmp_path)
    shutil.copytree(trained.exported, tmp_path / "runs/quickstart/model")
    (tmp_path / "data/table/videos").mkdir()
    (tmp_path / "data/table/videos/film.mp4").write_bytes(trained.video)
    monkeypatch.chdir(tmp_path)
    arguments = command_about("shapes.yaml")
    main(arguments)
    printed = capsys.readouterr().out
    shown = next(block.text for block in blocks_of(PAGE, "text") if "likelihood" in block.text).splitlines()
    assert shown[0] in printed
    for line in shown[2:]:
        assert f"| {line.split('|')[1].strip()} | " in printed
    assert {path.name.split(".")[-1] for path in Path("runs/scores/shapes").iterdir()} == {"jsonl", "json", "md", "png"}
    main([each.replace("runs/scores", "runs/other_scores") for each in arguments])
    capsys.readouterr()
    main(command_about("--scorer"))
    assert "| runs/scores/shapes | runs/other_scores/shapes | +0.0000 |" in capsys.readouterr().out
    main(command_about("--latex"))
    assert "\\toprule" in Path("table.tex").read_text(encoding="utf-8")
