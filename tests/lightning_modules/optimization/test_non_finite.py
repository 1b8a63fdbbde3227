import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from datamodules.batch import Batch, collate
from lightning_modules.optimization import NonFinite, Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import RATES, PartFolders, make_mixed_samples, make_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.optimization.poison import poison
from tests.lightning_modules.optimization.snapshots import Snapshots, are_equal

KINDS = ["loss and gradient", "loss", "gradient"]


def make_batches(folders: PartFolders, number: int) -> list[Batch]:
    samples = make_mixed_samples(folders)
    return [collate([samples[index % len(samples)]]) for index in range(number)]


def make_averaging_module(folders: PartFolders, **non_finite: Any) -> VideoLanguageModule:
    settings = Optimization(RATES, averages={"bridge": 0.9}, non_finite=NonFinite(**non_finite))
    return make_module(folders, optimization=settings)


def fit(folder: Path, module: VideoLanguageModule, batches: list[Batch], **trainer: Any) -> RecordingLogger:
    seed_everything(1)
    logger = RecordingLogger()
    make_trainer(folder, len(batches), logger=logger, **trainer).fit(module, make_loader(batches))
    return logger


@pytest.mark.parametrize("kind", KINDS)
def test_bad_step_leaves_weights_moments_and_averages_as_they_were(
    folders: PartFolders, tmp_path: Path, kind: str
) -> None:
    seen, module = Snapshots(), poison(make_averaging_module(folders), {1: kind})
    logger = fit(tmp_path, module, make_batches(folders, 4), callbacks=[seen], gradient_clip_val=1.0)
    unchanged = [are_equal(before, after) for before, after in zip(seen.taken[:-1], seen.taken[1:], strict=True)]
    assert unchanged == [False, True, False, False]
    assert any(name.startswith("average of model.bridge") for name in seen.taken[1])
    assert all(value.isfinite().all() for value in seen.taken[-1].values())
    assert logger.values("train/skipped_steps") == [0, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_batch_spoils_the_whole_accumulated_step(folders: PartFolders, tmp_path: Path, kind: str) -> None:
    seen, module = Snapshots(), poison(make_averaging_module(folders), {2: kind})
    seed_everything(1)
    trainer = make_trainer(tmp_path, 3, callbacks=[seen], accumulate_grad_batches=2)
    trainer.fit(module, make_loader(make_batches(folders, 6)))
    unchanged = [are_equal(before, after) for before, after in zip(seen.taken[:-1], seen.taken[1:], strict=True)]
    assert unchanged == [True, False, True, True, True, False]


def test_run_after_a_bad_step_is_the_run_without_that_batchs_update(folders: PartFolders, tmp_path: Path) -> None:
    """What follows a bad step does not depend on what was bad about it."""
    losses = []
    for kind in KINDS:
        module = poison(make_averaging_module(folders), {1: kind})
        losses.append(fit(tmp_path, module, make_batches(folders, 4)).values("train/loss")[2:])
    assert losses[0] == losses[1] == losses[2]


def test_run_stops_after_too_many_bad_steps_in_a_row_and_names_the_samples(
    folders: PartFolders, tmp_path: Path
) -> None:
    module = poison(make_averaging_module(folders, stop_after=2), {0: "loss", 2: "loss", 3: "loss"})
    with pytest.raises(
        FloatingPointError,
        match=r"2 steps in a row were skipped, the last one step 3, where the loss was not finite\. "
        r"Samples of that step: rank 0, loss nan: \['long'\]\. .*lower the learning rate",
    ):
        fit(tmp_path, module, make_batches(folders, 6))
    assert module.global_step == 4


def test_limit_of_one_stops_at_the_first_bad_gradient(folders: PartFolders, tmp_path: Path) -> None:
    module = poison(make_averaging_module(folders, stop_after=1), {0: "gradient"})
    with pytest.raises(FloatingPointError, match=r"1 step was skipped, .*the loss was finite, the gradient was not"):
        fit(tmp_path, module, make_batches(folders, 2))


def test_bad_samples_are_written_for_a_look(
    folders: PartFolders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batches = make_batches(folders, 3)
    module = poison(make_averaging_module(folders, dump=str(tmp_path / "bad")), {0: "loss", 2: "gradient"})
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, module, batches)
    assert "step 0 is skipped: loss nan, samples ['two-questions']" in caplog.text
    names = ["step-00000000-rank-0-batch-0", "step-00000002-rank-0-batch-0"]
    endings = ("json", "safetensors")
    assert sorted(path.name for path in (tmp_path / "bad").iterdir()) == [f"{n}.{e}" for n in names for e in endings]
    about = json.loads((tmp_path / "bad" / f"{names[0]}.json").read_text(encoding="utf-8"))
    assert about["loss"] == "nan"
    assert [question["key"] for question in about["questions"]] == ["two-questions"] * 2
    tensors = load_file(tmp_path / "bad" / f"{names[0]}.safetensors")
    assert tensors.keys() == set(Batch._fields) - {"questions", "left_out"}
    assert all(torch.equal(value, getattr(batches[0], name)) for name, value in tensors.items())


class SaveAfter(Callback):
    """Saves a checkpoint after some steps."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)


def test_counts_go_on_where_a_run_is_resumed(folders: PartFolders, tmp_path: Path) -> None:
    batches, bad = make_batches(folders, 5), dict.fromkeys((0, 2, 3), "loss")
    fit(tmp_path, poison(make_averaging_module(folders), bad), batches, callbacks=[SaveAfter(4, tmp_path / "4.ckpt")])
    logger = RecordingLogger()
    resumed = poison(make_averaging_module(folders, stop_after=3), {4: "loss"})
    with pytest.raises(FloatingPointError, match="3 steps in a row were skipped, the last one step 4"):
        make_trainer(tmp_path, 5, logger=logger).fit(resumed, make_loader(batches), ckpt_path=tmp_path / "4.ckpt")
    fine = make_trainer(tmp_path, 5, logger=logger)
    fine.fit(make_averaging_module(folders), make_loader(batches), ckpt_path=tmp_path / "4.ckpt")
    assert logger.values("train/skipped_steps")[-1] == 3
