"""Streams that training leaves out follow from the number of the batch alone, so a resumed run goes on as before."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

import train
from components.stream_dropout import StreamDropout
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_streams import with_streams
from tests.fixtures_training import write_run_config

DROPOUT = {"rates": {"frames": 0.5}, "seed": 3}


class Steps(Callback):
    """Notes the loss of every batch and saves after the third step."""

    losses: list[float] = []  # noqa: RUF012
    checkpoint: Path | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        is_last_of_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.checkpoint is not None and trainer.global_step == 3 and is_last_of_step:
            trainer.save_checkpoint(self.checkpoint)


def losses_of(config: Path, batches_a_step: int, *options: str) -> list[float]:
    """Train six steps; the loss of every batch."""
    Steps.losses.clear()
    six_steps = ["--trainer.max_steps=6", f"--trainer.accumulate_grad_batches={batches_a_step}"]
    note = [f"--trainer.callbacks+={__name__}.Steps", "--trainer.limit_val_batches=0"]
    train.main(["fit", "-c", str(config), *six_steps, *note, *options])
    return list(Steps.losses)


@pytest.mark.parametrize("batches_a_step", [1, 2])
def test_resumed_run_with_stream_dropout_has_the_losses_of_the_uninterrupted_one(
    batches_a_step: int, tmp_path: Path, folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(12)))
    config = write_run_config(tmp_path, folders, dict.fromkeys(("train", "validation", "predict"), shard))
    schedule = {"class_path": "components.stream_dropout.StreamDropout", "init_args": DROPOUT}
    dropping = with_streams(config, stream_schedule=schedule)
    monkeypatch.setattr(Steps, "checkpoint", tmp_path / "half.ckpt")
    complete = losses_of(dropping, batches_a_step)
    monkeypatch.setattr(Steps, "checkpoint", None)
    num_batches, half = 6 * batches_a_step, 3 * batches_a_step
    drawn = [bool(StreamDropout(**DROPOUT).left_out(number)) for number in range(num_batches)]
    assert {*drawn[:half]} == {*drawn[half:]} == {True, False}
    assert len(complete) == num_batches
    assert losses_of(dropping, batches_a_step, f"--ckpt_path={tmp_path / 'half.ckpt'}") == complete[half:]
    without_dropout = losses_of(with_streams(config), batches_a_step)
    first = drawn.index(True)
    assert without_dropout[:first] == complete[:first]
    assert without_dropout[first] != complete[first]
