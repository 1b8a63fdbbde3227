import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

import train
from lightning_modules.preemption import SIGNALS, Preempted
from lightning_modules.run.run_folder import RefuseDifferentCheckpoints
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_training import write_run_config


def test_ranks_that_see_different_checkpoints_do_not_start() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda _: "step=2.ckpt"), global_rank=3)
    RefuseDifferentCheckpoints(Path("step=2.ckpt")).setup(trainer, None, "fit")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"rank 3 .* would go on from step=1.ckpt, the first rank from step=2.ckpt"):
        RefuseDifferentCheckpoints(Path("step=1.ckpt")).setup(trainer, None, "fit")  # type: ignore[arg-type]


class SignalAtStep(Callback):
    """Asks the run to stop in one step, and notes the steps."""

    steps: list[int] = []  # noqa: RUF012

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.steps.append(trainer.global_step)
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def config(tmp_path: Path, folders: PartFolders) -> Iterator[Path]:
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(6)))
    stop = {"class_path": f"{__name__}.SignalAtStep", "init_args": {"step": 2}}
    callbacks = [stop, {"class_path": "lightning_modules.preemption.Preemption"}]
    shards = dict.fromkeys(("train", "validation", "predict"), shard)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    yield write_run_config(tmp_path, folders, shards, callbacks=callbacks, limit_val_batches=0)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_same_command_goes_on_in_the_same_folder(config: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(config), "--trainer.max_steps=5", f"--run_folder={tmp_path}/run"]
    SignalAtStep.steps.clear()
    with pytest.raises(Preempted):
        train.main(command)
    assert (tmp_path / "run" / "checkpoints" / "step-00000003.ckpt").exists()
    cli = train.main(command)
    assert cli.trainer.global_step == 5
    assert SignalAtStep.steps == [0, 1, 2, 3, 4]
    found = {path.relative_to(tmp_path).parts[1] for path in (tmp_path / "run").rglob("*")}
    assert {name.split(".")[0] for name in found} <= {"checkpoints", "config", "events", "hparams"}
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["ckpt_path"] is None  # the file starts the run anywhere


def test_what_the_run_starts_from_is_read_once(config: Path, tmp_path: Path) -> None:
    stopping = ["fit", "-c", str(config), "--trainer.max_steps=5"]
    with pytest.raises(Preempted):
        train.main([*stopping, f"--run_folder={tmp_path}/first"])
    first = tmp_path / "first" / "checkpoints" / "step-00000003.ckpt"
    command = ["fit", "-c", str(config), f"--run_folder={tmp_path}/second", "--ckpt_path", str(first)]
    SignalAtStep.steps.clear()
    train.main([*command, "--trainer.max_steps=4"])
    train.main([*command, "--trainer.max_steps=5"])
    assert SignalAtStep.steps == [3, 4]


def test_a_logger_whose_folder_cannot_be_set_is_named(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the first of trainer\.logger is True"):
        train.main(["fit", "-c", str(config), f"--run_folder={tmp_path}/run", "--trainer.logger=true"])
