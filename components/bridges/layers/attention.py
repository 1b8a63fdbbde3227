"""Attention and transformer block of the bridges, built on torch's fused attention."""

import math

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.few_queries import (
    HeadProjection,
    add_mask,
    attend_with_few_queries,
    few_queries_are_cheaper,
)
from components.bridges.layers.split_heads import split_heads
from components.sharding import SkipsUnusedCompute


class Attention(nn.Module, SkipsUnusedCompute):
    """Multi-head attention from queries to a context with masked keys.

    Args:
        dim: Width D; divisible by ``num_heads``.
        num_heads: Attention heads.
        typical_keys: Multiply scores by ``log(real keys) / log(typical_keys)``, where a key counts by its weight.
            Without it a softmax over eight times as many keys is flatter, and in videos longer than those of training
            one memory that matters gets too little attention. None leaves scores as they are.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``, or ``typical_keys`` is below 2.

    Source: the factor is that of scalable softmax (arXiv:2501.19399) with a fixed instead of a learned scale.
    """

    def __init__(self, dim: int, num_heads: int, typical_keys: int | None = None) -> None:
        super().__init__()
        if typical_keys is not None and typical_keys < 2:
            raise ValueError(f"typical_keys must be at least 2, got {typical_keys}")
        self.typical_keys = typical_keys
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        # Scores of unit variance on normalised inputs. With torch's default it is a ninth, so every query would start
        # as an average over all keys, which hides what one patch of a segment shows.
        for projection in (self.query, self.key_value):
            nn.init.normal_(projection.weight, std=dim**-0.5)

    def forward(self, queries: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            queries: ``[V, Q, D]``.
            context: ``[V, P, D]``.
            context_mask: ``[V, P]`` bool, or float: the logarithm of every key's weight, -inf for no key. A row without
                any key gives NaN. None: all keys are real.

        Returns:
            ``[V, Q, D]``.
        """
        q = self._scaled_queries(queries, context, context_mask)
        num_keys, dim = context.shape[1:]
        few = few_queries_are_cheaper(queries.shape[1], num_keys, self.num_heads, dim)
        if few and self.may_skip_unused_compute:
            weights, biases = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
            keys, values = HeadProjection(weights[0], biases[0]), HeadProjection(weights[1], biases[1])
            mixed = attend_with_few_queries(q, context, context_mask, keys, values)
        else:
            k, v = (split_heads(each, self.num_heads) for each in self.key_value(context).chunk(2, dim=-1))
            mask = None if context_mask is None else context_mask[:, None, None, :]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        merged: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return merged

    def weights(self, queries: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Attention weights averaged over the heads, ``[V, Q, P]``: for pictures, not for training."""
        q = self._scaled_queries(queries, context, context_mask)
        k = split_heads(self.key_value(context).chunk(2, dim=-1)[0], self.num_heads)
        scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights: Tensor = add_mask(scores, context_mask).softmax(dim=-1).mean(dim=1)
        return weights

    def _scaled_queries(self, queries: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        q = split_heads(self.query(queries), self.num_heads)
        if self.typical_keys is not None:
            sharpness = _count_keys(context, context_mask).clamp(min=2).log() / math.log(self.typical_keys)  # [V]
            q = q * sharpness.to(q.dtype)[:, None, None, None]
        return q


def _count_keys(context: Tensor, context_mask: Tensor | None) -> Tensor:
    """Number of keys, each counted by its weight, ``[V]``."""
    if context_mask is None:
        return torch.full_like(context[:, 0, 0], context.shape[1])
    return (context_mask if context_mask.dtype == torch.bool else context_mask.exp()).sum(dim=1)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward block.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the feed-forward part, as a multiple of D.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, tokens: Tensor, mask: Tensor | None, part: slice = slice(None)) -> Tensor:
        """Mix tokens.

        Args:
            tokens: ``[V, P, D]``.
            mask: ``[V, P]`` bool; None: all tokens are real.
            part: The tokens to compute. They attend to all; of the others only keys and values are computed.

        Returns:
            The mixed tokens of ``part``.
        """
        normed = self.attention_norm(tokens)
        tokens = tokens[:, part] + self.attention(normed[:, part], normed, mask)
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed
