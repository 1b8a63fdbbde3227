from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from components.checkpoints.run_checkpoint import RunCheckpoint
from datamodules.batch import collate
from lightning_modules.optimization import Optimization
from tests.fixtures_models import RATES, PartFolders, make_batch, make_mixed_samples, make_module
from tests.fixtures_training import make_loader, make_trainer
from tests.lightning_modules.optimization.snapshots import Snapshot, Snapshots, are_equal, snapshot

AVERAGE = "average of "


class WhileValidating(Callback):
    """Notes the weights that validation sees, and may break it off."""

    def __init__(self, fails: bool = False) -> None:
        self.seen: list[Snapshot] = []
        self.fails = fails

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(snapshot(pl_module))
        if self.fails:
            raise RuntimeError("validation broke off")


def fit(folders: PartFolders, folder: Path, *callbacks: Callback, averages: bool) -> Snapshots:
    settings = Optimization(RATES, averages={"bridge": 0.9}, validate_averages=averages)
    module, seen = make_module(folders, optimization=settings), Snapshots()
    seed_everything(1)
    trainer = make_trainer(
        folder,
        4,
        val_check_interval=2,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=[seen, *callbacks],
    )
    samples = make_mixed_samples(folders)
    trainer.fit(module, make_loader([collate([sample]) for sample in samples]), make_loader([make_batch(folders)]))
    return seen


def test_validation_sees_the_averages_and_training_goes_on_with_the_weights(
    folders: PartFolders, tmp_path: Path
) -> None:
    watched, keep = WhileValidating(), ModelCheckpoint(tmp_path, "{step}", monitor="val/accuracy", save_top_k=-1)
    averaging = fit(folders, tmp_path, watched, keep, averages=True)
    plain = fit(folders, tmp_path, averages=False)
    assert all(are_equal(one, other) for one, other in zip(averaging.taken, plain.taken, strict=True))
    assert len(watched.seen) == 2
    for seen, trained in zip(watched.seen, (averaging.taken[2], averaging.taken[4]), strict=True):
        averages = {name.removeprefix(AVERAGE) for name in seen if name.startswith(AVERAGE)}
        assert averages == {name for name in seen if name.startswith("model.bridge")}
        assert all(torch.equal(seen[name], trained[AVERAGE + name]) for name in averages)
        others = {name for name in seen if name.startswith("model.language_model")}
        assert all(torch.equal(seen[name], trained[name]) for name in others)
    saved = RunCheckpoint(tmp_path / "step=4.ckpt")
    trained_names = [name for name in saved.parameters if "bridge" in name]
    assert all(torch.equal(saved.weight(name), averaging.taken[4][name]) for name in trained_names)


def test_weights_are_back_where_validation_breaks_off(folders: PartFolders, tmp_path: Path) -> None:
    broken = WhileValidating(fails=True)
    settings = Optimization(RATES, averages={"bridge": 0.9}, validate_averages=True)
    module, seen = make_module(folders, optimization=settings), Snapshots()
    trainer = make_trainer(tmp_path, 4, val_check_interval=2, callbacks=[seen, broken])
    batches = make_loader([make_batch(folders)] * 4)
    with pytest.raises(RuntimeError, match="validation broke off"):
        trainer.fit(module, batches, make_loader([make_batch(folders)]))
    assert are_equal(snapshot(module), seen.taken[2])
    assert not are_equal(broken.seen[0], seen.taken[2])


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_averages_are_float32_and_survive_resuming_to_the_bit(
    folders: PartFolders, tmp_path: Path, precision: Any
) -> None:
    settings = Optimization(RATES, averages={"bridge": 0.9})
    batches = [collate([sample]) for sample in make_mixed_samples(folders)]
    modules = [make_module(folders, optimization=settings, seed=seed) for seed in (0, 0, 9)]
    whole, stopped, resumed = modules
    make_trainer(tmp_path, 4, precision=precision).fit(whole, make_loader(batches))
    keep = ModelCheckpoint(tmp_path, "half", every_n_train_steps=2)
    half = {"limit_train_batches": 2, "max_epochs": 1, "enable_checkpointing": True, "callbacks": [keep]}
    make_trainer(tmp_path, 4, precision=precision, **half).fit(stopped, make_loader(batches))
    path = tmp_path / "half.ckpt"
    make_trainer(tmp_path, 4, precision=precision).fit(resumed, make_loader(batches[2:]), ckpt_path=path)
    averages = {value.dtype for name, value in snapshot(resumed).items() if name.startswith(AVERAGE)}
    assert averages == {torch.float32}
    assert are_equal(snapshot(whole), snapshot(resumed))
