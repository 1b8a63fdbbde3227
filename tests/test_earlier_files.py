"""Files of an earlier version of the code (shard, config, checkpoint, export) open and give the same results today.

``goldens/earlier_run/make.sh`` made them with the code of commit 98f5d06: a tiny model of random weights with LoRA,
trained for 4 steps and resumed after step 2. In ``pooled`` is one whose bridge pooled patches by a convolution.
"""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from apps.evaluate import command as evaluate
from components.model import VideoLanguageModel
from lightning_modules.export import export
from lightning_modules.trained_model import load_model

EARLIER = Path(__file__).parent / "goldens" / "earlier_run"
EXPECTED: Mapping[str, Any] = json.loads((EARLIER / "expected.json").read_text(encoding="utf-8"))
CHECKPOINT = "step-00000002.ckpt"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as working directory: their configs have relative paths."""
    copy = Path(shutil.copytree(EARLIER, tmp_path / "earlier"))
    monkeypatch.chdir(copy)
    return copy


def losses_of(folder: Path) -> dict[str, float]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return {row["step"]: float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def answers_of(folder: Path) -> dict[str, str]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["key"]: line["prediction"] for line in map(json.loads, lines)}


def test_a_checkpoint_resumes_with_the_same_losses(folder: Path) -> None:
    train.main(["fit", "-c", "config.yaml", "--run_folder", "again", "--ckpt_path", CHECKPOINT])
    assert losses_of(folder / "again") == pytest.approx(EXPECTED["losses"], rel=1e-5)


def test_an_export_gives_the_same_answers(folder: Path) -> None:
    evaluate.main(["--checkpoint", "export", "--data", "train.tar", "--out", "answers"])
    assert answers_of(folder / "answers") == EXPECTED["answers"]


def test_a_checkpoint_whose_bridge_pooled_patches_resumes_with_the_same_losses(folder: Path) -> None:
    checkpoint = f"pooled/{CHECKPOINT}"
    train.main(["fit", "-c", f"{checkpoint}/config.yaml", "--run_folder", "again", "--ckpt_path", checkpoint])
    assert losses_of(folder / "again") == pytest.approx(EXPECTED["pooled"]["losses"], rel=1e-5)


def test_an_export_whose_bridge_pooled_patches_gives_the_same_answers(folder: Path) -> None:
    evaluate.main(["--checkpoint", "pooled/export", "--data", "train.tar", "--out", "answers"])
    assert answers_of(folder / "answers") == EXPECTED["pooled"]["answers"]


@pytest.mark.parametrize("run", [".", "pooled"])
def test_checkpoint_and_export_are_the_same_model(folder: Path, run: str) -> None:
    from_run, exported = (load_model(folder / run / name).state_dict() for name in (CHECKPOINT, "export"))
    assert from_run.keys() == exported.keys()
    assert [name for name, weight in from_run.items() if not torch.equal(weight, exported[name])] == []


@pytest.mark.parametrize("earlier", [CHECKPOINT, "export"])
def test_checkpoint_and_export_become_a_folder_of_the_model(earlier: str, folder: Path) -> None:
    expected = load_model(folder / earlier).state_dict()
    export(folder / earlier, folder / "new")
    shutil.rmtree(folder / "language_model")
    opened = VideoLanguageModel.from_pretrained(folder / "new").state_dict()
    assert opened.keys() == expected.keys()
    assert [name for name, weight in expected.items() if not torch.equal(weight, opened[name])] == []


def test_a_stopped_evaluation_continues(folder: Path) -> None:
    command = ["--checkpoint", CHECKPOINT, "--data", "train.tar", "--out", "answers"]
    evaluate.main(command)
    answers, about = folder / "answers" / "predictions.jsonl", folder / "answers" / "evaluation.json"
    complete = answers.read_text(encoding="utf-8")
    answers.write_text(complete.splitlines(keepends=True)[0], encoding="utf-8")
    # The hash that the earlier version stored: of the config with its old class paths.
    earlier = "1a7b825631fe6f2521fd1fb8fa185a23119bc2da8282e0e53835c73967c98162"
    stored = json.loads(about.read_text(encoding="utf-8"))
    about.write_text(json.dumps(stored | {"config_sha256": earlier}), encoding="utf-8")
    evaluate.main(command)
    assert answers.read_text(encoding="utf-8") == complete
    about.write_text(json.dumps(stored | {"config_sha256": "of another config"}), encoding="utf-8")
    with pytest.raises(ValueError, match="config_sha256 differ"):
        evaluate.main(command)
