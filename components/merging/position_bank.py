"""A bank of entries that merges similar neighbours in time at every token position by itself."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.merging.neighbours import chosen_rows, merge_pair, most_similar, neighbour_cosine, with_entry


class PositionBank(NamedTuple):
    """Entries of every video in the order of time, real ones first."""

    entries: Tensor  # [V, M, N, D]
    sizes: Tensor  # [V, M, N] float32, frames that each token stands for; 0 where there is none
    num_real: Tensor  # [V] int64, real entries

    @classmethod
    def empty(cls, like: Tensor, num_slots: int) -> "PositionBank":
        """A bank of ``num_slots`` for entries like ``[V, N, D]``."""
        num_videos, num_positions, dim = like.shape
        sizes = torch.zeros(num_videos, num_slots, num_positions, device=like.device)
        count = torch.zeros(num_videos, dtype=torch.int64, device=like.device)
        return cls(like.new_zeros(num_videos, num_slots, num_positions, dim), sizes, count)

    @property
    def token_mask(self) -> Tensor:
        """Real tokens of the entries, one entry after the other, ``[V, M * N]`` bool."""
        slots = torch.arange(self.sizes.shape[1], device=self.num_real.device)
        return (slots < self.num_real[:, None]).repeat_interleave(self.sizes.shape[2], dim=1)

    def with_entry(self, entry: Tensor, is_real: Tensor) -> "PositionBank":
        """The bank with ``entry [V, N, D]`` at its end, in the videos where ``is_real [V]``; they have a free slot."""
        entries = with_entry(self.entries, self.num_real, entry.to(self.entries.dtype)[:, None])
        sizes = with_entry(self.sizes, self.num_real, torch.ones_like(self.sizes[:, :1]))
        entries, sizes = chosen_rows(is_real, entries, self.entries), chosen_rows(is_real, sizes, self.sizes)
        return PositionBank(entries, sizes, self.num_real + is_real.long())

    def within(self, limit: int) -> "PositionBank":
        """The bank after one merge in the videos that have more than ``limit`` entries; as many slots as before."""
        entries, sizes = merge_by_position(self.entries, self.sizes, self.num_real)
        is_over = self.num_real > limit
        entries = chosen_rows(is_over, functional.pad(entries, (0, 0, 0, 0, 0, 1)), self.entries)
        sizes = chosen_rows(is_over, functional.pad(sizes, (0, 0, 0, 1)), self.sizes)
        return PositionBank(entries, sizes, self.num_real - is_over.long())


def merge_by_position(entries: Tensor, sizes: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Merge one pair of neighbours at every token position: the pair with the highest cosine similarity.

    The mean is weighted by sizes and takes the position of the earlier one. Since every position merges at a time of
    its own, an entry is no longer one moment. Pairs are chosen without gradient.

    Args:
        entries: ``[V, M, N, D]``.
        sizes: Frames that each token stands for, ``[V, M, N]``.
        count: Real entries, ``[V]`` int64.

    Returns:
        ``[V, M - 1, N, D]`` and its sizes.

    Raises:
        ValueError: There are fewer than two entries.
    """
    if entries.shape[1] < 2:
        raise ValueError(f"merging neighbours needs two entries or more, got {entries.shape[1]}")
    num_positions = entries.shape[2]
    rows, row_sizes = entries.transpose(1, 2).flatten(0, 1), sizes.transpose(1, 2).flatten(0, 1)
    left = most_similar(neighbour_cosine(rows), count.repeat_interleave(num_positions))
    merged, merged_sizes = merge_pair(rows, row_sizes, left, left + 1)
    shape = (-1, num_positions)
    return merged.unflatten(0, shape).transpose(1, 2), merged_sizes.unflatten(0, shape).transpose(1, 2)
