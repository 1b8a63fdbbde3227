"""When a run saves, and which of its checkpoints it keeps."""

import json
import math
import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from components.checkpoints import atomic_folder
from components.checkpoints.atomic_folder import write_atomically
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from lightning_modules.rank_agreement import LargestOfAllRanks
from lightning_modules.run.run_folder import log_folder

LAST, BEST, FINAL = "last.ckpt", "best.ckpt", "final.ckpt"


class KeepCheckpoints(Checkpoint):
    """Saves as a run goes and keeps what is needed; nothing is written twice.

    Checkpoints are folders ``step-00000500.ckpt``; ``last.ckpt``, ``best.ckpt`` and ``final.ckpt`` are links to them.
    A run saves every so many steps, every so many minutes, after its last step, and where validation gave the best
    value so far (which ``best.json`` remembers). Checkpoints that no link points to are removed when the next one is
    complete. ``final.ckpt`` is there when training has finished.

    Args:
        every_n_steps: Optimizer steps between two checkpoints.
        every_minutes: Minutes without a checkpoint after which one is written at the end of the optimizer step, by the
            clock of whichever rank is first; None for steps alone. 500 steps may take five minutes or a day.
        keep_every_n_steps: Checkpoints after a multiple of so many steps are never removed.
        monitor: What validation logs that tells the best checkpoint, such as ``val/accuracy``.
        mode: Whether the largest or the smallest value is the best.
        frozen: Write parameters too that do not train, instead of taking them from where the parts come from.
        folder: Where to; ``checkpoints`` in the run's log folder by default.

    Raises:
        ValueError: The numbers of steps or minutes are not positive, or nothing is ever saved that is to be kept.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        every_minutes: float | None = 15.0,
        keep_every_n_steps: int | None = None,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        frozen: bool = False,
        folder: str | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps must be at least 1, got {every_n_steps}")
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(
                f"checkpoint.every_minutes must be above 0, got {every_minutes}; null saves after steps alone"
            )
        if keep_every_n_steps is not None and (keep_every_n_steps < 1 or keep_every_n_steps % every_n_steps):
            raise ValueError(
                f"checkpoint.keep_every_n_steps is {keep_every_n_steps}, which must be a multiple of every_n_steps "
                f"({every_n_steps}): other steps are not saved"
            )
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep_every_n_steps = keep_every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.frozen = frozen
        self.folder = folder
        self.best: float | None = None
        self._saved_step = 0  # after which there is a checkpoint, or from which the run went on
        self._saved_at_s = 0.0
        self._step = 0
        self._question: LargestOfAllRanks | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder.

        Raises:
            TypeError: The strategy writes other checkpoints, which nothing here reads.
        """
        if stage != "fit":
            return
        strategy = trainer.strategy
        if not isinstance(strategy, PortableCheckpoints):
            raise TypeError(
                f"trainer.strategy is {type(strategy).__name__}, whose checkpoints nothing here reads; take one of "
                "lightning_modules.strategies (configs/strategy)"
            )
        strategy.save_frozen = self.frozen
        self.folder = strategy.broadcast(self.folder or str(log_folder(trainer) / "checkpoints"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where training starts, and what is the best so far."""
        self._saved_step = self._step = trainer.global_step
        self._saved_at_s = time.monotonic()
        self._question = None
        self.best = trainer.strategy.broadcast(self._best_before(trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time, once for all batches of a step."""
        step = trainer.global_step
        if step == self._step:  # gradients are being accumulated
            return
        self._step = step
        is_late = self._is_late(trainer)
        if is_late or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where validation gave the best value so far.

        Raises:
            ValueError: Validation did not log what ``monitor`` names.
        """
        if self.monitor is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"checkpoint.monitor is {self.monitor!r}, which validation did not log; it logged "
                f"{sorted(name for name in trainer.callback_metrics if name.startswith('val/'))}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.strategy.broadcast(self._is_better(value)):
            self.best = trainer.strategy.broadcast(value)
            self.save(trainer)
            self._link(trainer, BEST)
            if trainer.is_global_zero:
                known = {"monitor": self.monitor, "value": self.best, "step": trainer.global_step}
                write_atomically(self._best_file, json.dumps(known) + "\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the end of a run that has finished; one that was stopped before has none."""
        if trainer.global_step == trainer.max_steps:
            self._link(trainer, FINAL)

    def save(self, trainer: Trainer) -> None:
        """Save now; nothing happens if the step at hand has its checkpoint."""
        if trainer.global_step != self._saved_step:
            path = self._path(trainer.global_step)
            try:
                trainer.save_checkpoint(path)
            except OSError as error:
                if error.filename is None:  # a full disk is met in the middle of a file, whose name the system forgets
                    error.filename = str(path)
                raise
            self._saved_step = trainer.global_step
            self._saved_at_s = time.monotonic()
            self._question = None  # of the time before
            self._link(trainer, LAST)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value so far."""
        self.best = state_dict["best"]

    def _is_late(self, trainer: Trainer) -> bool:
        """Whether the last checkpoint is too old; the same on all ranks, a step after the first of them sees it."""
        if self.every_minutes is None:
            return False
        is_late = time.monotonic() - self._saved_at_s >= 60 * self.every_minutes
        if trainer.world_size == 1:
            return is_late
        answer = self._question is not None and bool(self._question.answer())
        self._question = LargestOfAllRanks(int(is_late), trainer.strategy.root_device)
        return answer

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or self.best is None:
            return not math.isnan(value)
        return value > self.best if self.mode == "max" else value < self.best

    @property
    def _best_file(self) -> Path:
        assert self.folder is not None
        return Path(self.folder) / "best.json"

    def _best_before(self, step: int) -> float | None:
        """The best value up to a step; the checkpoint of its own step was written before validation told it."""
        if self._best_file.is_file():
            known = json.loads(self._best_file.read_text(encoding="utf-8"))
            if known["monitor"] == self.monitor and known["step"] <= step:
                return float(known["value"])
        return self.best

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return Path(self.folder) / f"step-{step:08d}.ckpt"

    def _link(self, trainer: Trainer, name: str) -> None:
        """Let a name lead to the checkpoint of the step at hand, and remove those that nothing leads to any more."""
        path = self._path(trainer.global_step)
        if not trainer.is_global_zero or not path.is_dir():  # a resumed run that had nothing left to do wrote none
            return
        atomic_folder.link(path.with_name(name), path)
        kept = {path.with_name(link).resolve().name for link in (LAST, BEST, FINAL)}
        for other in path.parent.glob("step-*.ckpt"):
            step = int(other.stem.removeprefix("step-"))
            is_due = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
            if other.name not in kept and not is_due:
                atomic_folder.remove(other)
