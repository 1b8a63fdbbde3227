"""The readout by which learned queries attend to what every segment wrote."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import Attention
from components.bridges.layers.projection import token_projection
from components.interfaces import MemoryState, Questions, Readout, VisualTokens
from components.positions import sinusoidal

_LEAST_WEIGHT = 1e-6  # keeps the logarithm of a weight finite


@dataclass(frozen=True)
class CacheKeys:
    """How cached memory tokens become the keys of a readout's attention.

    Args:
        typical_keys: Number of cached memory tokens at which attention is not sharpened, see ``Attention``; about that
            of a training video.
        time_width: Width of the sinusoidal code of the relative time; even.
        longest_time: Longest wavelength of that code. Relative times are in 0..1, so with 2 each has another code.
        shortest_time: Shortest wavelength of that code. A training video of 4 segments shows few times. A long
            wavelength makes the code smooth between them, where the segments of longer videos are.

    Raises:
        ValueError: ``time_width`` is odd, so sines and cosines cannot pair up.
    """

    typical_keys: int = 64
    time_width: int = 32
    longest_time: float = 2.0
    shortest_time: float = 1.0

    def __post_init__(self) -> None:
        """Check the width."""
        if self.time_width % 2:
            raise ValueError(f"time_width must be even, because sines and cosines come in pairs, got {self.time_width}")


class CacheReadout(Readout):
    """A fixed number of learned queries attends to the memory tokens that every segment wrote.

    A segment that the gate did not admit gets no attention. The cost for the language model does not depend on the
    length of the video. Every cached memory token carries its segment's relative time (time / time of the last frame so
    far). Relative times let questions about order generalise to longer videos than those of training; while a video
    plays, its times are relative to what has been shown so far.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        num_queries: Visual tokens Q.
        num_heads: Attention heads.
        keys: How cached memory tokens become keys.

    Raises:
        ValueError: ``Attention`` refuses its numbers.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_queries: int = 16,
        num_heads: int = 8,
        keys: CacheKeys = CacheKeys(),
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.key_norm = nn.LayerNorm(dim)
        self.time = nn.Linear(keys.time_width, dim)
        self.attention = Attention(dim, num_heads, typical_keys=keys.typical_keys)
        self.projection = token_projection(dim, out_dim)
        self.keys = keys

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the cache: ``[V, Q, E]``, all real."""
        queries, keys, mask = self._attended(state, questions)
        tokens = self.projection(queries + self.attention(queries, keys, mask))
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def segment_attention(self, state: MemoryState, questions: Questions | None = None) -> Tensor:
        """Attention of each query to each segment; see ``Readout.segment_attention``."""
        queries, keys, mask = self._attended(state, questions)
        weights = self.attention.weights(queries, keys, mask)
        by_segment: Tensor = weights.unflatten(-1, (len(state.cache), -1)).sum(dim=-1)
        return by_segment

    def _attended(self, state: MemoryState, questions: Questions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[V, Q, D]``, keys ``[V, S * M, D]`` and their mask, see ``Attention``."""
        memories = torch.stack(state.cache, dim=1)  # [V, S, M, D]
        num_videos, _, num_memory, _ = memories.shape
        middle_ms = torch.stack(state.cache_ms, dim=1)  # [V, S]
        relative = middle_ms.double() / state.end_ms.clamp(min=1).double().unsqueeze(1)
        longest, shortest = self.keys.longest_time, self.keys.shortest_time
        code = sinusoidal(relative, self.keys.time_width, longest=longest, shortest=shortest)
        keys = self.key_norm(memories) + self.time(code.to(memories.dtype)).unsqueeze(2)
        mask = torch.stack(state.cache_mask, dim=1)  # [V, S]
        if state.admitted:
            weight = torch.stack(state.admitted, dim=1) * mask
            mask = weight.clamp(min=_LEAST_WEIGHT).log().masked_fill(weight == 0, -torch.inf).to(keys.dtype)
        queries = self.queries.to(keys.dtype).expand(num_videos, -1, -1)
        return queries, keys.flatten(1, 2), mask.repeat_interleave(num_memory, dim=1)
