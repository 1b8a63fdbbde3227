"""The long buffer of MovieChat's second path."""

import torch
from torch import Tensor

from components.merging.neighbours import merge_pair, most_similar, neighbour_cosine


def merge_unlike_frames(frames: Tensor, limit: int) -> Tensor:
    """The long buffer of MovieChat's second path: it merges the LEAST similar neighbours, by an accident.

    Frames are compared by the cosine of all their tokens at once, and averaged without weights. The first round looks
    at the first ``limit`` pairs alone.

    Args:
        frames: ``[V, T, N, D]``, more than ``limit``.
        limit: Frames that are left.

    Raises:
        ValueError: There are too few frames.
    """
    if frames.shape[1] <= limit:
        raise ValueError(f"the published long buffer needs more than {limit} frames, got {frames.shape[1]}")
    entries = frames.flatten(2)
    ones = torch.ones_like(entries[..., 0])
    count = torch.full_like(ones[:, 0], limit + 1, dtype=torch.int64)
    while entries.shape[1] > limit:
        left = most_similar(-neighbour_cosine(entries), count)
        entries, _ = merge_pair(entries, ones[:, : entries.shape[1]], left, left + 1)
        count = torch.full_like(count, entries.shape[1])
    merged: Tensor = entries.unflatten(2, frames.shape[2:])
    return merged
