"""Gathers the numbers of all ranks for the callbacks."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor


def of_all_ranks(trainer: Trainer, values: Sequence[float]) -> Tensor:
    """Gather numbers of all ranks: a collective call, which every rank must make.

    Args:
        trainer: The trainer of the run.
        values: This rank's n numbers.

    Returns:
        ``[ranks, n]`` float32 (not every accelerator has float64), on the CPU.
    """
    own = torch.tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    gathered: Tensor = trainer.strategy.all_gather(own)
    return gathered.reshape(-1, len(values)).cpu()
