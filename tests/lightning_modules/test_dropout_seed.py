"""What dropout draws in a training step follows from the run's seed, the rank and the step alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules.batch import Batch
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import make_loader, make_trainer


class SaveAndUseRandomNumbers(Callback):
    """Saves after step 2, and uses up numbers as validation and pictures might."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        torch.rand(trainer.global_step)
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def drawn(
    folders: PartFolders, folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed: int = 0, resume: Path | None = None
) -> list[float]:
    """First random number of each training step up to the fourth."""
    numbers = []
    step = VideoLanguageModule.training_step

    def draw_and_train(module: VideoLanguageModule, batch: Batch, index: int) -> torch.Tensor:
        numbers.append(float(torch.rand(1)))
        return step(module, batch, index)

    module = make_module(folders, seed=seed)
    with monkeypatch.context() as patch:
        patch.setattr(VideoLanguageModule, "training_step", draw_and_train)
        trainer = make_trainer(folder, 4, callbacks=[SaveAndUseRandomNumbers(folder / "two-steps.ckpt")])
        trainer.fit(module, make_loader([make_batch(folders)] * 4), ckpt_path=resume)
    return numbers


def test_resumed_run_draws_what_the_uninterrupted_one_does(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = drawn(folders, tmp_path, monkeypatch)
    assert len(set(straight)) == 4
    assert drawn(folders, tmp_path, monkeypatch, resume=tmp_path / "two-steps.ckpt") == straight[2:]


def test_other_seeds_and_ranks_draw_other_numbers(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = drawn(folders, tmp_path, monkeypatch)
    assert not set(drawn(folders, tmp_path, monkeypatch, seed=1)) & set(straight)
    monkeypatch.setattr(VideoLanguageModule, "global_rank", 1)
    assert not set(drawn(folders, tmp_path, monkeypatch)) & set(straight)
