"""When the callbacks log, and how they bring the figures of all ranks together."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor


def logging_interval(trainer: Trainer) -> int:
    """Optimizer steps from one log to the next; 0 for never."""
    settings: Any = trainer  # Lightning sets log_every_n_steps where a type checker does not see it
    return int(settings.log_every_n_steps)


def logs_after_this_step(trainer: Trainer) -> bool:
    """Whether the optimizer step that is under way is one after which Lightning writes what was logged."""
    every = logging_interval(trainer)
    return bool(every) and (trainer.global_step + 1) % every == 0


def of_all_ranks(trainer: Trainer, values: Sequence[float]) -> Tensor:
    """Exchange numbers, in one collective call that every rank has to make.

    Args:
        trainer: Whose ranks.
        values: This rank's n numbers.

    Returns:
        ``[ranks, n]`` float32 (not every accelerator has float64), on the CPU.
    """
    own = torch.tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    gathered: Tensor = trainer.strategy.all_gather(own)
    return gathered.reshape(-1, len(values)).cpu()
