"""The baseline without memory: the mean over all frames at every patch position."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens


class RunningMean(NamedTuple):
    """Sum of the frames so far and their number."""

    total: Tensor  # [V, N, D] float32
    num_frames: Tensor  # [V] int64


class MeanPooling(VisualReader[RunningMean]):
    """Averages every patch position over all frames and projects the mean to the language model's width.

    It sees every frame and costs little, but a short event fades as 1 / frames. The result does not depend on the cuts
    between segments.

    Args:
        dim: Vision width D.
        out_dim: Language model width E.

    Source: the "mean pool" ablation of VideoLLaMB (arXiv:2409.01071).
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(dim)
        self.mean_norm = nn.LayerNorm(dim)
        self.projection = nn.Sequential(nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(self, segment: SegmentInput, state: RunningMean | None) -> RunningMean:
        """Add one segment of every video to the running sum."""
        weight = segment.frame_mask.float()[:, :, None, None]
        total = (self.patch_norm(segment.grid(self)).float() * weight).sum(dim=1)
        count = segment.frame_mask.sum(dim=1)
        if state is None:
            return RunningMean(total, count)
        return RunningMean(state.total + total, state.num_frames + count)

    def read(
        self, state: RunningMean, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the mean: ``[V, N, E]``, all real."""
        mean = state.total / state.num_frames.clamp(min=1)[:, None, None]
        tokens = self.projection(self.mean_norm(mean.to(self.mean_norm.weight.dtype)))
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
