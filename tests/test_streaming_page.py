"""The code of docs/streaming.md runs as printed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.components.test_streaming import build, times
from tests.fixtures_models import PartFolders, make_frames

CHECKPOINT_ON_THE_PAGE = "runs/NAME/version_0/checkpoints/final.ckpt"


def test_code_of_the_page_about_streaming_runs(
    folders: PartFolders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(folders, "retrieved")
    monkeypatch.setattr("lightning_modules.loading.load_model", {CHECKPOINT_ON_THE_PAGE: model}.__getitem__)
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {
        "frames": make_frames(9),
        "frame_ms": torch.tensor(times(0, 9)),
    }
    for block in blocks:
        exec(block, names)  # the page's own code
    printed = capsys.readouterr().out
    assert re.findall(r"^(\d+) ", printed, flags=re.MULTILINE) == ["0", "4000", "8000"]
    assert printed.endswith("segments closed after frames [1, 3, 5, 7]\n")
    assert len(names["answers"]) == len(names["scores"]) == 2
