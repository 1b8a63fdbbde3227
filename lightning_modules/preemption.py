"""Stops a run that must leave its machine, or whose user presses Ctrl-C, with a checkpoint to go on from."""

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
"""Of a run that stopped for a signal and can go on: the EX_TEMPFAIL of BSD's ``sysexits.h``, "try again"."""

INTERRUPTED_STATUS = 130
"""Of a run that its user stopped with Ctrl-C, as shells have it: whatever starts runs again leaves this one alone."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Preempted(SystemExit):
    """Ends the process after a signal, with no traceback.

    Args:
        number: The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(INTERRUPTED_STATUS if number == signal.SIGINT else EXIT_STATUS)


class StoppedAtOnce(SystemExit):
    """Ends a run in the middle of a step: its user would not wait for the end of it."""

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

    The handler only notes the signal, so nothing is ever cut in two: not a step, a collective, a validation nor the
    writing of a checkpoint. Further signals change nothing, but for a second Ctrl-C: it ends the run at once, and what
    was trained since the last checkpoint is lost. So does the first one where nothing has been trained yet.

    The signal may reach one rank only, or ranks at different steps. So after each step all ranks reduce what they have
    noted, and look at the result after the step that follows, when it has long arrived: nobody waits for it. A run thus
    stops one or two optimizer steps after the signal, later by a validation that falls between; leave that much time,
    and that for the checkpoint, before the machine is taken. A validation that was due in the very step is left out. In
    its last step a run rather ends than stops.

    ``KeepCheckpoints`` saves, so the checkpoint is one like all others. Starting again is the caller's affair: the
    script of ``lightning_modules.submit`` requeues a job that exits with 75, and ``--run_folder`` finds the checkpoint.

    With this callback, Lightning's own handling of these signals is out of use: it saves in the handler, where ranks
    may stand in different collectives. As one that has checkpoints written, it comes after the other callbacks, so that
    their state is that of the step's end.

    Validation, test and prediction have nothing to save; ``EndsAtOnce`` is for them.
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
        """Listen from here on: loading weights may take minutes.

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
        """Listen in place of Lightning, which has put handlers of its own since ``setup``."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen as above, and note where training starts."""
        self._listen()
        self._step = trainer.global_step
        self._question = None
        self._is_training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: stop if a rank was asked to."""
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
        """Let no signal cut off what little is left to do."""
        self._is_leaving = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals end a run that has failed; one that was stopped still has to leave with its own status."""
        self._has_failed = not isinstance(exception, Preempted | StoppedAtOnce)
        self._is_leaving = not self._has_failed
        launcher = trainer.strategy.launcher
        if isinstance(exception, StoppedAtOnce) and launcher is not None:
            launcher.kill(signal.SIGKILL)  # the processes that this one has started wait for it

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the handlers back that were there before."""
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
            raise StoppedAtOnce
        if self._is_interrupted:
            last = f"{_keeper(self._trainer).folder}/{LAST}" if self._trainer else LAST
            self._say(f"Stopped at once. What was trained since the last checkpoint is lost; go on from {last}, if any")
            raise StoppedAtOnce
        self._say(
            "Ctrl-C: saving after this step (and after a validation that runs), then stopping. Once more stops at "
            "once, without saving"
        )
        self._is_interrupted = True

    def _leave_terminals(self) -> None:
        """Have what is still printed go nowhere: writing to a terminal that is gone fails, and the run would too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in self._terminals:
            os.dup2(nowhere, stream)
        os.close(nowhere)

    def _say(self, line: str) -> None:
        """Print from within a handler, which may have interrupted a print or the writing of a log."""
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


class EndsAtOnce(Callback):
    """Has SIGTERM end validation, test and prediction: Lightning's own handler notes it, and nothing looks at the note.

    What has been answered is in the file of predictions. Ctrl-C ends them in any case.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unless it is a validation within training."""
        if trainer.state.fn != "fit":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See the class."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See the class."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _keeper(trainer: Trainer) -> KeepCheckpoints:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, KeepCheckpoints)]
    if not callbacks:
        raise ValueError("Preemption saves through KeepCheckpoints, which is not among the callbacks; add it")
    return callbacks[0]
