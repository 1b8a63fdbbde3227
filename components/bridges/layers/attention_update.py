"""Moves the vectors of a memory a little towards the frames that they attend to."""

import math

import torch
from torch import Tensor, nn


class AttentionUpdate(nn.Module):
    """Replaces a share of every memory vector by a mean of new frames, weighted by attention.

    Args:
        dim: Width D.
        hidden: Width in which memory and frames are compared.
        update_ratio: Share that is replaced, above 0 and at most 1.

    Raises:
        ValueError: ``hidden`` is below 1, or ``update_ratio`` is not in its range.

    Source: Flash-VStream (arXiv:2406.08085), its semantic attention.
    """

    def __init__(self, dim: int, *, hidden: int = 32, update_ratio: float = 0.2) -> None:
        super().__init__()
        if hidden < 1 or not 0.0 < update_ratio <= 1.0:
            raise ValueError(
                f"hidden must be at least 1 and update_ratio above 0 and at most 1, got {hidden} and {update_ratio}"
            )
        self.update_ratio = update_ratio
        self.query = nn.Linear(dim, hidden)
        self.key = nn.Linear(dim, hidden)

    def forward(self, memory: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Update.

        Args:
            memory: ``[V, M, D]``.
            frames: New vectors, ``[V, P, D]``.
            mask: Real ones, ``[V, P]`` bool; a memory without any stays as it is.

        Returns:
            ``[V, M, D]``.
        """
        query = self.query(memory)
        scores = query @ self.key(frames).transpose(1, 2) / math.sqrt(query.shape[-1])
        has_new = mask.any(dim=1)[:, None, None]
        scores = scores.float().masked_fill(~mask[:, None] & has_new, float("-inf"))
        weight = (scores.softmax(dim=2) * self.update_ratio).to(memory.dtype)
        frames = frames.masked_fill(~mask[..., None], 0.0)
        updated = memory * (1.0 - weight.sum(dim=2, keepdim=True)) + weight @ frames
        return torch.where(has_new, updated, memory)
