"""The readout of the memory tokens after the last segment."""

import torch

from components.bridges.layers.projection import token_projection
from components.interfaces import MemoryState, Questions, Readout, VisualTokens


class MemoryReadout(Readout):
    """The language model sees the memory tokens after the last segment, projected.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.

    Source: the "memory tokens only" ablation of VideoLLaMB (arXiv:2409.01071).
    """

    shows_last_segment = True

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.projection = token_projection(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the memory: ``[V, M, E]``, all real."""
        tokens = self.projection(state.memory)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
