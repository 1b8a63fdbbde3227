"""The projection from a bridge's width to the language model's."""

from torch import nn


def token_projection(dim: int, out_dim: int) -> nn.Sequential:
    """Normalise tokens of width ``dim`` and map them through two layers to width ``out_dim``."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
