import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.checkpoints.keeping import KeepCheckpoints
from lightning_modules.preemption import (
    EXIT_STATUS,
    INTERRUPTED_STATUS,
    SIGNALS,
    Interrupted,
    Preempted,
    Preemption,
)
from tests.fixtures_training import make_trainer
from tests.process_group import one_group_at_a_time, run_processes

NUM_BATCHES = 8


class Signalled(LightningModule):
    """Trains one number and does something before a batch."""

    def __init__(self, act: Callable[[], None], batch: int, *, stage: str = "training") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.act = act
        self.when = (stage, batch)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        if self.when == ("training", batch_index):
            self.act()
        return (self.weight - batch.float()).square().sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        if self.when == ("validation", self.global_step):
            self.act()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture(autouse=True)
def handlers(default_signals: None) -> Iterator[dict[int, Any]]:
    """What the test process does on each signal, put back after the test: a stopped run leaves its handler."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


def batches() -> DataLoader[Tensor]:
    return DataLoader(torch.ones(NUM_BATCHES))  # type: ignore[arg-type]


def fit(
    model: LightningModule, folder: Path, *more: Callback, resume: Path | None = None, **options: Any
) -> tuple[Trainer, list[str]]:
    """Train until the end or a signal; give the checkpoints that lie there afterwards."""
    callbacks = [KeepCheckpoints(folder=str(folder)), *more, Preemption()]
    settings = {"max_steps": NUM_BATCHES, "enable_checkpointing": True, "callbacks": callbacks, **options}
    trainer = make_trainer(folder, **settings)
    try:
        trainer.fit(model, batches(), batches(), ckpt_path=resume)
    except (Preempted, Interrupted) as stop:
        trainer.exit_status = stop.code  # type: ignore[attr-defined]
    return trainer, sorted(path.name for path in folder.glob("step-*.ckpt"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_run_stops_after_the_step_in_which_the_signal_came(number: int, status: int, tmp_path: Path) -> None:
    trainer, checkpoints = fit(Signalled(send(number), 2), tmp_path)
    assert trainer.global_step == 3
    assert trainer.interrupted
    assert trainer.exit_status == status  # type: ignore[attr-defined]
    assert checkpoints == ["step-00000003.ckpt"]


def test_a_resumed_run_ends_as_an_uninterrupted_one_and_leaves_only_the_end(tmp_path: Path) -> None:
    straight, first, second = (Signalled(send(signal.SIGUSR1), batch) for batch in (99, 1, 4))
    fit(straight, tmp_path / "straight")
    folder = tmp_path / "stopped"
    fit(first, folder)
    assert fit(second, folder, resume=folder / "step-00000002.ckpt")[1] == ["step-00000005.ckpt"]
    last = Signalled(send(), 99)
    assert fit(last, folder, resume=folder / "last.ckpt")[1] == ["step-00000008.ckpt"]
    assert torch.equal(last.weight, straight.weight)


@pytest.mark.parametrize(("batch", "step"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_gradients_that_are_being_accumulated_are_not_lost(batch: int, step: int, tmp_path: Path) -> None:
    trainer, checkpoints = fit(Signalled(send(signal.SIGUSR1), batch), tmp_path, accumulate_grad_batches=3)
    assert trainer.fit_loop.epoch_loop.batch_progress.total.processed == 3 * step
    assert checkpoints == [f"step-{step:08d}.ckpt"]


def test_a_signal_in_validation_is_acted_on_after_the_next_step(tmp_path: Path) -> None:
    model = Signalled(send(signal.SIGUSR1), 4, stage="validation")
    trainer, checkpoints = fit(model, tmp_path, val_check_interval=4)
    assert checkpoints == ["step-00000005.ckpt"]
    assert trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.completed == NUM_BATCHES


def test_signals_before_the_first_step_are_kept(tmp_path: Path) -> None:
    class AtStart(Callback):
        def on_fit_start(self, *_: object) -> None:
            send(signal.SIGUSR1)()

    assert fit(Signalled(send(), 99), tmp_path, AtStart())[1] == ["step-00000001.ckpt"]


def test_further_signals_harm_neither_saving_nor_leaving(tmp_path: Path) -> None:
    class Again(Callback):
        def on_save_checkpoint(self, *_: object) -> None:
            send(signal.SIGUSR1, signal.SIGTERM)()

        def on_exception(self, *_: object) -> None:
            send(*SIGNALS)()

    _, checkpoints = fit(Signalled(send(*SIGNALS, signal.SIGUSR1, signal.SIGTERM), 2), tmp_path, Again())
    assert checkpoints == ["step-00000003.ckpt"]
    send(*SIGNALS)()  # until the process is gone, its status stays its own


def test_a_run_in_its_last_step_ends(tmp_path: Path) -> None:
    trainer, checkpoints = fit(Signalled(send(signal.SIGUSR1), NUM_BATCHES - 1), tmp_path)
    assert trainer.state.finished
    assert checkpoints == ["step-00000008.ckpt"]


def test_handlers_are_put_back(tmp_path: Path, handlers: dict[int, Any]) -> None:
    during: dict[int, Any] = {}

    def look() -> None:
        during.update({number: signal.getsignal(number) for number in handlers})

    fit(Signalled(look, 2), tmp_path)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert all(isinstance(during[number].__self__, Preemption) for number in SIGNALS)


def test_a_signal_that_was_ignored_when_the_run_began_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    trainer, _ = fit(Signalled(send(signal.SIGHUP), 2), tmp_path)
    assert trainer.state.finished


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer, checkpoints = fit(Signalled(send(signal.SIGINT, signal.SIGINT), 2), tmp_path)
    assert trainer.exit_status == INTERRUPTED_STATUS  # type: ignore[attr-defined]
    assert trainer.global_step == 2
    assert checkpoints == []
    printed = capfd.readouterr().err
    assert "saving after this step" in printed
    assert "What was trained since the last checkpoint is lost" in printed


def test_ctrl_c_before_the_first_step_stops_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class AtStart(Callback):
        def on_fit_start(self, *_: object) -> None:
            send(signal.SIGINT)()

    folder = tmp_path / "run"
    trainer, checkpoints = fit(Signalled(send(), 99), folder, AtStart())
    assert (trainer.exit_status, trainer.global_step, checkpoints) == (INTERRUPTED_STATUS, 0, [])  # type: ignore[attr-defined]
    assert "nothing was trained" in capfd.readouterr().err


def test_ctrl_c_while_a_checkpoint_is_written_leaves_it_whole_and_stops(tmp_path: Path) -> None:
    class Press(Callback):
        def on_save_checkpoint(self, *_: object) -> None:
            send(signal.SIGINT)()

    class SavesOften(KeepCheckpoints):
        def __init__(self, folder: str) -> None:
            super().__init__(every_n_steps=2, folder=folder)

    trainer = make_trainer(
        tmp_path, NUM_BATCHES, enable_checkpointing=True, callbacks=[Press(), SavesOften(str(tmp_path)), Preemption()]
    )
    with pytest.raises(Preempted) as stop:
        trainer.fit(Signalled(send(), 99), batches())
    assert (stop.value.code, trainer.global_step) == (INTERRUPTED_STATUS, 2)
    assert (tmp_path / "last.ckpt" / "index.json").is_file()


def test_output_goes_nowhere_once_the_terminal_has_gone(tmp_path: Path) -> None:
    """A pseudo-terminal whose other side closes; printing to it would fail with an input/output error."""
    ours, theirs = pty.openpty()
    saved = os.dup(1)
    os.dup2(theirs, 1)
    os.close(theirs)

    def hang_up() -> None:
        os.close(ours)
        send(signal.SIGHUP)()
        os.write(1, b"still training")

    try:
        _, checkpoints = fit(Signalled(hang_up, 2), tmp_path)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert checkpoints == ["step-00000003.ckpt"]


def test_a_run_that_failed_is_ended_by_a_signal_as_if_it_had_never_listened(tmp_path: Path) -> None:
    heard: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: heard.append(number))

    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(Signalled(fail, 2), tmp_path)
    send(*SIGNALS)()
    assert heard == list(SIGNALS)


def test_without_anything_that_saves_the_run_does_not_start(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, enable_checkpointing=True, callbacks=[Preemption()])
    with pytest.raises(ValueError, match="saves through KeepCheckpoints"):
        trainer.fit(Signalled(send(), 99), batches())


@one_group_at_a_time
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.nightly), pytest.param(1, marks=pytest.mark.slow)])
def test_all_ranks_stop_at_one_step_whichever_got_the_signal(rank: int, tmp_path: Path) -> None:
    """The first rank alone need not be in every run: ``tests/test_stopping.py`` signals it with the other one."""
    run_processes("tests.lightning_modules.train_until_preempted", [str(tmp_path), str(rank), "3"], 2)
    assert [(tmp_path / f"stopped-{number}").read_text() for number in (0, 1)] == ["75 after step 5"] * 2
    assert [path.name for path in tmp_path.glob("step-*.ckpt")] == ["step-00000005.ckpt"]


@pytest.mark.parametrize("stop", [Preempted(signal.SIGTERM), Interrupted()])
def test_a_stopped_run_keeps_its_own_status_when_another_process_ends_first(
    stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({EXIT_STATUS})"])
    ended.wait()
    processes = [ended]
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=processes)
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    launcher = SimpleNamespace(procs=processes, kill=lambda number: None)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    Preemption().on_exception(trainer, None, stop)  # type: ignore[arg-type]
    assert observer._run(), "it has nothing left to observe"
    assert killed == []
