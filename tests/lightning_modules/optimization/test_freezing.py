from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from datamodules.batch import Batch, collate
from lightning_modules.monitoring import GradientMonitor
from lightning_modules.optimization import Optimization, TrainingPoint
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import RATES, PartFolders, make_mixed_samples, make_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.optimization.snapshots import Snapshot, Snapshots, are_equal

STEPS = 6
START = 3


def make_batches(folders: PartFolders) -> list[Batch]:
    samples = make_mixed_samples(folders)
    return [collate([samples[index % len(samples)]]) for index in range(STEPS)]


def staged(**changes: Any) -> Optimization:
    return Optimization(RATES, weight_decay=0.1, frozen_until={"language_model": TrainingPoint(step=START)}, **changes)


def fit(folder: Path, module: VideoLanguageModule, batches: list[Batch], **options: Any) -> Snapshots:
    seed_everything(1)
    seen, resume = Snapshots(), options.pop("resume", None)
    callbacks = [seen, *options.pop("callbacks", [])]
    settings = {"gradient_clip_val": 0.1, "callbacks": callbacks, **options}
    make_trainer(folder, STEPS, **settings).fit(module, make_loader(batches), ckpt_path=resume)
    return seen


def of_part(taken: Snapshot, part: str) -> Snapshot:
    return {name: value for name, value in taken.items() if f"model.{part}" in name}


def test_part_stays_equal_to_the_bit_until_its_step_and_then_moves(folders: PartFolders, tmp_path: Path) -> None:
    seen = fit(tmp_path, make_module(folders, optimization=staged()), make_batches(folders))
    late = [of_part(taken, "language_model") for taken in seen.taken]
    assert all(are_equal(late[0], late[step]) for step in range(START + 1))
    assert not any(name.startswith("exp_avg") for name in late[START]), "moments would take memory already"
    trained = {name for name, value in late[0].items() if not torch.equal(value, late[START + 1][name])}
    assert trained == late[0].keys()


def test_first_stage_is_the_run_with_the_part_frozen_for_good(folders: PartFolders, tmp_path: Path) -> None:
    """The same losses, and the bridge equal to the bit: its gradient is clipped by its own norm."""
    batches = make_batches(folders)
    one_run = fit(tmp_path, make_module(folders, optimization=staged()), batches)
    frozen = partial(HuggingFaceCausalLM, folders.language_model, freeze=True)
    alone = Optimization({"bridge": RATES["bridge"]}, weight_decay=0.1)
    first_run = fit(tmp_path, make_module(folders, language_model=frozen, optimization=alone), batches)
    for step in range(START + 1):
        assert are_equal(of_part(one_run.taken[step], "bridge"), of_part(first_run.taken[step], "bridge"))


@pytest.mark.parametrize("steps", [2, 4], ids=["in the first stage", "in the second stage"])
def test_run_resumed_in_either_stage_equals_the_uninterrupted_one(
    folders: PartFolders, tmp_path: Path, steps: int
) -> None:
    batches, settings = make_batches(folders), staged(averages={"bridge": 0.9})
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(
        tmp_path,
        make_module(folders, optimization=settings),
        batches,
        callbacks=[keep],
        enable_checkpointing=True,
    )
    resumed = fit(
        tmp_path,
        make_module(folders, seed=9, optimization=settings),
        [*batches[steps:], *batches[:steps]],  # as long as the epoch
        resume=tmp_path / f"step={steps}.ckpt",
    )
    assert len(resumed.taken) == STEPS - steps + 1
    for place, taken in enumerate(resumed.taken):
        trains = {name: value for name, value in taken.items() if "encoder" not in name}
        assert trains
        assert are_equal(trains, {name: whole.taken[steps + place][name] for name in trains})


def test_rates_of_adapters_are_logged_and_only_they_train(folders: PartFolders, tmp_path: Path) -> None:
    adapted = partial(HuggingFaceCausalLM, folders.language_model, lora=LoraSettings(rank=2, dropout=0.0))
    logger = RecordingLogger()
    module = make_module(folders, language_model=adapted, optimization=staged(warmup_fraction=0.0))
    seen = fit(tmp_path, module, make_batches(folders), logger=logger, callbacks=[GradientMonitor()])
    assert logger.values("learning_rate/language_model")[: START + 1] == [0.0] * START + [
        pytest.approx(RATES["language_model"])
    ]
    assert not logger.values("learning_rate/language_model/no_decay"), "adapters are matrices"
    assert len(logger.values("gradient_norm/language_model")) == STEPS - START, "none while frozen"
    changed = {name for name, value in seen.taken[0].items() if not torch.equal(value, seen.taken[-1][name])}
    assert {name for name in changed if "language_model" in name} == {
        name for name, p in module.named_parameters() if "lora_" in name
    }


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(folders: PartFolders, tmp_path: Path) -> None:
    norms = []

    class Norms(Snapshots):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    fit(tmp_path, make_module(folders), make_batches(folders), callbacks=[Norms()], gradient_clip_val=0.1)
    assert norms[1:] == pytest.approx([0.1] * (STEPS - 1), rel=1e-4)
