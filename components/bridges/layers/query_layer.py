"""A layer in which learned queries read themselves, what they were before, and a context."""

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.cross_attention import NORM_EPS
from components.bridges.layers.split_heads import split_heads


class ContextAttention(nn.Module):
    """Multi-head attention to a context of another width; the result is added to the queries and normalised.

    Args:
        width: Width of the queries, H; divisible by ``num_heads``.
        context_width: Width of the context, C.
        num_heads: Attention heads.

    Raises:
        ValueError: ``width`` is not divisible by ``num_heads``.
    """

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by {num_heads} heads: take other heads or another width")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, queries: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Attend.

        Args:
            queries: ``[V, Q, H]``.
            context: ``[V, P, C]``.
            context_mask: ``[V, P]`` bool; a row without True reads a mean of garbage.

        Returns:
            ``[V, Q, H]``.
        """
        projected = (self.query(queries), self.key(context), self.value(context))
        q, k, v = (split_heads(each, self.num_heads) for each in projected)
        mask = context_mask | ~context_mask.any(dim=1, keepdim=True)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        normed: Tensor = self.norm(queries + self.output(mixed.transpose(1, 2).flatten(2)))
        return normed


class GeluFeedForward(nn.Module):
    """Two linear layers with a GELU between them; the result is added and normalised.

    Args:
        width: Width H.
        inner_width: Width between the two layers.
    """

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, inner_width)
        self.contract = nn.Linear(inner_width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens ``[..., H]``."""
        normed: Tensor = self.norm(tokens + self.contract(F.gelu(self.expand(tokens))))
        return normed


class QueryLayer(nn.Module):
    """Queries attend to themselves and to their earlier inputs, then to a context; then a feed-forward part.

    Args:
        width: Width of the queries, H.
        context_width: Width of the context, C; None for a layer that reads no context.
        num_heads: Attention heads.
        inner_width: Width of the feed-forward part.
    """

    def __init__(self, width: int, context_width: int | None, num_heads: int, inner_width: int) -> None:
        super().__init__()
        self.self_attention = ContextAttention(width, width, num_heads)
        self.cross_attention = None if context_width is None else ContextAttention(width, context_width, num_heads)
        self.feed_forward = GeluFeedForward(width, inner_width)

    def read_itself(self, hidden: Tensor, mask: Tensor, earlier: Tensor, earlier_mask: Tensor) -> Tensor:
        """The attention of ``hidden [V, T, H]`` to earlier inputs of this layer ``[V, P, H]`` and to itself."""
        keys, keys_mask = torch.cat([earlier, hidden], dim=1), torch.cat([earlier_mask, mask], dim=1)
        read: Tensor = self.self_attention(hidden, keys, keys_mask)
        return read

    def read_context(self, queries: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """The attention to the context, if there is one."""
        if self.cross_attention is None:
            return queries
        read: Tensor = self.cross_attention(queries, context, context_mask)
        return read

    def forward(
        self, queries: Tensor, earlier: Tensor, earlier_mask: Tensor, context: Tensor, context_mask: Tensor
    ) -> Tensor:
        """The queries after the layer.

        Args:
            queries: ``[V, Q, H]``.
            earlier: Earlier inputs of this layer, ``[V, P, H]``.
            earlier_mask: ``[V, P]`` bool.
            context: ``[V, Z, C]``.
            context_mask: ``[V, Z]`` bool.
        """
        mask = torch.ones_like(queries[..., 0], dtype=torch.bool)
        read = self.read_itself(queries, mask, earlier, earlier_mask)
        transformed: Tensor = self.feed_forward(self.read_context(read, context, context_mask))
        return transformed
