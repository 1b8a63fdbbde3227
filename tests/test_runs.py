"""What a training run does of itself, through the real command line: defaults, validation, summaries, folders."""

import contextlib
import shlex
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import train
from apps.evaluate import command as evaluate
from lightning_modules.preemption import SIGNALS, Preemption
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_training import write_run_config


class ValidatedSteps(Callback):
    """Notes after which steps the run validated."""

    steps: list[int] = []  # noqa: RUF012

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


@pytest.fixture
def config(tmp_path: Path, folders: PartFolders, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    ValidatedSteps.steps.clear()
    monkeypatch.chdir(tmp_path)
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(6)))
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    yield write_run_config(tmp_path, folders, dict.fromkeys(("train", "validation", "predict"), shard))
    for number, handler in before.items():
        signal.signal(number, handler)


NOTE = f"--trainer.callbacks+={__name__}.ValidatedSteps"


def test_the_defaults_hold_wherever_the_command_is_run_and_without_being_named(config: Path) -> None:
    cli = train.main(["fit", "-c", str(config), "--trainer.limit_val_batches=0"])
    assert any(isinstance(callback, Preemption) for callback in cli.trainer.callbacks)  # type: ignore[attr-defined]
    settings = cli.config["fit"]
    assert settings.checkpoint.every_minutes == 15
    assert settings.validation.every_n_steps == 500


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([], [5]),
        (["--validation.every_n_steps=2"], [2, 4, 5]),
        (["--validation.every_n_steps=2", "--trainer.accumulate_grad_batches=2"], [2, 4, 5]),
        (["--trainer.val_check_interval=3"], [3, 5]),
    ],
)
def test_a_run_validates_at_its_interval_and_after_the_last_step(
    options: list[str], steps: list[int], config: Path
) -> None:
    cli = train.main(["fit", "-c", str(config), "--trainer.max_steps=5", NOTE, *options])
    assert ValidatedSteps.steps == steps
    assert float(cli.trainer.callback_metrics["epoch"]) == cli.trainer.fit_loop.total_batch_idx / 2 + 0.5


def test_the_beginning_says_what_is_trained_and_the_end_gives_a_command_that_runs(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cli = train.main(["fit", "-c", str(config)])
    said = "\n".join(caplog.messages)
    folder = cli.trainer.log_dir
    for expected in (
        "6 samples, 2 steps = 1 passes",
        "3 samples a batch",
        "encoder: 0 parameters train, ",
        "bridge: ",
        f"tensorboard --logdir {folder}",
        "Finished after step 2",
        "val/accuracy: ",
        f"{folder}/checkpoints (final.ckpt, last.ckpt)",
    ):
        assert expected in said
    command = shlex.split(next(line for line in said.splitlines() if "evaluate.py" in line))
    assert command[:2] == ["python", "evaluate.py"]
    evaluate.main(command[2:])
    assert (Path(str(folder)) / "evaluation" / "report.md").is_file()


def test_an_evaluation_without_a_folder_writes_nothing(config: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(tmp_path / "elsewhere"):
        train.main(["validate", "-c", str(config), "--trainer.logger", "false"])
        assert not list(Path.cwd().iterdir())
    train.main(["validate", "-c", str(config), "--trainer.logger", "false", "--run_folder", str(tmp_path / "named")])
    assert (tmp_path / "named" / "config.yaml").is_file()


def test_nothing_foreign_is_printed_that_is_understood(
    config: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as raised:
        train.main(["fit", "-c", str(config), "--trainer.limit_val_batches=0"])
    printed = capfd.readouterr()
    text = "\n".join([printed.out, printed.err, *caplog.messages, *(str(warning.message) for warning in raised)])
    noise = [
        "litlogger",
        "TPU available",
        "LeafSpec",
        "in eval mode",
        "weights_only",
        "MFU",
        "FLOPs",
        "logging interval",
    ]
    assert [name for name in noise if name in text] == []


def test_a_finished_run_that_is_started_again_says_how_to_train_for_longer(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["fit", "-c", str(config), f"--run_folder={tmp_path}/run", "--trainer.limit_val_batches=0"]
    train.main(command)
    train.main(command)
    assert "Nothing was trained: the run is at its end" in caplog.text


def test_an_evaluation_of_random_weights_warns_and_writes_beside_the_runs(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = train.main(["predict", "-c", str(config)])
    assert "WARNING: no --ckpt_path was given, so predict runs with random weights of bridge" in caplog.text
    caplog.clear()
    assert cli.trainer.log_dir == f"{tmp_path}/run/predict_0"
    assert not (tmp_path / "run" / "version_0").exists()
    train.main(["fit", "-c", str(config), "--trainer.limit_val_batches=0"])
    last = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    cli = train.main(["validate", "-c", str(config), "--ckpt_path", str(last)])
    assert "no --ckpt_path" not in caplog.text
    assert cli.trainer.log_dir == f"{tmp_path}/run/validate_0"
    printed = caplog.text + capsys.readouterr().out
    assert all(f"\n  {name}: {float(value):.4g}\n" in printed for name, value in cli.trainer.callback_metrics.items())
    caplog.clear()
    train.main(["validate", "-c", str(config), "--ckpt_path", str(last), "--verbose", "false"])
    assert "Scores" not in caplog.text + capsys.readouterr().out
