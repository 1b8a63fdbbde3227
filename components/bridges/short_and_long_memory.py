"""A memory that condenses every segment to a few frames and keeps these in a long memory of fixed size."""

import torch
from torch import Tensor, nn

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens
from components.merging.frame_sequences import FrameSequence, merge_frames

BLEND = 0.01
"""How much of the slow part there is in an expanded position."""


class ShortAndLongMemory(VisualReader[FrameSequence]):
    """Condenses every segment to a few frames by merging similar neighbours, and remembers these frames.

    A segment is the short memory: its most similar neighbours are merged, one pair after the other, until
    ``frames_a_segment`` are left. They are added to the long memory. Where the long memory has more than
    ``long_length`` frames, its most similar neighbours are merged too. So the state is of constant size. The language
    model sees all frames of the long memory in the order of time, each with a learned code of its position. The short
    memory has no trained weights.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        short_length: Most frames of the short memory: of a longer segment the last ones are read.
        frames_a_segment: Frames to which a segment is condensed.
        long_length: Most frames of the long memory.
        num_positions: Learned positions n; they are expanded to n * n. Null for the smallest n that is enough.
        as_published: Compare frames by the dot product of their mean tokens, which is large for frames of a large
            norm, and average without weights. False: by the cosine of tokens at the same position, as in the paper, and
            with weights.

    Raises:
        ValueError: A number is below 1, or the positions are fewer than ``long_length``.

    Source: MovieChat (arXiv:2307.16449), rese1f/MovieChat, MovieChat/models/moviechat.py, commit ba9bb80. There the
    long memory grows until its 256 positions are used up, a Q-Former reads it, and only the first 16 frames of a
    fragment are read.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        short_length: int = 18,
        frames_a_segment: int = 2,
        long_length: int = 256,
        num_positions: int | None = None,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if min(short_length, frames_a_segment, long_length) < 1:
            raise ValueError(
                f"short_length, frames_a_segment and long_length must be at least 1, got {short_length}, "
                f"{frames_a_segment} and {long_length}"
            )
        num_positions = num_positions or next(n for n in range(1, long_length + 1) if n * n >= long_length)
        if num_positions**2 < long_length:
            raise ValueError(
                f"{num_positions} positions expand to {num_positions**2}, but the long memory has {long_length} "
                "frames: take more positions, or leave num_positions out"
            )
        self.short_length = short_length
        self.frames_a_segment = frames_a_segment
        self.long_length = long_length
        self.as_published = as_published
        self.positions = nn.Parameter(torch.randn(num_positions, dim) * 0.02)
        self.projection = token_projection(dim, out_dim)

    def forward(self, segment: SegmentInput, state: FrameSequence | None) -> FrameSequence:
        """Condense one segment of every video and remember it; see ``VisualReader.forward``."""
        frames = FrameSequence.of_frames(segment.grid(self), segment.frame_mask)
        condensed = self.condensed(frames.last(self.short_length))
        if state is not None:
            condensed = state.followed_by(condensed)
        return merge_frames(condensed, self.long_length, as_published=self.as_published)

    def condensed(self, short: FrameSequence) -> FrameSequence:
        """The frames to which a short memory is merged."""
        return merge_frames(short, self.frames_a_segment, as_published=self.as_published)

    def read(
        self, state: FrameSequence, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the long memory: ``[V, M * N, E]``; fewer frames than ``long_length`` in a short video."""
        tokens, mask = state.tokens, state.mask
        tokens = tokens.masked_fill(~mask[:, :, None, None], 0.0)  # masked frames may hold any number
        positions = expanded_positions(self.positions)[: tokens.shape[1]]
        placed = tokens + positions.to(tokens.dtype)[None, :, None]
        num_cells = tokens.shape[2]
        return VisualTokens(self.projection(placed.flatten(1, 2)), mask.repeat_interleave(num_cells, dim=1))


def expanded_positions(positions: Tensor) -> Tensor:
    """Make n * n positions of n learned ones, ``[n, D]`` to ``[n * n, D]``: a slow part and a fast part are added.

    Source: Jianlin Su's hierarchical decomposition of position embeddings, as MovieChat uses it.
    """
    base = (positions - BLEND * positions[:1]) / (1.0 - BLEND)
    return (BLEND * base[:, None] + (1.0 - BLEND) * base[None]).flatten(0, 1)
