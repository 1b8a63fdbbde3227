"""What of the bridge's state the language model gets to see. One class a choice; all take the same state.

- ``CacheReadout``: learned queries attend over what all segments wrote.
- ``RetrievedReadout`` (in ``retrieved_readout.py``): the same with queries that have read the question.
- ``MemoryReadout``: the lasting memory after the last segment.
- ``CacheAndMemoryReadout``: what cache and memory give, one after the other (the default).
- ``LastSegmentReadout``: the last segment's patches; ``with_memory`` puts the memory in front of them.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import Attention
from components.interfaces import Questions, VisualTokens
from components.positions import sinusoidal


class MemoryState(NamedTuple):
    """State of a recurrent memory bridge after some segments. Nothing else is carried."""

    memory: Tensor  # [V, M, D] lasting memory after the last real segment of every video
    gate_probability: Tensor  # [V] what admitting cost, summed over the segments after the first; 0 without gate
    cache: tuple[Tensor, ...]  # one [V, M, D] a segment: the memory tokens it wrote
    cache_mask: tuple[Tensor, ...]  # one [V] bool a segment: videos that have it
    admitted: tuple[Tensor, ...]  # one [V] in 0..1 a segment: how much of it is remembered; empty without gate
    cache_ms: tuple[Tensor, ...]  # one [V] int64 a segment: time of its middle frame
    end_ms: Tensor  # [V] int64, time of the last frame so far
    last_input: Tensor  # [V, M + P, D] memory and patch tokens of the last real segment, entering the last layer
    tokens: Tensor  # [V, P, D] the patch tokens after the last layer; a readout that reads them sees them, else P = 0
    token_mask: Tensor  # [V, P] bool


class Readout(nn.Module, ABC):
    """Turns a bridge state into visual tokens. Built as ``Readout(dim, out_dim, *, options)``.

    Attributes:
        reads_tokens: Whether ``forward`` reads ``tokens`` and ``token_mask`` of the state. For the others the bridge
            neither computes nor keeps them.
        reads_questions: Whether ``forward`` needs the questions; others ignore them.
    """

    reads_tokens: bool = False
    reads_questions: bool = False

    @abstractmethod
    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the state of every video, or, where ``reads_questions``, for every conversation."""


def _projection(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


class CacheReadout(Readout):
    """A fixed number of learned queries attends over the memories of all segments, as far as they were admitted.

    The cost for the language model does not depend on the length of the video. Every cached memory carries its
    relative time (time / time of the last frame so far), which is what lets order questions generalise to lengths
    that training never saw; a video read while it still plays is told its times relative to what has been seen.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        num_queries: Visual tokens Q.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, out_dim: int, *, num_queries: int = 16, num_heads: int = 8) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.key_norm = nn.LayerNorm(dim)
        self.time = nn.Linear(_TIME_CODE, dim)
        self.attention = Attention(dim, num_heads, typical_keys=_TYPICAL_KEYS)
        self.projection = _projection(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the whole cache: ``[V, Q, E]``, all real."""
        queries, keys, mask = self._attended(state, questions)
        read = queries + self.attention(queries, keys, mask)
        tokens = self.projection(read)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def segment_attention(self, state: MemoryState, questions: Questions | None = None) -> Tensor:
        """How much each query looks at each segment, ``[V, Q, segments]``, summing to 1 over segments."""
        queries, keys, mask = self._attended(state, questions)
        weights = self.attention.weights(queries, keys, mask)
        by_segment: Tensor = weights.unflatten(-1, (len(state.cache), -1)).sum(dim=-1)
        return by_segment

    def _attended(self, state: MemoryState, questions: Questions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[V, Q, D]``, keys ``[V, segments * M, D]`` and their mask, see ``Attention``."""
        memories = torch.stack(state.cache, dim=1)  # [V, segments, M, D]
        num_videos, _, num_memory, _ = memories.shape
        middle_ms = torch.stack(state.cache_ms, dim=1)  # [V, segments]
        relative = middle_ms.double() / state.end_ms.clamp(min=1).double().unsqueeze(1)
        code = sinusoidal(relative, _TIME_CODE, longest=_LONGEST, shortest=_SHORTEST).to(memories.dtype)
        keys = self.key_norm(memories) + self.time(code).unsqueeze(2)
        mask = torch.stack(state.cache_mask, dim=1)  # [V, segments]
        if state.admitted:
            weight = torch.stack(state.admitted, dim=1) * mask
            mask = weight.clamp(min=_LEAST_WEIGHT).log().masked_fill(weight == 0, -torch.inf).to(keys.dtype)
        queries = self.queries.to(keys.dtype).expand(num_videos, -1, -1)
        return queries, keys.flatten(1, 2), mask.repeat_interleave(num_memory, dim=1)


class MemoryReadout(Readout):
    """Only the memory tokens after the last segment, projected.

    Source: the "memory tokens only" ablation of VideoLLaMB (arXiv:2409.01071).
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.projection = _projection(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the memory: ``[V, M, E]``, all real."""
        tokens = self.projection(state.memory)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


class CacheAndMemoryReadout(Readout):
    """What learned queries find in the cache of all segments, and behind it the lasting memory.

    The two know different things: the cache what each segment showed and when, the memory what it came to over time,
    such as how often or what first.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        num_queries: Visual tokens Q from the cache.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, out_dim: int, *, num_queries: int = 16, num_heads: int = 8) -> None:
        super().__init__()
        self.cache = CacheReadout(dim, out_dim, num_queries=num_queries, num_heads=num_heads)
        self.memory = MemoryReadout(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read cache and memory: ``[V, Q + M, E]``, all real."""
        parts = [self.cache(state), self.memory(state)]
        return VisualTokens(
            *(torch.cat(each, dim=1) for each in zip(*((p.tokens, p.mask) for p in parts), strict=True))
        )

    def segment_attention(self, state: MemoryState, questions: Questions | None = None) -> Tensor:
        """How much each query looks at each segment of the cache; see ``CacheReadout``."""
        return self.cache.segment_attention(state)


class LastSegmentReadout(Readout):
    """The patch tokens of the last segment, which have attended to the memory; optionally the memory in front.

    Args:
        dim: Bridge width D.
        out_dim: Language model width E.
        with_memory: Put the memory tokens in front.

    Source: VideoLLaMB (arXiv:2409.01071), whose language model sees the last segment's tokens.
    """

    reads_tokens = True

    def __init__(self, dim: int, out_dim: int, *, with_memory: bool = False) -> None:
        super().__init__()
        self.with_memory = with_memory
        self.projection = _projection(dim, out_dim)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the last segment: ``[V, P, E]`` or ``[V, M + P, E]``."""
        tokens, mask = state.tokens, state.token_mask
        if self.with_memory:
            tokens = torch.cat([state.memory, tokens], dim=1)
            mask = torch.cat([mask.new_ones(state.memory.shape[:2]), mask], dim=1)
        return VisualTokens(self.projection(tokens), mask)


_TIME_CODE = 32
# Keeps the logarithm of a weight finite; below it a memory counts for nothing anyway.
_LEAST_WEIGHT = 1e-6
# Memories that a training video of a few segments caches; only sets where the sharpness is 1.
_TYPICAL_KEYS = 64
# Relative times lie in 0..1. The longest wavelength makes the whole video unambiguous; the shortest is kept long, as a
# training video of 4 segments shows few times, and what a video of 128 asks for must lie on a smooth curve
_LONGEST = 2.0
_SHORTEST = 1.0
