"""Divides the width of tokens between attention heads."""

from torch import Tensor


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """Give every head its part of the width.

    Args:
        tokens: ``[V, P, D]``.
        num_heads: Attention heads.

    Returns:
        ``[V, heads, P, D / heads]``.
    """
    heads: Tensor = tokens.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads
