"""A learned vector that marks all visual tokens of one kind."""

import torch
from torch import Tensor, nn

_FIRST_SCALE = 0.02  # small beside visual tokens, so that a pretrained language model still reads them


class TypeEmbedding(nn.Module):
    """Adds one learned vector to every token, so that the language model knows memory from frames.

    Args:
        dim: Language model width E.

    Source: a row of the type table of the Memory-Augmented VLM code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(dim) * _FIRST_SCALE)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mark tokens ``[..., E]``."""
        return tokens + self.vector.to(tokens.dtype)
