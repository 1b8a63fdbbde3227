"""Attention and transformer block in the post-norm form of the published VideoLLaMB bridge."""

import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.few_queries import HeadProjection, attend_with_few_queries, few_queries_are_cheaper
from components.bridges.layers.split_heads import split_heads
from components.sharding import SkipsUnusedCompute

_NORM_EPS = 1e-12  # as published


class PostNormAttention(nn.Module, SkipsUnusedCompute):
    """Multi-head attention whose result is added to the queries and normalised.

    Dropout acts on the attention weights and on the projected result. Nothing encodes positions.

    Args:
        dim: Width D; divisible by ``num_heads``.
        num_heads: Attention heads.
        dropout: Probability for both.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``.

    Source: the VideoLLaMB code, whose layers are those of BERT (arXiv:1810.04805).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, queries: Tensor, context: Tensor, context_mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            queries: ``[V, Q, D]``.
            context: ``[V, P, D]``.
            context_mask: ``[V, P]`` bool; every row needs a True, or its result is NaN. None: all are real.

        Returns:
            ``[V, Q, D]``.
        """
        q = split_heads(self.query(queries), self.num_heads)
        dropout = self.dropout.p if self.training else 0.0
        num_keys, dim = context.shape[1:]
        few = few_queries_are_cheaper(queries.shape[1], num_keys, self.num_heads, dim)
        if few and self.may_skip_unused_compute:
            keys, values = (HeadProjection(each.weight, each.bias) for each in (self.key, self.value))
            mixed = attend_with_few_queries(q, context, context_mask, keys, values, dropout)
        else:
            k, v = (split_heads(each(context), self.num_heads) for each in (self.key, self.value))
            mask = None if context_mask is None else context_mask[:, None, None, :]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        merged = self.out(mixed.transpose(1, 2).flatten(2))
        normed: Tensor = self.norm(queries + self.dropout(merged))
        return normed


class PostNormBlock(nn.Module):
    """Self-attention and feed-forward part, each added to its input and normalised.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        mlp_width: Hidden width of the feed-forward part.
        dropout: Probability on attention weights and on the result of both parts.
    """

    def __init__(self, dim: int, num_heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = PostNormAttention(dim, num_heads, dropout)
        self.widen = nn.Linear(dim, mlp_width)
        self.narrow = nn.Linear(mlp_width, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, tokens: Tensor, mask: Tensor | None, part: slice = slice(None)) -> Tensor:
        """Mix tokens.

        Args:
            tokens: ``[V, P, D]``.
            mask: ``[V, P]`` bool; None: all are real.
            part: The tokens to compute. They attend to all; of the others only keys and values are computed.

        Returns:
            The mixed tokens of ``part``.
        """
        tokens = self.attention(tokens[:, part], tokens, mask)
        widened = F.gelu(self.widen(tokens))
        normed: Tensor = self.norm(tokens + self.dropout(self.narrow(widened)))
        return normed
