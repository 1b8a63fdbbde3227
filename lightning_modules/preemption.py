"""Stops a run that must leave its machine at the end of a step, with a checkpoint to go on from."""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.checkpoints.keeping import LAST, KeepCheckpoints

EXIT_STATUS = 75
"""Of a run that stopped for a signal and can go on: the EX_TEMPFAIL of BSD's ``sysexits.h``, "try again"."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(SystemExit):
    """Ends the process with ``EXIT_STATUS`` and no traceback."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class Preemption(Checkpoint):
    """On SIGUSR1 or SIGTERM: finish the optimizer step, save, and exit with status 75.

    Slurm warns with SIGUSR1 before the time limit (``--signal=USR1@120``); preempting schedulers and container
    runtimes send SIGTERM. The handler only notes the signal, so nothing is ever cut in two: not a step, a collective,
    a validation nor the writing of a checkpoint. Further signals change nothing. Ctrl-C is left alone.

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
    """

    def __init__(self) -> None:
        self._received = 0
        self._earlier: dict[int, Any] = {}
        self._has_failed = False
        self._question: _LargestOfAllRanks | None = None
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen from here on: loading weights may take minutes.

        Raises:
            ValueError: There is no ``KeepCheckpoints`` to save.
        """
        if stage == "fit":
            _keeper(trainer)
            self._received, self._has_failed = 0, False
            self._listen()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen in place of Lightning, which has put handlers of its own since ``setup``."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen as above, and note where training starts."""
        self._listen()
        self._step = trainer.global_step
        self._question = None

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
            self._question = _LargestOfAllRanks(self._received, trainer.strategy.root_device)
        if received:
            self._stop(trainer, signal.Signals(received).name)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let signals end a run that has failed; one that was stopped still has to leave with its own status."""
        self._has_failed = not isinstance(exception, Preempted)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the handlers back that were there before."""
        while self._earlier:
            signal.signal(*self._earlier.popitem())

    def _listen(self) -> None:
        for number in SIGNALS:
            earlier = signal.signal(number, self._note)
            self._earlier.setdefault(number, earlier or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_failed:  # Lightning has put this handler back after on_exception
            signal.signal(number, self._earlier[number])
            signal.raise_signal(number)
        self._received = number

    def _stop(self, trainer: Trainer, name: str) -> None:
        keeper = _keeper(trainer)
        keeper.save(trainer)
        rank_zero_info(
            f"Stopped by {name} after step {trainer.global_step}, to go on from {keeper.folder}/{LAST}. Exit status "
            f"{EXIT_STATUS}: the run is not at its end"
        )
        raise Preempted


class _LargestOfAllRanks:
    """The largest of the numbers that the ranks gave, without making anyone wait while it is found.

    Args:
        number: This rank's.
        device: Where the process group communicates.
    """

    def __init__(self, number: int, device: torch.device) -> None:
        self._result = torch.full((1,), number, dtype=torch.int32, device=device)
        self._work = torch.distributed.all_reduce(self._result, torch.distributed.ReduceOp.MAX, async_op=True)
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            # Reading it from the device later would wait for all that is queued there by then.
            self._work.wait()
            self._result = torch.empty(1, dtype=torch.int32, pin_memory=True).copy_(self._result, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def answer(self) -> int:
        """The largest number."""
        if self._arrived is None:
            self._work.wait()
        else:
            self._arrived.synchronize()
        return int(self._result)


def _keeper(trainer: Trainer) -> KeepCheckpoints:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, KeepCheckpoints)]
    if not callbacks:
        raise ValueError("Preemption saves through KeepCheckpoints, which is not among the callbacks; add it")
    return callbacks[0]
