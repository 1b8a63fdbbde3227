"""Merges similar tokens of a segment, whichever frames they are of."""

import torch
from torch import Tensor

from components.interfaces import SegmentInput, SegmentReducer
from components.merging.bipartite import MergedTokens, merged_to
from components.reducers.merged_segment import with_merged_tokens


class ClipMerge(SegmentReducer[tuple[()]]):
    """Merges similar tokens of a segment, whichever frames they are of, until few are left.

    In every round at most half of the tokens join others; a mean counts by the tokens that it stands for. What stays
    the same in many frames becomes one token, so a frame may be left without one.

    Args:
        dim: Width of a patch, D; it stays.
        tokens_a_frame: Tokens that are left for each frame of the segment; None for a fixed number a segment.
        tokens: Tokens that are left of a segment, however long; None for a number a frame.
        heads: Tokens are compared by the mean of this many equal parts of their vector.

    Raises:
        ValueError: Not exactly one of the two numbers is given, or one is not positive, or ``heads`` does not divide
            ``dim``.

    Source: a number a frame as VideoChat-Flash (arXiv:2501.00574), OpenGVLab/VideoChat-Flash (MIT),
    ``tome16_mlp_hd64.py``, commit 2f8e2f5: clips of 4 frames, 16 tokens a frame, parts of width 64. A fixed number a
    segment as LongVLM (arXiv:2404.03384), ziplab/LongVLM, ``merge.py``, commit 9c9ab66 (no licence file; written from a
    description): segments of 10 frames, 30 tokens, 16 parts. Both keep the order of the matching; here the order is
    that of the frames. LongVLM also shows the class tokens of five layers before, which the encoders here do not give.
    """

    def __init__(
        self, dim: int, *, tokens_a_frame: int | None = None, tokens: int | None = None, heads: int = 1
    ) -> None:
        super().__init__()
        if (tokens_a_frame is None) == (tokens is None) or (tokens_a_frame or tokens or 0) < 1:
            raise ValueError(f"give one of tokens_a_frame and tokens, at least 1; got {tokens_a_frame} and {tokens}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide the width {dim}, got {heads}")
        self.out_dim = dim
        self.tokens_a_frame = tokens_a_frame
        self.tokens = tokens
        self.heads = heads

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        _, length, num_cells, _ = segment.grid(self).shape
        frames = segment.frame_mask.sum(dim=1)
        merged = MergedTokens.of_tokens(segment.tokens, frames * num_cells)
        merged = merged_to(merged, self._wanted(frames).clamp(min=1), heads=self.heads)
        most = length * self.tokens_a_frame if self.tokens_a_frame else self.tokens or 0
        return with_merged_tokens(segment, merged, min(max(1, most), length * num_cells)), ()

    def _wanted(self, frames: Tensor) -> Tensor:
        """Tokens that are left of segments with so many frames, ``[V]``."""
        return frames * self.tokens_a_frame if self.tokens_a_frame else torch.full_like(frames, self.tokens or 0)
