"""Parameters grouped by part, each with its own settings."""

from collections.abc import Iterable, Mapping

from torch import nn

from lightning_modules.optimization.adamw import PartwiseAdamW
from lightning_modules.optimization.settings import Optimization


def build_optimizer(model: nn.Module, settings: Optimization) -> PartwiseAdamW:
    """Group the trainable parameters by part and by whether they decay.

    Parts that are frozen until later are in it from the start: a strategy lays out its shards once, when the run
    begins.

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
    trained = {part_of(group) for group in groups}
    for setting in ("learning_rates", "weight_decay", "frozen_until", "averages"):
        named = getattr(settings, setting)
        _refuse_unknown(setting, named if isinstance(named, dict) else {}, trained)
    for averaged, decay in settings.averages.items():
        if not 0.0 < decay < 1.0:
            raise ValueError(f"model.optimization.averages['{averaged}'] is {decay}; a decay lies between 0 and 1")
    return PartwiseAdamW(groups, betas=settings.betas)


def part_of(group: Mapping[str, object]) -> str:
    """The part that a group of parameters belongs to."""
    return str(group["name"]).split("/")[0]


def _num_dimensions(parameter: nn.Parameter) -> int:
    """Dimensions of the whole parameter; under ZeRO-3 it looks flat, and DeepSpeed keeps its shape beside it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _refuse_unknown(setting: str, named: Iterable[str], trained: set[str]) -> None:
    unknown = sorted(set(named) - trained)
    if unknown:
        raise ValueError(
            f"model.optimization.{setting} names {unknown}, but only {sorted(trained)} have trainable parameters"
        )
