import os
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from lightning_modules import checkpoints
from lightning_modules.checkpoints import WholeFileCheckpointIO

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class DiesWhilePickled:
    """Stands for a kill in the middle of the file: something was written, the rest never comes."""

    def __reduce__(self) -> str:
        raise KeyboardInterrupt


def test_checkpoint_comes_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    for step in (1, 2):
        WholeFileCheckpointIO().save_checkpoint({"step": step, "weight": torch.ones(3)}, path)
    loaded = WholeFileCheckpointIO().load_checkpoint(path)
    assert loaded["step"] == 2
    assert torch.equal(loaded["weight"], torch.ones(3))
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_what_stops_the_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    files = WholeFileCheckpointIO()
    files.save_checkpoint({"step": 1}, path)
    with pytest.raises(KeyboardInterrupt):
        files.save_checkpoint({"weight": torch.ones(10), "rest": DiesWhilePickled()}, path)
    assert files.load_checkpoint(path) == {"step": 1}
    files.save_checkpoint({"step": 2}, path)
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoints.os, "fsync", lambda file: (calls.append("fsync"), real_fsync(file)))
    monkeypatch.setattr(checkpoints.os, "replace", lambda *names: (calls.append("replace"), real_replace(*names)))
    WholeFileCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert calls == ["fsync", "replace", "fsync"]  # the second one holds the folder's names


def test_trainer_of_every_run_saves_through_it(tmp_path: Path) -> None:
    (plugin,) = yaml.safe_load((CONFIGS / "base.yaml").read_text(encoding="utf-8"))["trainer"]["plugins"]
    assert plugin == {"class_path": f"{WholeFileCheckpointIO.__module__}.{WholeFileCheckpointIO.__name__}"}
    trainer = Trainer(plugins=[WholeFileCheckpointIO()], accelerator="cpu", logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy.checkpoint_io, WholeFileCheckpointIO)


def test_options_that_mean_nothing_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        WholeFileCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt", storage_options={"speed": 2})
