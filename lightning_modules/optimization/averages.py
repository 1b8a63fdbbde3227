"""Validates with averaged weights."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from lightning_modules.interfaces import as_training_module


class AveragesInValidation(Callback):
    """Puts the averages of ``model.optimization.averages`` in place of the weights while validation runs.

    Training goes on with the weights as they were, to the bit; a checkpoint that is written when validation ends holds
    them and not the averages. Before the first optimizer step there are no averages, and the weights are validated.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the averages are at hand.

        Raises:
            ValueError: The strategy is DeepSpeed, which keeps them in flat partitions of its own.
        """
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "model.optimization.validate_averages does not work under DeepSpeed; leave it out there, and judge the "
                "averages of a checkpoint (evaluate.py --averaged)"
            )

    @torch.no_grad()
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averages in place."""
        if trainer.state.fn != "fit":
            return
        for parameter, average in as_training_module(pl_module, self).adamw.averaged():
            self._weights.append((parameter, parameter.detach().clone()))
            parameter.copy_(average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back before anyone saves them."""
        self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, weights in self._weights:
            parameter.copy_(weights)
        self._weights = []
