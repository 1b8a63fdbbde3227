"""Shortens sequences of frames by merging the most similar neighbours."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.merging.neighbours import chosen_rows, merge_pair, most_similar, neighbour_cosine


class FrameSequence(NamedTuple):
    """Frames of every video in their order, real ones first."""

    tokens: Tensor  # [V, M, N, D]
    sizes: Tensor  # [V, M] float32, frames that each one stands for; 0 where masked
    num_real: Tensor  # [V] int64, real ones

    @classmethod
    def of_frames(cls, tokens: Tensor, mask: Tensor) -> "FrameSequence":
        """Frames ``[V, L, N, D]`` of which ``mask [V, L]`` are real; these come first."""
        return cls(tokens, mask.float(), mask.sum(dim=1))

    @property
    def mask(self) -> Tensor:
        """``[V, M]`` bool."""
        return torch.arange(self.sizes.shape[1], device=self.num_real.device) < self.num_real[:, None]

    def followed_by(self, other: "FrameSequence") -> "FrameSequence":
        """The frames of both, those of ``other`` at the end; real ones first."""
        masked = torch.cat([~self.mask, ~other.mask], dim=1)
        order = masked.byte().argsort(dim=1, stable=True)
        tokens, sizes = (torch.cat(pair, dim=1) for pair in ((self.tokens, other.tokens), (self.sizes, other.sizes)))
        wide = order[:, :, None, None].expand(-1, -1, *tokens.shape[2:])
        return FrameSequence(tokens.gather(1, wide), sizes.gather(1, order), self.num_real + other.num_real)

    def last(self, most: int) -> "FrameSequence":
        """The last ``most`` frames."""
        first = (self.num_real - most).clamp(min=0)
        slots = torch.arange(min(most, self.sizes.shape[1]), device=self.num_real.device)
        source = (first[:, None] + slots).clamp(max=self.sizes.shape[1] - 1)
        count = self.num_real.clamp(max=most)
        tokens = self.tokens.gather(1, source[:, :, None, None].expand(-1, -1, *self.tokens.shape[2:]))
        return FrameSequence(tokens, self.sizes.gather(1, source).masked_fill(slots >= count[:, None], 0.0), count)


def merge_frames(frames: FrameSequence, limit: int, *, as_published: bool = False) -> FrameSequence:
    """Merge the most similar neighbours, one pair after the other, until at most ``limit`` frames are left.

    Two frames are as similar as their tokens at the same position are on average, by the cosine. A merged frame is the
    mean of its two, weighted by the frames that they stand for. Pairs are chosen without gradient.

    Args:
        frames: The frames of every video.
        limit: Most frames that are left.
        as_published: Compare by the dot product of the frames' mean tokens, and average without weights.
    """
    tokens, sizes, count = frames
    while sizes.shape[1] > limit:
        similarity = _dot_of_means(tokens) if as_published else _cosine_of_tokens(tokens)
        left = most_similar(similarity, count)
        weights = torch.ones_like(sizes) if as_published else sizes
        merged, _ = merge_pair(tokens.flatten(2), weights, left, left + 1)
        _, merged_sizes = merge_pair(sizes[..., None], sizes, left, left + 1)
        is_over = count > limit
        tokens = chosen_rows(is_over, merged.unflatten(2, tokens.shape[2:]), tokens[:, :-1])
        sizes = chosen_rows(is_over, merged_sizes, sizes[:, :-1])
        count = count - is_over.long()
    return FrameSequence(tokens, sizes, count)


def _dot_of_means(tokens: Tensor) -> Tensor:
    mean = tokens.detach().float().mean(dim=2)
    return (mean[:, :-1] * mean[:, 1:]).sum(dim=2)


def _cosine_of_tokens(tokens: Tensor) -> Tensor:
    return neighbour_cosine(tokens.transpose(1, 2)).mean(dim=1)
