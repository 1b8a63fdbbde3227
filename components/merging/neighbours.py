"""Merges or drops entries of a sequence that resemble each other. Entries are in the order of time, real ones first."""

import torch
from torch import Tensor
from torch.nn import functional


def neighbour_cosine(entries: Tensor) -> Tensor:
    """Cosine similarity of every entry ``[..., M, W]`` and the next one, ``[..., M - 1]`` float32, without gradient."""
    entries = entries.detach().float()
    return functional.cosine_similarity(entries[..., :-1, :], entries[..., 1:, :], dim=-1)


def most_similar(similarity: Tensor, count: Tensor) -> Tensor:
    """The left entry of the most similar neighbours; of equal ones the first.

    Args:
        similarity: Of every entry and the next one, ``[B, M - 1]``.
        count: Real entries of each sequence, ``[B]`` int64.

    Returns:
        ``[B]`` int64; 0 for a sequence of fewer than two entries.
    """
    left = torch.arange(similarity.shape[1], device=similarity.device)
    return similarity.masked_fill(left >= count[:, None] - 1, float("-inf")).argmax(dim=1)


def entry_at(entries: Tensor, index: Tensor) -> Tensor:
    """Entry ``index [B]`` of every sequence ``[B, M, ...]``, as ``[B, 1, ...]``."""
    return _gathered(entries, index[:, None])


def with_entry(entries: Tensor, index: Tensor, entry: Tensor) -> Tensor:
    """The sequences ``[B, M, ...]`` with ``entry [B, 1, ...]`` at position ``index [B]``; beyond M nothing changes."""
    slots = torch.arange(entries.shape[1], device=entries.device)
    return torch.where(_over(slots == index[:, None], entries), entry, entries)


def without_entry(entries: Tensor, index: Tensor) -> Tensor:
    """The sequences ``[B, M, ...]`` without entry ``index [B]``: ``[B, M - 1, ...]``."""
    slots = torch.arange(entries.shape[1] - 1, device=entries.device)
    return _gathered(entries, slots + (slots >= index[:, None]).long())


def chosen_rows(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Rows of ``one`` where ``chosen [B]``, rows of ``other`` elsewhere."""
    return torch.where(_over(chosen, one), one, other)


def merge_pair(entries: Tensor, sizes: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Replace two entries by their mean, weighted by their sizes. The mean takes the position of the left one.

    Args:
        entries: ``[B, M, W]``.
        sizes: Frames that each entry stands for, ``[B, M]`` float32. Of ones the mean is plain.
        left: ``[B]`` int64.
        right: ``[B]`` int64, larger than ``left``.

    Returns:
        Entries ``[B, M - 1, W]`` and their sizes.
    """
    size, other_size = entry_at(sizes, left), entry_at(sizes, right)
    total = (size + other_size).clamp(min=1.0)
    one, other = entry_at(entries, left), entry_at(entries, right)
    mean = (one * size[..., None] + other * other_size[..., None]) / total[..., None]
    merged = with_entry(entries, left, mean.to(entries.dtype))
    return without_entry(merged, right), without_entry(with_entry(sizes, left, total), right)


def _gathered(entries: Tensor, index: Tensor) -> Tensor:
    """Entries ``[B, M, ...]`` at the positions ``index [B, K]``."""
    wide = _over(index, entries, from_dim=2)
    return entries.gather(1, wide.expand(*index.shape, *entries.shape[2:]))


def _over(narrow: Tensor, wide: Tensor, from_dim: int | None = None) -> Tensor:
    """``narrow`` with as many dimensions as ``wide``."""
    return narrow.view(*narrow.shape, *[1] * (wide.ndim - (narrow.ndim if from_dim is None else from_dim)))
