"""Merges LoRA adapters of a loaded language model into its weights, with peft's own rule for each kind of layer.

``components.weights.lora`` does the same for tensors of a file, without a model.
"""

from collections import Counter
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def merge_adapters_of(model: Any) -> bool:
    """Replace every layer that has an adapter by a plain layer with the merged weight, in place.

    Adapted layers become float32, because rounding the sum to half precision would change the model's results. A weight
    that two layers share (tied embeddings) is copied first, because only one of the two has the adapter. The model's
    configuration then says that they are not tied.

    Args:
        model: A Hugging Face model, with or without adapters.

    Returns:
        Whether there were adapters.

    Raises:
        ValueError: There are adapters that peft cannot merge.
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
            f"the adapters {leftover[:3]} ({len(leftover)} in all) cannot be merged into their weights; "
            "export without the language model, or train with lora.target_modules that name linear layers"
        )
    return bool(layers)


def _merged(layer: Any) -> nn.Module:
    if hasattr(layer, "unload_and_optionally_merge_module"):  # adapters of fused experts are nested
        special: nn.Module = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        return special
    layer.merge(safe_merge=True)
    base: nn.Module = layer.get_base_layer()
    return base


def _untie(layer: Any, uses: Counter[int]) -> bool:
    """Copy the weights of a layer that other layers share. Returns whether there were any."""
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
