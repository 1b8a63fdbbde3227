"""Parameters grouped by part, each with its own settings."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from components.sharding import is_zero3_sharded, whole_shape
from lightning_modules.optimization.adamw import PartwiseAdamW
from lightning_modules.optimization.settings import Optimization


def build_optimizer(model: nn.Module, settings: Optimization) -> PartwiseAdamW:
    """Group the trainable parameters by part and by whether they decay.

    Parts that are frozen until later are included: a strategy fixes its shards when the run begins.

    Args:
        model: Its children are the parts.
        settings: Rates and decays by part.

    Returns:
        AdamW whose groups are named ``part`` or ``part/no_decay``.

    Raises:
        ValueError: A part with trainable parameters has no rate (it would silently stay untrained), a setting names no
            part or one without trainable parameters (it would silently do nothing), or nothing trains.
    """
    groups: list[dict[str, object]] = []
    for name, part in model.named_children():
        trainable = [p for p in part.parameters() if p.requires_grad]
        rate = settings.learning_rates.get(name)
        if not trainable:
            continue
        refuse_float16(name, part)
        if rate is None:
            raise ValueError(
                f"part '{name}' has {len(trainable)} trainable tensors but no learning rate; add "
                f"'{name}' to model.optimization.learning_rates or freeze the part"
            )
        matrices = [p for p in trainable if _num_dimensions(p) >= 2]
        vectors = [p for p in trainable if _num_dimensions(p) < 2]
        for label, params, decay in (
            (name, matrices, settings.decay_of(name)),
            (f"{name}/no_decay", vectors, 0.0),
        ):
            if params:
                average = settings.averages.get(name)
                groups.append(
                    {"name": label, "params": params, "lr": rate, "weight_decay": decay, "average_decay": average}
                )
    trained = {part_of_group(group) for group in groups}
    for setting in ("learning_rates", "weight_decay", "frozen_until", "averages"):
        named = getattr(settings, setting)
        _refuse_unknown(setting, named if isinstance(named, dict) else {}, trained)
    for averaged, decay in settings.averages.items():
        if not 0.0 < decay < 1.0:
            raise ValueError(f"model.optimization.averages['{averaged}'] is {decay}; a decay must be between 0 and 1")
    return PartwiseAdamW(groups, betas=settings.betas)


def refuse_float16(name: str, part: nn.Module) -> None:
    """Refuse to train float16 weights: AdamW's epsilon of 1e-8 is 0 in float16, so updates become 0 / 0.

    Args:
        name: Name of the part, for the message.
        part: The part. Float16 weights of ZeRO-3 are accepted, because its optimizer has float32 copies.

    Raises:
        ValueError: A trainable parameter is float16.
    """
    half = [p for p in part.parameters() if p.requires_grad and p.dtype == torch.float16 and not is_zero3_sharded(p)]
    if half:
        raise ValueError(
            f"part '{name}' has {len(half)} trainable tensors in float16, in which AdamW's epsilon of 1e-8 is 0: they "
            f"would be NaN after the first step. Set model.{name}.init_args.dtype to float32, and trainer.precision to "
            "16-mixed to compute in float16 (bf16-mixed where the GPU can)"
        )


def part_of_group(group: Mapping[str, object]) -> str:
    """The part that a group of parameters belongs to."""
    return str(group["name"]).split("/")[0]


def _num_dimensions(parameter: nn.Parameter) -> int:
    """Dimensions of the complete parameter; ZeRO-3 flattens it."""
    return len(whole_shape(parameter))


def _refuse_unknown(setting: str, named: Iterable[str], trained: set[str]) -> None:
    unknown = sorted(set(named) - trained)
    if unknown:
        raise ValueError(
            f"model.optimization.{setting} names {unknown}, but only {sorted(trained)} have trainable parameters"
        )
