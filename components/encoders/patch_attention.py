"""Reads from one layer how much attention each token gets, while the model runs fused attention kernels.

Fused kernels give no attention weights. Here one layer computes the few that are needed from its queries and keys.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Kernels of transformers attention modules. The counter of operations keeps those whose names begin with sdpa.
_FROM_CLASS_TOKEN = "sdpa_and_attention_from_class_token"
_FROM_ALL_TOKENS = "sdpa_and_attention_from_all_tokens"

_read: ContextVar[list[Tensor] | None] = ContextVar("read_attention", default=None)


def read_attention_in(layer: nn.Module, *, from_class_token: bool) -> None:
    """Let one layer compute attention within ``attention_read``; it runs SDPA from now on.

    Args:
        layer: A layer of a transformers model.
        from_class_token: Whether the attention is that of the first token; else it is the mean over all tokens.
    """
    kernel = _FROM_CLASS_TOKEN if from_class_token else _FROM_ALL_TOKENS
    ALL_ATTENTION_FUNCTIONS.register(kernel, partial(_attend, from_class_token=from_class_token))
    for module in layer.modules():
        if hasattr(module, "config"):  # an attention module asks it for the name of its kernel
            config: Any = copy.copy(module.config)
            config._attn_implementation_internal = kernel
            module.config = config


@contextmanager
def attention_read() -> Iterator[list[Tensor]]:
    """Collect the attention while models run.

    Yields:
        A list. Each call of a layer that ``read_attention_in`` has prepared appends the attention that every token
        gets, mean over the heads, ``[F, tokens]`` float32.
    """
    collected: list[Tensor] = []
    mark = _read.set(collected)
    try:
        yield collected
    finally:
        _read.reset(mark)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    from_class_token: bool,
    **options: Any,
) -> Any:
    """SDPA over ``[F, heads, tokens, width]``, as transformers calls it, beside the attention that is wanted."""
    collected = _read.get()
    if collected is not None:
        if attention_mask is not None:
            raise ValueError(
                f"{type(module).__name__} masks or biases its attention, which saliency_layer does not read: leave "
                "saliency_layer out, or take CLIP, SigLIP or DINOv2"
            )
        scaling = options.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        collected.append(_attention(query[:, :, :1] if from_class_token else query, key, scaling))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention that every token gets, mean over queries and heads, ``[F, tokens]`` float32."""
    total = torch.zeros((), device=query.device)
    device = query.device.type
    # Autocast would compute in half precision; not every device has it.
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        for one_query, one_key in zip(
            query.unbind(1), key.unbind(1), strict=True
        ):  # all heads at once need much memory
            scores = (one_query.float() * scaling) @ one_key.float().transpose(1, 2)  # [F, queries, tokens]
            total = total + scores.softmax(dim=-1).mean(dim=1)
    return total / query.shape[1]
