"""Merges low-rank adapters into the weights beside which they were trained."""

import re
from collections.abc import Mapping

from torch import Tensor

_ADAPTER = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight$")


def is_adapter(name: str) -> bool:
    """Whether a tensor is one half of a low-rank adapter."""
    return _ADAPTER.match(name) is not None


def merge_adapters(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Give a state dict that peft wrapped the names and weights of the plain model.

    Every weight W with adapters A and B becomes ``W + alpha / rank * B A``, in float32: in half precision the sum
    would be rounded, and the model would not compute what it did with its adapters. Both forms that peft has written
    are read: the plain layer below ``base_layer``, or under its own name.

    Args:
        tensors: State dict with or without adapters.
        alpha: ``lora_alpha`` of the adapters' configuration; the rank is read from their shapes.

    Returns:
        A state dict without traces of peft.

    Raises:
        ValueError: An adapter lacks its other half or its weight; merging the rest would pass for the whole.
    """
    plain: dict[str, Tensor] = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.replace("base_model.model.", "")
        if match := _ADAPTER.match(name):
            adapters.setdefault(match["layer"], {})[match["side"]] = tensor
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    for layer, sides in adapters.items():
        weight = plain.get(f"{layer}.weight")
        if weight is None or len(sides) != 2:
            raise ValueError(
                f"the adapters of {layer} cannot be merged: got {sorted(f'lora_{side}' for side in sides)} and "
                f"{'no weight' if weight is None else 'a weight'}, expected lora_A, lora_B and a weight"
            )
        down, up = sides["A"].float(), sides["B"].float()  # [rank, in], [out, rank]
        plain[f"{layer}.weight"] = weight.float() + alpha / down.shape[0] * (up @ down)
    return plain
