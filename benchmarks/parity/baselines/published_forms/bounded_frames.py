"""Reads frames one after the other and merges or drops one whenever there are too many."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.merging.neighbours import neighbour_cosine

Rule = Literal["merge", "drop"]

_NO_PAIR = -100.0


class BoundedFrames(NamedTuple):
    """The frames that are left of one video."""

    frames: Tensor  # [K, W]
    members: list[list[int]]  # for each, the numbers of the frames that it stands for
    similarity: Tensor  # [K - 1] of neighbours, or [K, K] of all pairs


def bounded_frames(
    frames: Tensor, limit: int, *, rule: Rule, all_pairs: bool = False, coins: Sequence[int] | None = None
) -> BoundedFrames:
    """Shorten one video to ``limit`` frames, as the alternatives to clustering in Flash-VStream do.

    Frames are added one by one. Whenever there are more than ``limit``, the two most similar ones by cosine are merged
    to their plain mean, at the position of the later one, or one of them is dropped. Of equal pairs the first is taken.
    Choices are made without gradient. They wait for the device: this is for comparison, not for training.

    Args:
        frames: ``[T, W]``.
        limit: Frames that are left, at least 1.
        rule: ``merge`` or ``drop``.
        all_pairs: Compare every two frames; otherwise neighbours alone.
        coins: Of every pair, for ``drop``: 1 drops the later of neighbours, or the earlier of any two; 0 the other one.
            None always drops the earlier one.
    """
    left, members = frames[:limit], [[number] for number in range(min(limit, len(frames)))]
    for number in range(limit, len(frames)):
        left, members = torch.cat([left, frames[number : number + 1]]), [*members, [number]]
        earlier, later = _most_similar_pair(left, all_pairs)
        dropped, other = earlier, later
        if rule == "drop" and coins is not None and bool(coins[number - limit]) != all_pairs:
            dropped, other = later, earlier
        if rule == "merge":
            mean = (left[earlier] + left[later]) / 2.0
            left = torch.cat([left[:later], mean[None], left[later + 1 :]])
            members[other] = members[dropped] + members[other]
        left = torch.cat([left[:dropped], left[dropped + 1 :]])
        del members[dropped]
    return BoundedFrames(left, members, similarities(left, all_pairs))


def similarities(frames: Tensor, all_pairs: bool) -> Tensor:
    """Cosine similarity of neighbours, or of all pairs with -100 for a frame and itself."""
    if not all_pairs:
        return neighbour_cosine(frames)
    unit = functional.normalize(frames.detach().float(), dim=1)
    return (unit @ unit.T).fill_diagonal_(_NO_PAIR)


def _most_similar_pair(frames: Tensor, all_pairs: bool) -> tuple[int, int]:
    similarity = similarities(frames, all_pairs)
    if not all_pairs:
        earlier = int(similarity.argmax())
        return earlier, earlier + 1
    upper = similarity.masked_fill(torch.ones_like(similarity, dtype=torch.bool).tril(), _NO_PAIR)
    earlier, later = divmod(int(upper.argmax()), len(frames))
    return earlier, later
