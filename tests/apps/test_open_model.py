"""Every app opens its model in the same way, and says what to do where it cannot."""

import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

import membridge
from apps.open_model import add_model_arguments, open_given, open_model
from components.encoders.cached import CachedFeatures
from tests.fixtures_exported import PIXELS, QUESTION, Trained


@pytest.fixture
def beside_the_run(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The working directory of the run, from which its config's relative paths start."""
    monkeypatch.chdir(trained.folder)
    return trained


def test_folder_checkpoint_and_run_give_models_of_the_same_answers(beside_the_run: Trained, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(beside_the_run.video)
    run = beside_the_run.checkpoint.parent.parent
    opened = [
        open_model(path) for path in (beside_the_run.exported, beside_the_run.checkpoint, run, run / "checkpoints")
    ]
    assert all(isinstance(model, membridge.VideoLanguageModel) for model in opened)
    assert not any(model.training for model in opened)
    assert {model.training_facts.frames for model in opened} == {opened[0].training_facts.frames}
    assert opened[0].training_facts.frames.size == 84
    weights = [dict(model.state_dict()) for model in opened]
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0.0, atol=0.0)
    assert len({model.answer(tmp_path / "video.mp4", QUESTION) for model in opened}) == 1


def test_options_of_the_command_line_reach_the_model(trained: Trained) -> None:
    parser = ArgumentParser()
    add_model_arguments(parser)
    model = open_given(parser.parse_args([str(trained.exported), "--device", "cpu", "--dtype", "bfloat16"]))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_checkpoint_is_opened_with_a_config_of_the_command_line(beside_the_run: Trained) -> None:
    assert open_model(beside_the_run.checkpoint, config=[Path(PIXELS)]).training_facts.frames.size == 84


def test_a_model_of_cached_features_is_refused(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model = membridge.load(trained.exported)
    model.encoder = CachedFeatures(384, 9)
    monkeypatch.setattr(membridge, "load", lambda *_, **__: model)
    with pytest.raises(ValueError, match=r"reads cached features .*export CHECKPOINT OUT --config CONFIG"):
        open_model(trained.exported)


def test_a_dtype_or_config_that_cannot_be_used_is_refused(beside_the_run: Trained) -> None:
    with pytest.raises(ValueError, match=r"export .*final\.ckpt OUT --dtype bfloat16"):
        open_model(beside_the_run.checkpoint, dtype="bfloat16")
    with pytest.raises(ValueError, match="--config is for checkpoints"):
        open_model(beside_the_run.exported, config=[Path(PIXELS)])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runs/none", r"there is no model runs/none .*give a model folder"),
        ("none.ckpt", r"there is no model none\.ckpt"),
        ("/nowhere/at_all", "there is no model /nowhere/at_all"),
        ("runs/quickstart/videos/train-000000.tar", "is a file; MODEL is the folder"),
        ("runs/quickstart/videos", "no folder of a model, and no checkpoint of a run"),
        ("runs/quickstart/memory", "It holds the runs version_0: name one of them"),
    ],
)
def test_what_is_no_model_says_what_to_give(path: str, message: str, beside_the_run: Trained) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_model(path)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu0", "is no device; give cpu"), ("cuda:99", "is not there: PyTorch sees")]
)
def test_a_device_that_is_not_there_is_refused_before_weights_are_read(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_model("nowhere", device)


def test_a_name_that_is_no_path_is_asked_of_the_model_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def load(path: object, **_options: object) -> None:
        asked.append(path)
        raise FileNotFoundError("not on the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(membridge, "load", load)
    with pytest.raises(FileNotFoundError, match="not on the hub"):
        open_model("somebody/some-model")
    assert list(map(str, asked)) == ["somebody/some-model"]


def test_an_incomplete_folder_is_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.exported, tmp_path / "model")
    (tmp_path / "model/export.json").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"export\.json"):
        open_model(tmp_path / "model")
