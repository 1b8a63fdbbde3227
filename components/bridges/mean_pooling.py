"""The baseline without memory: the mean over all frames at every patch position."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens


class RunningMean(NamedTuple):
    """Sum of the patches so far and their number, for every patch position."""

    total: Tensor  # [V, N, D] float32
    num_patches: Tensor  # [V, N] float32; [V, 1] while all positions have had as many


class MeanPooling(VisualReader[RunningMean]):
    """Averages every patch position over all frames and projects the mean to the language model's width.

    It sees every frame and costs little, but a short event fades as 1 / frames. The result does not depend on the cuts
    between segments. Where a reducer leaves tokens out, each position is averaged over its tokens that are left.

    Args:
        dim: Vision width D.
        out_dim: Language model width E.

    Source: the "mean pool" ablation of VideoLLaMB (arXiv:2409.01071).
    """

    reads_kept_tokens = True

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(dim)
        self.mean_norm = nn.LayerNorm(dim)
        self.projection = nn.Sequential(nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(self, segment: SegmentInput, state: RunningMean | None) -> RunningMean:
        """Add one segment of every video to the running sum."""
        patches = self.patch_norm(segment.tokens).float()
        if segment.kept is None:
            weight = segment.frame_mask.float()[:, :, None, None]
            total = (patches.unflatten(1, (-1, segment.num_cells)) * weight).sum(dim=1)
            count = segment.frame_mask.float().sum(dim=1, keepdim=True)
        else:
            # Added by position rather than by a matrix product, which autocast would compute in half precision.
            kept = segment.kept
            count = patches.new_zeros(len(patches), segment.num_cells).scatter_add(1, kept.cell, kept.mask.float())
            patches = patches.masked_fill(~kept.mask.unsqueeze(2), 0.0)
            total = patches.new_zeros(*count.shape, patches.shape[2])
            total = total.scatter_add(1, kept.cell.unsqueeze(2).expand_as(patches), patches)
        if state is None:
            return RunningMean(total, count)
        return RunningMean(state.total + total, state.num_patches + count)

    def read(
        self, state: RunningMean, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the mean: ``[V, N, E]``, all real; a position without any patch has a mean of zero."""
        mean = state.total / state.num_patches.clamp(min=1).unsqueeze(2)
        tokens = self.projection(self.mean_norm(mean.to(self.mean_norm.weight.dtype)))
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
