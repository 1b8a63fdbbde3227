"""The readout of the last segment's patch tokens."""

import torch

from components.bridges.layers.projection import token_projection
from components.interfaces import MemoryState, Questions, Readout, VisualTokens


class LastSegmentReadout(Readout):
    """The language model sees the patch tokens of the last segment, which have attended to the memory.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        with_memory: Put the memory tokens in front.

    Source: VideoLLaMB (arXiv:2409.01071), whose language model sees the last segment's tokens.
    """

    reads_tokens = True
    shows_last_segment = True

    def __init__(self, dim: int, out_dim: int, *, with_memory: bool = False) -> None:
        super().__init__()
        self.with_memory = with_memory
        self.projection = token_projection(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the last segment: ``[V, P, E]`` or ``[V, M + P, E]``."""
        tokens, mask = state.tokens, state.token_mask
        if self.with_memory:
            tokens = torch.cat([state.memory, tokens], dim=1)
            mask = torch.cat([mask.new_ones(state.memory.shape[:2]), mask], dim=1)
        return VisualTokens(self.projection(tokens), mask)
