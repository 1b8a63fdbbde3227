"""Runs a bridge's transformer layers over one segment: memory tokens and patch tokens attend to each other."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.bridges.layers.padding import context_mask


class SegmentTokens(NamedTuple):
    """The tokens of one segment of every video after the bridge's layers."""

    memory: Tensor  # [V, M, D] memory tokens after the last layer
    last_input: Tensor  # [V, M + P, D] memory and patch tokens, input of the last layer
    token_mask: Tensor  # [V, P] bool, which patch tokens are real


def mix_segment(layers: nn.ModuleList, memory: Tensor, patches: Tensor, token_mask: Tensor) -> SegmentTokens:
    """Let memory and patches of a segment attend to each other.

    Of the last layer only the memory tokens are computed, because the patch tokens of most segments are never read;
    ``last_patch_tokens`` computes them on demand.

    Args:
        layers: Transformer layers, called as ``layer(tokens, mask, part=...)``.
        memory: Memory tokens that enter the segment, ``[V, M, D]``.
        patches: Patch tokens of the segment, ``[V, P, D]``.
        token_mask: Which of them are real, ``[V, P]`` bool.
    """
    num_memory = memory.shape[1]
    mask = context_mask(num_memory, token_mask)
    mixed = torch.cat([memory, patches], dim=1)
    *earlier_layers, last_layer = layers
    for layer in earlier_layers:
        mixed = layer(mixed, mask)
    return SegmentTokens(last_layer(mixed, mask, part=slice(num_memory)), mixed, token_mask)


def last_patch_tokens(last_layer: nn.Module, num_memory: int, last_input: Tensor, token_mask: Tensor) -> Tensor:
    """Patch tokens of a segment after the last layer, ``[V, P, D]``; see ``SegmentTokens``."""
    tokens: Tensor = last_layer(last_input, context_mask(num_memory, token_mask), part=slice(num_memory, None))
    return tokens
