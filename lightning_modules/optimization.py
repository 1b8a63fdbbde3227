"""Optimizer and learning-rate schedule, set part by part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class Optimization:
    """Settings of AdamW and of the warm-up + cosine schedule.

    Args:
        learning_rates: Peak learning rate of every part that trains (``bridge``, ``language_model``, ``encoder``).
        weight_decay: Decay of tensors of two dimensions or more; biases, norms and gates are not decayed.
        betas: AdamW's moment factors.
        warmup_fraction: Share of the steps in which the rate climbs linearly.
        final_fraction: Share of the peak that the cosine ends at.
    """

    learning_rates: dict[str, float] = field(default_factory=lambda: {"bridge": 2e-4, "language_model": 2e-5})
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: float = 0.03
    final_fraction: float = 0.0


def build_optimizer(model: nn.Module, settings: Optimization) -> Optimizer:
    """Group the trainable parameters by part and by whether they decay.

    Args:
        model: Its children are the parts.
        settings: Rates by part.

    Returns:
        AdamW whose groups are named ``part`` or ``part/no_decay``.

    Raises:
        ValueError: A part with trainable parameters has no rate (it would silently stay untrained), a rate names no
            part or one without trainable parameters (it would silently do nothing), or nothing trains.
    """
    groups: list[dict[str, object]] = []
    for name, part in model.named_children():
        trainable = [p for p in part.parameters() if p.requires_grad]
        rate = settings.learning_rates.get(name)
        if not trainable:
            continue
        if rate is None:
            raise ValueError(
                f"part '{name}' has {len(trainable)} trainable tensors but no learning rate; add "
                f"'{name}' to model.optimization.learning_rates or freeze the part"
            )
        matrices = [p for p in trainable if p.ndim >= 2]
        vectors = [p for p in trainable if p.ndim < 2]
        for label, params, decay in (
            (name, matrices, settings.weight_decay),
            (f"{name}/no_decay", vectors, 0.0),
        ):
            if params:
                groups.append({"name": label, "params": params, "lr": rate, "weight_decay": decay})
    trained = {str(group["name"]).split("/")[0] for group in groups}
    unused = sorted(set(settings.learning_rates) - trained)
    if unused:
        raise ValueError(
            f"model.optimization.learning_rates names {unused}, but only {sorted(trained)} have trainable parameters"
        )
    return AdamW(groups, betas=settings.betas)


def build_schedule(optimizer: Optimizer, settings: Optimization, num_steps: int) -> LambdaLR:
    """Linear warm-up, then a cosine to ``final_fraction``, both counted in optimizer steps.

    Args:
        optimizer: What to schedule.
        settings: Warm-up and final share.
        num_steps: Optimizer steps of the whole run.

    Returns:
        A scheduler to step once an optimizer step.

    Raises:
        ValueError: ``num_steps`` is not positive; the schedule would have no end to aim at.
    """
    if num_steps < 1:
        raise ValueError(f"the schedule needs the number of optimizer steps, got {num_steps}; set trainer.max_steps")
    warmup = max(1, round(num_steps * settings.warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return settings.final_fraction + (1.0 - settings.final_fraction) * cosine

    return LambdaLR(optimizer, factor)


def gradient_norm(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all gradients there are; zero without any."""
    norms = [p.grad.detach().float().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())
