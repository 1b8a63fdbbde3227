"""Attention of a few queries to many tokens without projecting those tokens to keys and values.

A score is ``q . (W x + b) = (W' q) . x + q . b``: instead of every token, the few queries are projected. The values are
projected after the weighted sum over the tokens in the same way. The numbers are those of ordinary attention up to
rounding. A bridge whose 32 memory tokens read 1152 patch tokens saves three quarters of the work and keeps no keys and
values for backward.

Source: the absorbed projections of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor


class HeadProjection(NamedTuple):
    """Weights of a linear layer that gives the keys or the values of all heads."""

    weight: Tensor  # [D, D], outputs first
    bias: Tensor  # [D]


def few_queries_are_cheaper(num_queries: int, num_keys: int, num_heads: int, dim: int) -> bool:
    """Whether ``attend_with_few_queries`` multiplies less than projecting all keys and values would."""
    return num_queries * (num_heads * num_keys + dim) < num_keys * dim


def add_mask(scores: Tensor, context_mask: Tensor) -> Tensor:
    """Hide or weigh keys in the scores ``[V, heads, Q, P]`` by a mask ``[V, P]``; see ``Attention``."""
    mask = context_mask[:, None, None, :]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def attend_with_few_queries(
    queries: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    keys: HeadProjection,
    values: HeadProjection,
    dropout: float = 0.0,
) -> Tensor:
    """Attend to a context without projecting it. The result is that of ordinary attention up to rounding.

    Args:
        queries: Projected queries by head, ``[V, heads, Q, D / heads]``.
        context: ``[V, P, D]``.
        context_mask: ``[V, P]`` bool, or the logarithm of every key's weight; see ``Attention``. None: all are real.
        keys: Projection of the context to its keys.
        values: Projection of the context to its values.
        dropout: Probability that a weight is dropped.

    Returns:
        ``[V, heads, Q, D / heads]``.
    """
    num_heads, head_dim = queries.shape[1], queries.shape[3]
    key_weight, value_weight = (each.weight.unflatten(0, (num_heads, head_dim)) for each in (keys, values))
    key_bias, value_bias = (each.bias.view(num_heads, 1, head_dim) for each in (keys, values))
    probes = torch.einsum("vhqi,hid->vhqd", queries, key_weight).flatten(1, 2)  # [V, heads * Q, D]
    scores = torch.matmul(probes, context.transpose(1, 2)).unflatten(1, (num_heads, -1))  # [V, heads, Q, P]
    # The key's bias adds the same to all scores of a query, so the softmax ignores it. It is added all the same: a
    # parameter without gradient would stop a run under DDP or ZeRO.
    scores = (scores + (queries * key_bias).sum(dim=-1, keepdim=True)) * head_dim**-0.5
    if context_mask is not None:
        scores = add_mask(scores, context_mask)
    weights = F.dropout(scores.float().softmax(dim=-1).to(context.dtype), dropout)
    read = torch.matmul(weights.flatten(1, 2), context).unflatten(1, (num_heads, -1))  # [V, heads, Q, D]
    mixed = torch.einsum("vhqd,hid->vhqi", read, value_weight)
    return mixed + weights.sum(dim=-1, keepdim=True) * value_bias
