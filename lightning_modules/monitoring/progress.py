"""The progress bar of training."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class TrainingProgressBar(TQDMProgressBar):
    """Lightning's progress bar without the epoch, because a run is one epoch whose length is given in steps.

    Shows what is logged with ``prog_bar=True``: the loss, samples a second, skipped steps. In a resumed run Lightning's
    own bar counts from the run's start but has no length, or that of the remaining steps.
    """

    def on_train_start(self, *args: Any) -> None:
        """Create the bar."""
        super().on_train_start(*args)
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Reset the bar; not called if the run was resumed."""
        self._begin()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged values by the last part of their names."""
        values = super().get_metrics(trainer, pl_module)
        values.pop("v_num", None)
        return {name.rsplit("/", 1)[-1]: value for name, value in values.items()}

    def _begin(self) -> None:
        trainer = self.trainer
        length = float(trainer.num_training_batches)  # of one pass
        if trainer.max_steps > 0:
            length = min(length, trainer.max_steps * trainer.accumulate_grad_batches)
        self.train_progress_bar.reset(None if math.isinf(length) else int(length))
        self.train_progress_bar.set_description("Training")
