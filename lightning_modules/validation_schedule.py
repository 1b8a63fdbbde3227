"""Decides after which optimizer steps a run validates, and logs its passes over the data."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lightning_modules.logging_steps import logging_interval


class ValidationSchedule(Callback):
    """Validates every ``every_n_steps`` optimizer steps, and after the last one.

    Lightning counts batches or epochs; a run here is one epoch, so it would validate only at the end. If
    ``trainer.val_check_interval`` is set, it is used instead, and the last step is still followed by a validation.

    Also logs ``epoch``, the passes over the training data. Lightning's own value stays 0 here.

    Args:
        every_n_steps: Optimizer steps between two validations; None = only at the end.

    Raises:
        ValueError: The number of steps is not positive.
    """

    def __init__(self, every_n_steps: int | None = 500) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"validation.every_n_steps must be at least 1, got {every_n_steps}; null validates at the end alone"
            )
        self.every_n_steps = every_n_steps
        self._follows_trainer = False
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store where training starts and whether the trainer has an interval of its own."""
        settings: Any = trainer
        self._follows_trainer = settings.val_check_interval != 1.0 or settings._val_check_time_interval is not None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell Lightning whether to validate after this batch."""
        step, is_new = trainer.global_step, trainer.global_step != self._step
        self._step = step
        every = logging_interval(trainer)
        if is_new and every and step % every == 0:
            self._log_passes(trainer, pl_module)
        is_last = is_new and step == trainer.max_steps
        is_due = is_new and self.every_n_steps is not None and step % self.every_n_steps == 0
        loop: Any = trainer  # Lightning sets val_check_batch where a type checker does not see it
        if is_last or (is_due and not self._follows_trainer):
            loop.val_check_batch = 1  # after every batch, so after this one
            loop._last_val_time = -math.inf  # if the interval is a time, it has passed
        elif not self._follows_trainer:
            loop.val_check_batch = math.inf  # only after the epoch's last batch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the passes together with the scores."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log_passes(trainer, pl_module)

    @staticmethod
    def _log_passes(trainer: Trainer, module: LightningModule) -> None:
        batches_a_pass = getattr(getattr(trainer, "datamodule", None), "batches_per_pass", 0)
        if batches_a_pass:
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.total  # Lightning types it too narrowly
            module.log("epoch", done.processed / batches_a_pass)
