"""Validates with averaged weights."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from lightning_modules.interfaces import as_training_module


class AveragesInValidation(Callback):
    """Validates with the averages of ``model.optimization.averages`` instead of the weights.

    The weights are restored bit for bit when validation ends, before a checkpoint is written. Before the first
    optimizer step there are no averages, and the weights are validated.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the strategy gives access to the averages.

        Raises:
            ValueError: The strategy is DeepSpeed, which stores them in flat partitions.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "model.optimization.validate_averages does not work under DeepSpeed; leave it out there, and evaluate "
                "the averages of a checkpoint (evaluate.py --averaged)"
            )

    @torch.no_grad()
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the averages into the parameters."""
        if trainer.state.fn != "fit":
            return
        for parameter, average in as_training_module(pl_module, self).adamw.averaged():
            self._weights.append((parameter, parameter.detach().clone()))
            parameter.copy_(average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the weights."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the weights before they are saved."""
        self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, weights in self._weights:
            parameter.copy_(weights)
        self._weights = []
