"""A transformer block in which every token sees itself and the tokens before it."""

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.split_heads import split_heads


class CausalBlock(nn.Module):
    """Pre-norm causal self-attention and feed-forward block.

    Args:
        dim: Width D; divisible by ``num_heads``.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the feed-forward part, as a multiple of D.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            tokens: ``[V, P, D]``.
            mask: ``[V, P]`` bool. No other token sees a masked one; a masked one sees itself, so that it stays finite.

        Returns:
            ``[V, P, D]``.
        """
        projected = self.query_key_value(self.attention_norm(tokens)).chunk(3, dim=-1)
        query, key, value = (split_heads(each, self.num_heads) for each in projected)
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=mask.device)
        seen = mask[:, None, :].expand(-1, tokens.shape[1], -1).tril() | itself  # [V, P, P]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        after: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return after
