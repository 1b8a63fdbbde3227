"""Keeps parts as they are until their time to train has come."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lightning_modules.interfaces import TrainingModule, as_training_module


class Freezing(Callback):
    """Takes the gradients of parts that ``model.optimization.frozen_until`` still holds back.

    What is held back cannot be told to the strategies by ``requires_grad``: DDP's buckets, FSDP's shards and ZeRO's
    flat partitions are laid out once, from the parameters that need gradients when the run begins. So these parts do
    get gradients, which are made zero before anyone adds, reduces, clips or measures them; and the optimizer leaves
    out groups at rate zero. The weights stay equal to the bit, without decay or moments, and the parts that do train
    are clipped by their own norm, under every strategy.

    It saves the moments until then, but neither the gradients' memory nor their computing. Where that counts, use two
    runs: one with the part frozen (``freeze: true``), and one that begins with ``model.initial_weights``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the gradients of the frozen parts at zero."""
        module = as_training_module(pl_module, self)
        for part in module.rates.first_steps:
            for parameter in _trainable(module.built.get_submodule(part)):
                parameter.register_hook(partial(_zero_while_frozen, module, part))  # type: ignore[no-untyped-call]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Drop them: hooks of FSDP's sharded parameters are not called, its gradients come another way."""
        module = as_training_module(pl_module, self)
        for part in module.rates.first_steps:
            if module.rates.is_frozen(part, module.global_step):
                for parameter in _trainable(module.built.get_submodule(part)):
                    parameter.grad = None


def _trainable(part: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]


def _zero_while_frozen(module: TrainingModule, part: str, gradient: Tensor) -> Tensor:
    # Zeros and not a product with zero, which would keep NaN.
    return torch.zeros_like(gradient) if module.rates.is_frozen(part, module.global_step) else gradient
