"""Makes single training steps go wrong, the same way under every strategy."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules.video_language import VideoLanguageModule


class _NonFiniteGradient(torch.autograd.Function):
    """Hands a value on, and infinity back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


def poison(module: VideoLanguageModule, bad: Mapping[int, str], rank: int = 0) -> VideoLanguageModule:
    """Let the training steps of some batches go wrong on one rank.

    Args:
        module: Whose training steps.
        bad: Number of a batch -> ``loss and gradient`` (both NaN), ``loss`` (with a finite gradient) or ``gradient``
            (with a finite loss).
        rank: On which rank.
    """
    step = module.training_step

    def training_step(batch: Batch, batch_idx: int) -> Tensor:
        loss = step(batch, batch_idx)
        kind = bad.get(batch_idx) if module.global_rank == rank else None
        if kind == "gradient":
            poisoned: Tensor = _NonFiniteGradient.apply(loss)  # type: ignore[no-untyped-call]
            return poisoned
        if kind is not None:
            return loss * torch.nan if kind == "loss and gradient" else loss + torch.nan
        return loss

    module.training_step = training_step  # type: ignore[method-assign]
    return module
