"""Logs the gradient norm of each part."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from components.sharding import has_partitioned_gradient, local_gradient
from lightning_modules.interfaces import as_training_module
from lightning_modules.logging_steps import logs_after_this_step
from lightning_modules.monitoring.rank_logging import of_all_ranks
from lightning_modules.optimization.accumulation import is_accumulating


class GradientMonitor(Callback):
    """Logs the gradient norm of every part and of all parts together, and the share that clipping removes.

    Norms are those of the averaged gradients before clipping. With FSDP2 and ZeRO a rank has only a shard of every
    gradient, so the squares of the shards are summed over the ranks. ``clipped_away`` is the share of the gradient norm
    that clipping removes: 0 if the norm is below ``trainer.gradient_clip_val``.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log at the steps that Lightning writes.

        Raises:
            TypeError: The LightningModule is another than this project's.
        """
        if not logs_after_this_step(trainer) or is_accumulating(trainer):  # DeepSpeed calls this for every batch
            return
        module = as_training_module(pl_module, self)
        rates = module.rates
        frozen = {part for part in rates.first_steps if rates.is_frozen(part, module.global_step)}
        parts = {
            name: [p for p in part.parameters() if p.requires_grad]
            for name, part in module.built.named_children()
            if name not in frozen
        }
        norms = gradient_norms(trainer, {name: trainable for name, trainable in parts.items() if trainable})
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        values = {f"gradient_norm/{name}": norm for name, norm in norms.items()} | {"gradient_norm/total": total}
        limit = _clipping_limit(trainer)
        if limit:
            values["gradient_norm/clipped_away"] = 1.0 - min(1.0, limit / max(total, limit))
        pl_module.log_dict(values)


def gradient_norms(trainer: Trainer, parts: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, float]:
    """L2 norm of the gradients of named groups of parameters.

    A collective call if gradients are sharded over ranks.

    Args:
        trainer: The trainer, before it clips and steps.
        parts: The groups.

    Returns:
        Norm of each group whose gradients are not all zero, as those of a frozen part are.
    """
    scale = float(getattr(getattr(trainer.model, "optimizer", None), "loss_scale", 1.0))  # of DeepSpeed in float16
    squares = {name: _own_squares(parameters, trainer.world_size) for name, parameters in parts.items()}
    is_partitioned = any(has_partitioned_gradient(p) for parameters in parts.values() for p in parameters)
    sums = [float(square) for square in torch.stack(list(squares.values()))] if squares else []
    if is_partitioned:
        sums = of_all_ranks(trainer, sums).sum(dim=0).tolist()
    else:
        sums = [square * trainer.world_size for square in sums]
    return {name: square**0.5 / scale for name, square in zip(squares, sums, strict=True) if square != 0.0}


def _own_squares(parameters: Iterable[nn.Parameter], world_size: int) -> Tensor:
    """This rank's part of the sum of squares over all ranks."""
    by_weight: dict[float, list[Tensor]] = {}
    device = torch.device("cpu")
    for parameter in parameters:
        gradient, weight = local_gradient(parameter, world_size)
        if gradient is not None:
            device = gradient.device
            by_weight.setdefault(weight, []).append(gradient.detach())
    total = torch.zeros((), device=device)
    for weight, gradients in by_weight.items():
        total = total + weight * torch.nn.utils.get_total_norm([each.float() for each in gradients]).square()
    return total.cpu()


def _clipping_limit(trainer: Trainer) -> float:
    """Largest norm after clipping; 0 if gradients are not clipped by norm."""
    settings: Any = trainer  # Lightning sets these where a type checker does not see them
    algorithm = settings.gradient_clip_algorithm
    return float(settings.gradient_clip_val or 0.0) if algorithm in (None, "norm") else 0.0
