"""The code of docs/streaming.md runs as printed."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.components.test_streaming import build
from tests.fixtures_data import make_clip, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders


def test_code_of_the_page_about_streaming_runs(
    folders: PartFolders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = build(folders, "retrieved")
    monkeypatch.setattr("lightning_modules.trained_model.load_model", lambda path, config: model)
    monkeypatch.chdir(tmp_path)
    Path("video.mp4").write_bytes(make_clip(65, fps=8, frames=natural_frames(65, 48, 64)))
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("=84", f"={IMAGE_SIZE}"), names)  # the page's own code
    printed = capsys.readouterr().out
    assert re.findall(r"^(\d+) ", printed, flags=re.MULTILINE) == ["0", "4000", "8000"]
    assert printed.endswith("segments closed after frames [1, 3, 5, 7, 9, 11, 13, 15]\n")
    assert len(names["answers"]) == len(names["scores"]) == 2
