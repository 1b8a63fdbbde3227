"""What a user sees who gives train.py or evaluate.py something wrong: one line, no traceback, status 2."""

import errno
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import train
from apps.evaluate import command as evaluate
from command_errors import REFUSED, run_and_exit
from lightning_modules.preemption import SIGNALS
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_training import write_run_config

MOST_LINES = 5


class Place(NamedTuple):
    """A folder with a config that trains for two steps."""

    folder: Path
    config: Path

    def overlay(self, content: Any) -> str:
        """Write another config file and give its path."""
        path = self.folder / "overlay.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)


@pytest.fixture
def place(tmp_path: Path, folders: PartFolders) -> Iterator[Place]:
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(6)))
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    yield Place(tmp_path, write_run_config(tmp_path, folders, dict.fromkeys(("train", "validation", "predict"), shard)))
    for number, handler in before.items():
        signal.signal(number, handler)


def said(main: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> str:
    """The last line of a command that is refused, once its form has been checked."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run_and_exit(main)
    printed = capfd.readouterr()
    text = printed.out + printed.err
    assert exit_.value.code == REFUSED, text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.strip() and "it/s]" not in line]
    assert len(lines) <= MOST_LINES, text
    assert lines[-1].startswith("error: ")
    return lines[-1]


SETTINGS: dict[str, tuple[list[str], str]] = {
    "option": (["--model.bridge.init_args.num_memry=3"], "has no option 'num_memry'; did you mean 'num_memory'?"),
    "old pooling": (
        ["--model.encoder.init_args.patch_grid=3"],
        "no option 'patch_grid' any more: the model pools patches once; set model.patch_pooling",
    ),
    "top option": (["--modle.bridge=3"], "no option modle.bridge; did you mean 'model.bridge'?"),
    "module": (["--model.bridge=components.bridges.recurent.X"], "components.bridges has no 'recurent'; did you mean"),
    "class": (
        ["--model.bridge=components.bridges.recurrent.RecurentMemoryBridge"],
        "did you mean 'RecurrentMemoryBridge'?",
    ),
    "kind of class": (["--model.bridge=components.segmenters.uniform.Uniform"], "Uniform is no VisualReader"),
    "value": (["--data.loading.batch_size=eight"], "data.loading.batch_size: got 'eight', expected int or null"),
    "size": (["--data.loading.batch_size=0"], "must be positive"),
    "file": (["-c", "nothere.yaml"], "File does not exist"),
    "logger": (["--trainer.logger=lightning.pytorch.loggers.WandbLogger"], "pip install -U 'wandb"),
    "strategy": (["--trainer.strategy=zero2"], "-c configs/strategy/"),
    "no gpu": (["--trainer.accelerator=gpu"], "Set trainer.accelerator to cpu"),
    "two gpus": (["--trainer.accelerator=cuda", "--trainer.devices=2"], "Set trainer.accelerator to cpu"),
    "interval": (["--validation.every_n_steps=0"], "validation.every_n_steps must be at least 1"),
    "minutes": (["--checkpoint.every_minutes=0"], "checkpoint.every_minutes must be above 0"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_named_with_what_to_do(
    name: str, place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments, expected = SETTINGS[name]
    if name == "logger":
        pytest.importorskip("lightning")
        monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", _Missing("wandb>=0.12.10"))
    assert expected in said(lambda: train.main(["fit", "-c", str(place.config), *arguments]), capfd)


class _Missing:
    """A requirement that is not met, as Lightning's own checks have it."""

    def __init__(self, requirement: str) -> None:
        self.requirement = requirement

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"Requirement {self.requirement!r} not met. HINT: Try running `pip install -U {self.requirement!r}`"


FILES: dict[str, tuple[Any, str]] = {
    "option of a part": ({"model": {"bridge": {"init_args": {"num_memry": 3}}}}, "did you mean 'num_memory'? (in "),
    "setting": ({"trainer": {"max_step": 3}}, "there is no setting trainer.max_step; did you mean 'max_steps'?"),
    "top": ({"modle": {"max_new_tokens": 3}}, "there is no setting modle; did you mean 'model'?"),
    "mapping without values": ({"modle": {"bridge": {}}}, "there is no setting modle; did you mean 'model'?"),
    "empty mapping below": ({"model": {"brigde": {}}}, "there is no setting model.brigde; did you mean 'bridge'?"),
    "class": (
        {"model": {"segmenter": {"class_path": "components.segmenters.uniform.Unifrom"}}},
        "has no 'Unifrom'; did you mean 'Uniform'? (in ",
    ),
    "no YAML": ("model: [1\n b: 2", "overlay.yaml, line 2, column 3 is no YAML"),
    "reference": ({"data": {"tokenizer": "${.nothing}"}}, "data.tokenizer: Interpolation key '.nothing' not found"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_key_in_a_file_is_named_with_the_file(
    name: str, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    content, expected = FILES[name]
    arguments = ["fit", "-c", str(place.config), "-c", place.overlay(content)]
    assert expected in said(lambda: train.main(arguments), capfd)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "fit,validate,test,predict"),
        (["fti"], "invalid choice: 'fti'"),
        (["fit"], "no config says model.encoder, model.language_model"),
        (["fit", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_command_that_says_too_little_is_told_what_is_missing(
    arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert expected in said(lambda: train.main(arguments), capfd)


def test_shards_that_are_not_there(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    overlay = place.overlay({"data": {"train": [{"shards": str(place.folder / "none-*.tar")}]}})
    assert "none-*.tar" in said(lambda: train.main(["fit", "-c", str(place.config), "-c", overlay]), capfd)


@pytest.mark.parametrize("name", ["none.ckpt", "shard.tar"])
def test_a_checkpoint_that_is_none(name: str, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", "-c", str(place.config), "--ckpt_path", str(place.folder / name)]
    assert name in said(lambda: train.main(arguments), capfd)
    command = ["--checkpoint", str(place.folder / name), "--data", "x", "--out", str(place.folder / "out")]
    assert name in said(lambda: evaluate.main(command), capfd)


def test_a_folder_that_another_run_writes_into(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    from lightning_modules.run.run_lock import RunLock

    lock = RunLock(place.folder / "again")
    lock.take()
    arguments = ["fit", "-c", str(place.config), f"--run_folder={place.folder}/again"]
    line = said(lambda: train.main(arguments), capfd)
    assert "is in use by process" in line
    assert f"remove {lock.path}" in line
    assert json.loads(lock.path.read_text())["pid"]
    assert [path.name for path in (place.folder / "again").iterdir()] == ["run.lock"]


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota")])
def test_a_full_disk_while_a_checkpoint_is_written(
    number: int, advice: str, place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(number, "No space left on device")

    monkeypatch.setattr("components.checkpoints.safetensors_writer.SafetensorsWriter.add", write)
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run_and_exit(lambda: train.main(["fit", "-c", str(place.config)]))
    printed = capfd.readouterr().err
    assert exit_.value.code == REFUSED
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert "step-00000002.ckpt" in last
    assert advice in last


def test_a_folder_that_cannot_be_written(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    line = said(lambda: train.main(["fit", "-c", str(place.config), "--run_folder=/proc/no/such"]), capfd)
    assert "/proc/no" in line
