"""Merges LoRA adapters of linear layers into their weights, for the tensors of a file, without a model.

For a loaded model, ``components.language.adapters`` merges adapters of any kind of layer.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_ADAPTER = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight$")
_ADVICE = (
    "From a checkpoint of a training run, `python -m lightning_modules.export CKPT OUT --merge-adapters` merges all "
    "kinds of layers; else merge with the tool that trained them (peft: merge_and_unload)"
)


def is_adapter(name: str) -> bool:
    """Whether a tensor is part of a LoRA adapter of any kind of layer."""
    return "lora_" in name


def merge_adapters(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Convert the state dict of a model with peft adapters to that of the plain model.

    Every weight W ``[out, in]`` with adapters A and B becomes ``W + alpha / rank * B A``, in float32, because rounding
    the sum to half precision would change the model's results. Both of peft's naming schemes are accepted: the plain
    layer under ``base_layer``, or under its own name.

    Args:
        tensors: State dict with or without adapters.
        alpha: ``lora_alpha`` of the adapters' configuration; the rank is read from their shapes.

    Returns:
        A state dict with the plain model's names.

    Raises:
        ValueError: An adapter is incomplete, has no weight to merge into, or does not belong to an ``nn.Linear``. No
            adapter is merged then.
    """
    plain: dict[str, Tensor] = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.replace("base_model.model.", "")
        if match := _ADAPTER.match(name):
            adapters.setdefault(match["layer"], {})[match["side"]] = tensor
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    _refuse_other_kinds(plain)
    stores_transposed = bool(adapters) and _stores_transposed_weights(plain)
    for layer, sides in adapters.items():
        weight = plain.get(f"{layer}.weight")
        if weight is None or len(sides) != 2:
            raise ValueError(
                f"the adapters of {layer} cannot be merged: got {sorted(f'lora_{side}' for side in sides)} and "
                f"{'no weight' if weight is None else 'a weight'}, expected lora_A, lora_B and a weight"
            )
        down, up = sides["A"].float(), sides["B"].float()  # [rank, in], [out, rank]
        expected = [up.shape[0], down.shape[1]]
        if list(weight.shape) != expected or (stores_transposed and expected[0] == expected[1]):
            raise ValueError(
                f"the adapters of {layer} cannot be merged: its weight {list(weight.shape)} beside adapters for "
                f"{expected} is not that of an nn.Linear (GPT-2's Conv1D stores weights transposed). {_ADVICE}"
            )
        plain[f"{layer}.weight"] = weight.float() + alpha / down.shape[0] * (up @ down)
    return plain


def _refuse_other_kinds(plain: Mapping[str, Tensor]) -> None:
    leftover = [name for name in plain if is_adapter(name)]
    if leftover:
        raise ValueError(
            f"{len(leftover)} tensors are adapters of other layers than nn.Linear, or of another kind than plain LoRA, "
            f"such as {leftover[0]}: they cannot be merged here, and without them the model's results would differ. "
            f"{_ADVICE}"
        )


def _stores_transposed_weights(plain: Mapping[str, Tensor]) -> bool:
    """Whether weights are stored as ``[in, out]`` (GPT-2's Conv1D), which shows in the length of a bias."""
    for name, weight in plain.items():
        bias = plain.get(f"{name.removesuffix('weight')}bias") if name.endswith(".weight") else None
        if bias is not None and weight.dim() == 2 and bias.shape[0] == weight.shape[1] != weight.shape[0]:
            return True
    return False
