"""Merges the adapters in a language model into its weights, by the rule of the library that put them there."""

from collections import Counter
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def merge_adapters_of(model: Any) -> bool:
    """Add adapters to the weights beside them and take them out, in place.

    The adapted layers become float32: in half precision the sum would be rounded, and the model would not compute what
    it did with its adapters. A weight that another layer uses too (tied embeddings) gets a copy first, for only one of
    the two has an adapter; the model's configuration then says that they are not tied any more.

    Args:
        model: A Hugging Face model, with or without adapters.

    Returns:
        Whether there were any.

    Raises:
        ValueError: Adapters are left that the library does not merge.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    outermost = [name for name in layers if not any(name.startswith(f"{other}.") for other in layers)]
    uses = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for name in outermost:
        layer: Any = layers[name]
        if _untie(layer, uses):
            model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
        layer.float()
        model.set_submodule(name, _merged(layer))
    leftover = [name for name in model.state_dict() if "lora_" in name]
    if leftover:
        raise ValueError(
            f"the adapters {leftover[:3]} ({len(leftover)} in all) cannot be merged into the weights beside them; "
            "export without the language model, or train with lora.target_modules that name linear layers"
        )
    return bool(layers)


def _merged(layer: Any) -> nn.Module:
    if hasattr(layer, "unload_and_optionally_merge_module"):  # of fused experts, one adapter lies in another
        special: nn.Module = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        return special
    layer.merge(safe_merge=True)
    base: nn.Module = layer.get_base_layer()
    return base


def _untie(layer: Any, uses: Counter[int]) -> bool:
    """Give a layer its own copy of weights that other layers use too; whether there were any."""
    shared = [
        (module, name, parameter)
        for module in layer.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and uses[id(parameter)] > 1
    ]
    for module, name, parameter in shared:
        copy = nn.Parameter(parameter.detach().to(torch.float32, copy=True), requires_grad=parameter.requires_grad)
        setattr(module, name, copy)
    return bool(shared)
