from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from datamodules.batch import Batch, collate
from lightning_modules.optimization.accumulation import is_accumulating
from tests.fixtures_models import PartFolders, make_mixed_samples, make_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.optimization.snapshots import Snapshots, are_equal


def make_batches(folders: PartFolders, number: int) -> list[Batch]:
    samples = make_mixed_samples(folders)
    return [collate([samples[index % len(samples)]]) for index in range(number)]


class Accumulating(Callback):
    """Notes after which batches no step was taken."""

    def __init__(self) -> None:
        self.noted: list[bool] = []
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.noted.append(is_accumulating(trainer))
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("num_batches", [6, 7])
def test_batches_without_a_step_are_told(folders: PartFolders, tmp_path: Path, num_batches: int) -> None:
    """The last batch of an epoch ends a step of its own."""
    seen = Accumulating()
    trainer = make_trainer(tmp_path, 9, max_epochs=1, accumulate_grad_batches=3, callbacks=[seen])
    trainer.fit(make_module(folders), make_loader(make_batches(folders, num_batches)))
    steps = [0, 0, 1, 1, 1, 2, 3][:num_batches]
    assert seen.steps == steps
    assert seen.noted == [step == before for before, step in zip([0, *steps[:-1]], steps, strict=True)]


def test_checkpoints_by_steps_lie_between_steps_and_resume_exactly(folders: PartFolders, tmp_path: Path) -> None:
    batches, seen, again = make_batches(folders, 8), Snapshots(), Snapshots()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "enable_checkpointing": True}
    seed_everything(1)
    trainer = make_trainer(tmp_path, 4, callbacks=[seen, keep], **options)
    trainer.fit(make_module(folders), make_loader(batches))
    seed_everything(1)
    resumed = make_trainer(tmp_path, 4, callbacks=[again], accumulate_grad_batches=2)
    resumed.fit(make_module(folders), make_loader(batches[4:] + batches[:4]), ckpt_path=tmp_path / "step=2.ckpt")
    assert len(again.taken) == 5
    assert all(are_equal(one, other) for one, other in zip(again.taken, seen.taken[4:], strict=True))


@pytest.mark.parametrize("saved", [1, 2, 4, 5, 8, 11])
def test_a_run_that_goes_on_from_within_a_step_takes_that_step_whole(
    folders: PartFolders, tmp_path: Path, saved: int
) -> None:
    """Two epochs of seven batches: each has two steps of three batches and one of the last."""

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == saved:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    batches, seen, again = make_batches(folders, 7), Snapshots(), Snapshots()
    logs = [RecordingLogger(), RecordingLogger()]
    options: dict[str, Any] = {"accumulate_grad_batches": 3, "max_epochs": 2}
    seed_everything(1)
    trainer = make_trainer(tmp_path, 9, callbacks=[seen, Save()], logger=logs[0], **options)
    trainer.fit(make_module(folders), make_loader(batches))
    seed_everything(1)
    resumed = make_trainer(tmp_path, 9, callbacks=[again], logger=logs[1], **options)
    data = Remembering(batches, 3 * (saved % 7 // 3))
    resumed.fit(make_module(folders), data, ckpt_path=tmp_path / "within.ckpt")
    steps = saved // 7 * 3 + saved % 7 // 3
    assert are_equal(again.taken[-1], seen.taken[-1])
    assert logs[1].values("train/loss") == logs[0].values("train/loss")[steps:]
    numbers = [[number for number, values in log.logged if "train/loss" in values] for log in logs]
    assert numbers == [list(range(6)), list(range(steps, 6))]


def test_a_checkpoint_of_a_validation_within_a_step_takes_that_step_whole(folders: PartFolders, tmp_path: Path) -> None:
    class SaveAtValidation(Callback):
        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == 4:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    batches, seen, again = make_batches(folders, 9), Snapshots(), Snapshots()
    options: dict[str, Any] = {"accumulate_grad_batches": 3, "val_check_interval": 4}
    seed_everything(1)
    trainer = make_trainer(tmp_path, 3, callbacks=[seen, SaveAtValidation()], **options)
    trainer.fit(make_module(folders), make_loader(batches), make_loader(batches[:1]))
    seed_everything(1)
    resumed = make_trainer(tmp_path, 3, callbacks=[again], **options)
    data, path = Remembering(batches, 3), tmp_path / "within.ckpt"
    resumed.fit(make_module(folders), data, make_loader(batches[:1]), ckpt_path=path)
    assert len(again.taken) == 7  # before each of the six batches from the fourth on, and at the end
    assert are_equal(again.taken[-1], seen.taken[-1])


class Remembering(DataLoader[Batch]):
    """Begins its first pass where the run goes on."""

    def __init__(self, batches: list[Batch], start: int) -> None:
        super().__init__(batches, batch_size=None)  # type: ignore[arg-type]
        self.start = start

    def __iter__(self) -> Any:
        rest = list(self.dataset)[self.start :]  # type: ignore[call-overload]
        self.start = 0
        return iter(rest)
