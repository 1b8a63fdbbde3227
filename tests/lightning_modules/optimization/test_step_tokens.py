"""Every answer token of an optimizer step counts alike, however the step is cut into batches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import LossSchedule
from components.losses import EverySegmentLoss, FinalSegmentLoss
from datamodules.batch import Batch, Sample, collate, empty_text_sample
from tests.fixtures_models import PartFolders, make_bridge, make_frames, make_module, make_sample
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer

LONG = "red blue green yellow white black circle square star triangle yes no"


class PricedBridge(RecurrentMemoryBridge):
    """Pays for what it remembers, without drawing anything at random."""

    def penalty(self, state: Any) -> Tensor:
        return state.memory.float().square().mean(dim=(1, 2))


def make_priced_bridge(dim: int, out_dim: int) -> RecurrentMemoryBridge:
    bridge = make_bridge(dim, out_dim)
    bridge.__class__ = PricedBridge
    return bridge


class Gradients(Callback):
    """Keeps the gradient of every step."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.taken.append(torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]))


def make_samples(folders: PartFolders) -> list[Sample]:
    """Answers of 2, 13, 3 and 2 tokens; videos of 2, 7 and no frames."""
    return [
        make_sample(folders, "a", make_frames(2, seed=1), [[("which colour ?", "red")]]),
        make_sample(folders, "b", make_frames(7, seed=2), [[("which shape ?", LONG)]]),
        make_sample(folders, "c", None, [[("say hello", "red blue")]]),
        make_sample(folders, "d", make_frames(5, seed=4), [[("which colour ?", "green")]]),
    ]


def train(
    folders: PartFolders, out: Path, batches: list[Batch], batches_a_step: int, **changes: Any
) -> tuple[list[Tensor], RecordingLogger]:
    """Train one pass over the batches; the gradient of every step, and the log."""
    gradients, logger = Gradients(), RecordingLogger()
    options: dict[str, Any] = {"max_epochs": 1, "accumulate_grad_batches": batches_a_step, "logger": logger}
    trainer = make_trainer(out, 99, callbacks=[gradients], **options)
    trainer.fit(make_module(folders, **changes), make_loader(batches))
    return gradients.taken, logger


def assert_equal_gradients(gradients: list[Tensor], expected: list[Tensor]) -> None:
    assert len(gradients) == len(expected)
    for gradient, whole in zip(gradients, expected, strict=True):
        assert (gradient - whole).norm() <= 2e-6 * whole.norm()


@pytest.mark.parametrize("schedule", [FinalSegmentLoss(), EverySegmentLoss(), EverySegmentLoss("increasing")])
@pytest.mark.parametrize("bridge", [make_bridge, make_priced_bridge], ids=["plain", "with a penalty"])
def test_accumulated_batches_give_the_gradient_and_the_logged_losses_of_one_batch(
    folders: PartFolders, tmp_path: Path, schedule: LossSchedule, bridge: Callable[[int, int], RecurrentMemoryBridge]
) -> None:
    samples, parts = make_samples(folders), {"loss_schedule": schedule, "bridge": bridge}
    expected, whole = train(folders, tmp_path, [collate(samples)], 1, **parts)
    gradients, logger = train(folders, tmp_path, [collate([sample]) for sample in samples], 4, **parts)
    assert_equal_gradients(gradients, expected)
    losses = {name for _, values in whole.logged for name in values if "loss" in name or "penalty" in name}
    assert len(losses) == 1 + (bridge is make_priced_bridge) + 4 * isinstance(schedule, EverySegmentLoss)
    for name in losses:
        assert logger.values(name) == pytest.approx(whole.values(name), rel=2e-6), name


def test_the_last_step_of_an_epoch_counts_its_fewer_batches_fully(folders: PartFolders, tmp_path: Path) -> None:
    samples = make_samples(folders)
    expected, whole = train(folders, tmp_path, [collate(samples[:3]), collate(samples[3:])], 1)
    gradients, logger = train(folders, tmp_path, [collate([sample]) for sample in samples], 3)
    assert (gradients[0] - expected[0]).norm() <= 2e-6 * expected[0].norm()
    # After a step of almost equal weights.
    assert float(gradients[1].norm()) == pytest.approx(float(expected[1].norm()), rel=1e-4)
    assert logger.values("train/loss") == pytest.approx(whole.values("train/loss"), rel=1e-5)


def test_a_batch_whose_samples_were_all_skipped_changes_nothing(folders: PartFolders, tmp_path: Path) -> None:
    samples = make_samples(folders)[:2]
    expected, _ = train(folders, tmp_path, [collate(samples)], 1)
    batches = [collate([samples[0]]), collate([empty_text_sample()]), collate([samples[1]])]
    assert_equal_gradients(train(folders, tmp_path, batches, 3)[0], expected)
    lost, _ = train(folders, tmp_path, [collate([empty_text_sample()])] * 2, 2)
    assert not lost[0].any()


def test_the_number_of_accumulated_batches_may_change_between_epochs(folders: PartFolders, tmp_path: Path) -> None:
    samples, seen = make_samples(folders)[:2], Gradients()
    callbacks = [GradientAccumulationScheduler({0: 1, 1: 2, 2: 1}), seen]
    trainer = make_trainer(tmp_path, 99, max_epochs=4, callbacks=callbacks)
    trainer.fit(make_module(folders), make_loader([collate([sample]) for sample in samples]))
    assert len(seen.taken) == 2 + 1 + 2 + 2


class Stream(IterableDataset[Batch]):
    """Batches without a length."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.num_loaded = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.num_loaded += 1
            yield batch


def test_data_without_a_length_give_the_same_steps(folders: PartFolders, tmp_path: Path) -> None:
    batches = [collate([sample]) for sample in make_samples(folders)]
    expected, _ = train(folders, tmp_path, batches, 3)
    seen = Gradients()
    trainer = make_trainer(tmp_path, 99, max_epochs=1, accumulate_grad_batches=3, callbacks=[seen])
    trainer.fit(make_module(folders), DataLoader(Stream(batches), batch_size=None))
    assert len(seen.taken) == 2
    assert all(torch.equal(one, other) for one, other in zip(seen.taken, expected, strict=True))


def test_a_run_loads_no_batch_beyond_its_last_step_and_one_step_ahead_at_most(
    folders: PartFolders, tmp_path: Path
) -> None:
    class Loaded(Callback):
        def __init__(self) -> None:
            self.ahead: list[int] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.ahead.append(data.num_loaded - batch_idx)

    data, seen = Stream([collate([sample]) for sample in make_samples(folders)] * 3), Loaded()
    trainer = make_trainer(tmp_path, 2, accumulate_grad_batches=3, callbacks=[seen])
    trainer.fit(make_module(folders), DataLoader(data, batch_size=None))
    assert seen.ahead == [4, 4, 4, 3, 2, 1]
    assert data.num_loaded == 6
