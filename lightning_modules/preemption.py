"""On a signal or Ctrl-C: saves a checkpoint and stops the run, so that it can be resumed."""

import os
import signal
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.checkpoints.keeping import LAST, KeepCheckpoints
from lightning_modules.rank_agreement import LargestOfAllRanks

EXIT_STATUS = 75
"""Exit status of a run that stopped for a signal and can be resumed: EX_TEMPFAIL of BSD's ``sysexits.h``."""

INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, as in shells. A job script does not restart such a run."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Preempted(SystemExit):
    """Ends the process after a signal, without a traceback.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(INTERRUPTED_STATUS if number == signal.SIGINT else EXIT_STATUS)


class Interrupted(SystemExit):
    """Ends a run within a step, because its user pressed Ctrl-C twice."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED_STATUS)


class Preemption(Checkpoint):
    """On a signal: finish the optimizer step, save, and exit.

    ========  ==========================================================  ===========
    signal    sent by                                                     exit status
    ========  ==========================================================  ===========
    SIGUSR1   Slurm before the time limit (``--signal=USR1@120``)         75
    SIGTERM   schedulers that preempt, container runtimes, ``timeout``    75
    SIGHUP    a terminal or connection that closes (not under ``nohup``)  75
    SIGINT    Ctrl-C                                                      130
    ========  ==========================================================  ===========

    The handler only records the signal, so no step, collective call, validation or checkpoint is interrupted. Further
    signals change nothing, except a second Ctrl-C: it ends the run at once, and the training since the last checkpoint
    is lost. Before the first step, the first Ctrl-C ends the run.

    The signal may reach only one rank, or ranks at different steps. So after each step all ranks reduce the signal that
    they recorded, and read the result after the next step, when no rank has to wait for it. A run thus stops one or two
    optimizer steps after the signal, and after a validation that happens in between. Plan that time, and the time of
    writing a checkpoint, before the machine is taken away. A validation that is due after the same step is skipped. In
    its last step a run ends as if there had been no signal.

    ``KeepCheckpoints`` saves, so the checkpoint is like all others. This callback does not restart a run: the script of
    ``lightning_modules.submit`` requeues a job that exits with 75, and ``--run_folder`` finds the checkpoint.

    This callback replaces Lightning's handling of these signals, which saves in the handler, while ranks may be in
    different collective calls. It is a ``Checkpoint`` so that Lightning calls it after the other callbacks, whose state
    is then that of the step's end.

    Validation, test and prediction have nothing to save; ``EndOnSigterm`` handles their signals.
    """

    def __init__(self) -> None:
        self._received = 0
        self._is_interrupted = False
        self._terminals: list[int] = []
        self._earlier: dict[int, Any] = {}
        self._has_failed = False
        self._is_training = self._is_leaving = False
        self._question: LargestOfAllRanks | None = None
        self._step = 0
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Handle signals from now on: loading weights may take minutes.

        Raises:
            ValueError: There is no ``KeepCheckpoints`` to save.
        """
        if stage == "fit":
            _keeper(trainer)
            self._received, self._is_interrupted, self._has_failed = 0, False, False
            self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
            self._is_training = self._is_leaving = False
            self._trainer = trainer
            self._listen()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the handlers again: Lightning has set its own since ``setup``."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the handlers again, and store the step at which training starts."""
        self._listen()
        self._step = trainer.global_step
        self._question = None
        self._is_training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: stop if any rank got a signal."""
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        if self._step == trainer.max_steps:
            return
        received = self._received
        if trainer.world_size > 1:
            received = self._question.answer() if self._question is not None else 0
            self._question = LargestOfAllRanks(self._received, trainer.strategy.root_device)
        if received:
            self._stop(trainer, signal.Signals(received))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ignore signals from now on: the run is about to end."""
        self._is_leaving = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals end a run that failed; a run that was stopped still has to exit with its own status."""
        self._has_failed = not isinstance(exception, Preempted | Interrupted)
        self._is_leaving = not self._has_failed
        launcher = trainer.strategy.launcher
        if launcher is None or self._has_failed:
            return
        if isinstance(exception, Interrupted):
            launcher.kill(signal.SIGKILL)  # the processes that this one has started wait for it
        # Lightning's observer kills this process if it sees first that one of these ended with a status other than 0.
        getattr(launcher, "procs", []).clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the earlier handlers."""
        self._trainer = None
        while self._earlier:
            signal.signal(*self._earlier.popitem())

    def _listen(self) -> None:
        for number in SIGNALS:
            if number in self._earlier or signal.getsignal(number) is not signal.SIG_IGN:  # nohup; a shell's "&"
                earlier = signal.signal(number, self._note)
                self._earlier.setdefault(number, earlier or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_failed:  # Lightning has put this handler back after on_exception
            signal.signal(number, self._earlier[number])
            signal.raise_signal(number)
        if self._is_leaving:
            return
        if number == signal.SIGHUP:
            self._leave_terminals()
        if number == signal.SIGINT:
            self._interrupt()
        self._received = self._received or number

    def _interrupt(self) -> None:
        if not self._is_training:
            self._say("Stopped by Ctrl-C before the first step: nothing was trained, and nothing saved")
            raise Interrupted
        if self._is_interrupted:
            last = f"{_keeper(self._trainer).folder}/{LAST}" if self._trainer else LAST
            self._say(f"Stopped at once. What was trained since the last checkpoint is lost; go on from {last}, if any")
            raise Interrupted
        self._say(
            "Ctrl-C: saving after this step (and after a validation that runs), then stopping. Once more stops at "
            "once, without saving"
        )
        self._is_interrupted = True

    def _leave_terminals(self) -> None:
        """Discard further output: writing to a closed terminal raises an error, which would end the run."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in self._terminals:
            os.dup2(nowhere, stream)
        os.close(nowhere)

    def _say(self, line: str) -> None:
        """Print in a signal handler, which may have interrupted another print."""
        if self._trainer is None or self._trainer.is_global_zero:
            os.write(2, f"\n{line}\n".encode())

    def _stop(self, trainer: Trainer, number: signal.Signals) -> None:
        keeper = _keeper(trainer)
        keeper.save(trainer)
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        stop, self._is_leaving = Preempted(number), True
        rank_zero_info(
            f"Stopped by {name} after step {trainer.global_step}, to go on from {keeper.folder}/{LAST}. Exit status "
            f"{stop.code}: the run is not at its end"
        )
        raise stop


class EndOnSigterm(Callback):
    """Lets SIGTERM end validation, test and prediction; Lightning's own handler would ignore it there.

    The answers so far are in the file of predictions. Ctrl-C ends them without this callback.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the default handler, unless the validation is within training."""
        if trainer.state.fn != "fit":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the default handler."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the default handler."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _keeper(trainer: Trainer) -> KeepCheckpoints:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, KeepCheckpoints)]
    if not callbacks:
        raise ValueError("Preemption saves through KeepCheckpoints, which is not among the callbacks; add it")
    return callbacks[0]
