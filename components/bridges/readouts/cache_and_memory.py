"""The readout of cache and memory together."""

import torch
from torch import Tensor

from components.bridges.readouts.cache import CacheKeys, CacheReadout
from components.bridges.readouts.memory import MemoryReadout
from components.interfaces import MemoryState, Questions, Readout, VisualTokens


class CacheAndMemoryReadout(Readout):
    """The tokens of ``CacheReadout``, followed by those of ``MemoryReadout``.

    The cache has what each segment showed and when. The memory has what accumulates over time, such as a count.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        num_queries: Visual tokens Q from the cache.
        num_heads: Attention heads.
        keys: See ``CacheReadout``.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_queries: int = 16,
        num_heads: int = 8,
        keys: CacheKeys = CacheKeys(),  # noqa: B008  immutable
    ) -> None:
        super().__init__()
        self.cache = CacheReadout(dim, out_dim, num_queries=num_queries, num_heads=num_heads, keys=keys)
        self.memory = MemoryReadout(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read cache and memory: ``[V, Q + M, E]``, all real."""
        cache, memory = self.cache(state), self.memory(state)
        tokens = torch.cat([cache.tokens, memory.tokens], dim=1)
        return VisualTokens(tokens, torch.cat([cache.mask, memory.mask], dim=1))

    def segment_attention(self, state: MemoryState, questions: Questions | None = None) -> Tensor:
        """Attention of the cache's queries to each segment; see ``Readout.segment_attention``."""
        return self.cache.segment_attention(state)
