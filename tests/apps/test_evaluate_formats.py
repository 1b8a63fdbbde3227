"""Published forms of benchmarks through ``evaluate.py``: parts, folders of frames, several clips, hidden answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.evaluate.__main__ import main
from tests.datamodules.benchmarks.question_writer import write_egoplan, write_egoschema, write_mvbench
from tests.fixtures_data import make_clip
from tests.fixtures_exported import Trained


def write_frames(folder: Path, name: str, number: int) -> None:
    folder.mkdir(parents=True)
    for index in range(1, number + 1):
        Image.fromarray(np.full((16, 16, 3), index % 256, dtype=np.uint8)).save(folder / name.format(index))


def write_clip(path: Path, num_frames: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_clip(num_frames, fps=4))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_mvbench(root / "mvbench")
    write_clip(root / "mvbench/video/star/Charades_v1_480/ZS9XR.mp4")
    write_clip(root / "mvbench/video/clevrer/video_validation/video_1.mp4")
    write_frames(root / "mvbench/video/tvqa/frames_fps3_hq/friends_s01", "{:05d}.jpg", 6)
    write_egoplan(root / "egoplan")
    write_frames(root / "egoplan/EPIC-KITCHENS/P01/rgb_frames/P01_13", "frame_{:010d}.jpg", 101)
    write_clip(root / "egoplan/Ego4D/v1_288p/000786a7.mp4", 20)
    write_egoschema(root / "egoschema")
    for number in range(4):
        write_clip(root / f"egoschema/videos/uid-{number}.mp4")
    return root


def test_every_form_of_medium_is_answered_and_hidden_answers_are_submitted(
    trained: Trained, data: Path, tmp_path: Path
) -> None:
    names = ["mvbench", "egoplan", "egoschema"]
    model = ["--model", str(trained.exported), "--device", "cpu", "--max-new-tokens", "0"]
    main([*model, "--benchmark", *names, "--data", str(data), "--out", str(tmp_path / "out")])
    reports = {name: json.loads((tmp_path / "out" / name / "report.json").read_text()) for name in names}
    assert {name: report["without_answer"] for name, report in reports.items()} == {name: [] for name in names}
    assert {name: report["labelled"] for name, report in reports.items()} == {
        "mvbench": 3,
        "egoplan": 2,
        "egoschema": 0,
    }
    likelihood = reports["mvbench"]["scores"]["likelihood"]
    assert likelihood["official"] == {"mean of the means by type": pytest.approx(likelihood["overall"]["value"])}
    assert reports["egoplan"]["evaluated"]["prompt"] == "question alone"
    submission = json.loads((tmp_path / "out/egoschema/submission.json").read_text())
    assert submission.keys() == {f"uid-{number}" for number in range(4)}
    assert set(map(type, submission.values())) == {int}
