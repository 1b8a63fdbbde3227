"""Attention to a context that is projected once and read many times, and the feed-forward part behind it."""

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.split_heads import split_heads

NORM_EPS = 1e-12
"""Added to the variance in the normalisations, as published."""


class KeysAndValues(NamedTuple):
    """A context, projected for attention."""

    keys: Tensor  # [V, P, D]
    values: Tensor  # [V, P, D]


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence; the result is added to the queries and normalised.

    ``project`` gives keys and values of the context. A context that several calls read is projected once.

    Args:
        dim: Width D; divisible by ``num_heads``.
        num_heads: Attention heads.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``.

    Source: the attention of the Memory-Augmented VLM code, in the post-norm form of BERT (arXiv:1810.04805).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        # Scores of unit variance on normalised inputs. With torch's default it is a ninth, so every query would start
        # as an average over all keys.
        for projection in (self.query, self.key, self.value):
            nn.init.normal_(projection.weight, std=dim**-0.5)
            nn.init.zeros_(projection.bias)

    def project(self, context: Tensor) -> KeysAndValues:
        """Keys and values of a context ``[V, P, D]``."""
        return KeysAndValues(self.key(context), self.value(context))

    def forward(self, queries: Tensor, context: KeysAndValues, context_mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            queries: ``[V, Q, D]``.
            context: What ``project`` gave, ``[V, P, D]``.
            context_mask: ``[V, P]`` bool; every row needs a True. None: all are real.

        Returns:
            ``[V, Q, D]``.
        """
        projected = (self.query(queries), context.keys, context.values)
        q, k, v = (split_heads(each, self.num_heads) for each in projected)
        mask = None if context_mask is None else context_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        normed: Tensor = self.norm(queries + self.output(mixed.transpose(1, 2).flatten(2)))
        return normed


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, applied to each token; the result is added and normalised.

    Args:
        dim: Width D; the hidden width is four times as large.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens ``[..., D]``."""
        normed: Tensor = self.norm(tokens + self.contract(F.relu(self.expand(tokens))))
        return normed


class CrossAttentionLayer(nn.Module):
    """Attention to a context and a feed-forward part.

    Args:
        dim: Width D.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, num_heads)
        self.feed_forward = FeedForward(dim)

    def forward(self, queries: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        """Read a context ``[V, P, D]`` into the queries ``[V, Q, D]``; see ``CrossAttention.forward``."""
        read = self.attention(queries, self.attention.project(context), context_mask)
        mixed: Tensor = self.feed_forward(read)
        return mixed
