"""The progress bar of training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class TrainingProgressBar(TQDMProgressBar):
    """Lightning's bar without the epoch, which counts nothing here: a run is one pass whose length is in steps.

    Shows what is logged with ``prog_bar=True``: the loss, samples a second, skipped steps.
    """

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Name the bar for what it counts."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("Training")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged values by the last part of their names."""
        values = super().get_metrics(trainer, pl_module)
        values.pop("v_num", None)
        return {name.rsplit("/", 1)[-1]: value for name, value in values.items()}
