"""Freezes parts of the model until the step at which they begin to train."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lightning_modules.interfaces import TrainingModule, as_training_module


class Freezing(Callback):
    """Zeroes the gradients of parts that are frozen by ``model.optimization.frozen_until``.

    DDP, FSDP and ZeRO fix their buckets, shards and partitions from ``requires_grad`` when the run begins, so it cannot
    change later. Frozen parts therefore get gradients too. These are zeroed before they are summed, reduced, clipped
    or measured, and the optimizer skips groups at rate zero. The weights of frozen parts do not change, and the other
    parts are clipped by their own norm, under every strategy.

    This saves the memory of the moments, but neither memory nor time of the gradients. To save these too, use two runs:
    one with the part frozen (``freeze: true``), and one that begins with ``model.initial_weights``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Zero the gradients of frozen parts from now on."""
        module = as_training_module(pl_module, self)
        for part in module.rates.first_steps:
            for parameter in _trainable(module.built.get_submodule(part)):
                parameter.register_hook(partial(_zero_while_frozen, module, part))  # type: ignore[no-untyped-call]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Remove the gradients: hooks of FSDP's sharded parameters are not called."""
        module = as_training_module(pl_module, self)
        for part in module.rates.first_steps:
            if module.rates.is_frozen(part, module.global_step):
                for parameter in _trainable(module.built.get_submodule(part)):
                    parameter.grad = None


def _trainable(part: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]


def _zero_while_frozen(module: TrainingModule, part: str, gradient: Tensor) -> Tensor:
    # Not a product with zero, because NaN * 0 is NaN.
    return torch.zeros_like(gradient) if module.rates.is_frozen(part, module.global_step) else gradient
