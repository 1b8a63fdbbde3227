"""The callback that saves checkpoints during training and deletes those that are no longer needed."""

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
    """Saves checkpoints at regular intervals and at the best validation; deletes old ones.

    Checkpoints are folders ``step-00000500.ckpt``. The links ``last.ckpt``, ``best.ckpt`` and ``final.ckpt`` point to
    them; ``final.ckpt`` exists when training has finished. A run saves after a number of steps, after a number of
    minutes, after its last step, and when validation gives the best value so far (stored in ``best.json``). Checkpoints
    that no link points to are deleted after the next one is complete.

    Args:
        every_n_steps: Number of optimizer steps between two checkpoints.
        every_minutes: Save at the end of a step if the last checkpoint is older than this; None saves by steps only.
        keep_every_n_steps: Never delete checkpoints of steps that are a multiple of this.
        monitor: Name of a logged validation value that selects the best checkpoint, such as ``val/accuracy``.
        mode: Whether the largest (``max``) or the smallest (``min``) value is the best.
        frozen: Also store parameters that do not train. Otherwise they are loaded from the files of the parts again.
        folder: Folder of the checkpoints; by default ``checkpoints`` in the run's log folder.

    Raises:
        ValueError: The numbers of steps or minutes are not positive, or ``keep_every_n_steps`` is not a multiple of
            ``every_n_steps``.
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
        self._saved_step = 0  # step of the last checkpoint, or the step that the run resumed from
        self._saved_at_s = 0.0
        self._step = 0
        self._pending: LargestOfAllRanks | None = None  # whether the last checkpoint is too old on some rank

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder, and check the strategy.

        Raises:
            TypeError: The strategy writes checkpoints in another format, which this project cannot read.
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
        """Initialise the step and the best value so far."""
        self._saved_step = self._step = trainer.global_step
        self._saved_at_s = time.monotonic()
        self._pending = None
        self.best = trainer.strategy.broadcast(self._best_before(trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due, at most once per optimizer step."""
        step = trainer.global_step
        if step == self._step:  # the batch only accumulated gradients
            return
        self._step = step
        is_late = self._is_late(trainer)
        if is_late or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if validation gave the best value so far.

        Raises:
            ValueError: Validation did not log the value that ``monitor`` names.
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
                best = {"monitor": self.monitor, "value": self.best, "step": trainer.global_step}
                write_atomically(self._best_file, json.dumps(best) + "\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Link ``final.ckpt`` if training has finished; not if it was stopped early."""
        if trainer.global_step == trainer.max_steps:
            self._link(trainer, FINAL)

    def save(self, trainer: Trainer) -> None:
        """Save now, unless the current step already has a checkpoint."""
        if trainer.global_step != self._saved_step:
            path = self._path(trainer.global_step)
            try:
                trainer.save_checkpoint(path)
            except OSError as error:
                if error.filename is None:  # the system does not name the file when the disk is full
                    error.filename = str(path)
                raise
            self._saved_step = trainer.global_step
            self._saved_at_s = time.monotonic()
            self._pending = None  # it concerned the previous checkpoint
            self._link(trainer, LAST)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best = state_dict["best"]

    def _is_late(self, trainer: Trainer) -> bool:
        """Whether the last checkpoint is too old on some rank. All ranks get the same answer, one step later."""
        if self.every_minutes is None:
            return False
        is_late = time.monotonic() - self._saved_at_s >= 60 * self.every_minutes
        if trainer.world_size == 1:
            return is_late
        answer = self._pending is not None and bool(self._pending.answer())
        self._pending = LargestOfAllRanks(int(is_late), trainer.strategy.root_device)
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
        """The best value up to a step. Read from the file first: a checkpoint is saved before its own validation."""
        if self._best_file.is_file():
            stored = json.loads(self._best_file.read_text(encoding="utf-8"))
            if stored["monitor"] == self.monitor and stored["step"] <= step:
                return float(stored["value"])
        return self.best

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return Path(self.folder) / f"step-{step:08d}.ckpt"

    def _link(self, trainer: Trainer, name: str) -> None:
        """Point a link to the checkpoint of the current step, and delete checkpoints that no link points to."""
        path = self._path(trainer.global_step)
        if not trainer.is_global_zero or not path.is_dir():  # a finished run that is resumed writes no checkpoint
            return
        atomic_folder.link(path.with_name(name), path)
        linked = {path.with_name(link).resolve().name for link in (LAST, BEST, FINAL)}
        for other in path.parent.glob("step-*.ckpt"):
            step = int(other.stem.removeprefix("step-"))
            is_permanent = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
            if other.name not in linked and not is_permanent:
                atomic_folder.remove(other)
