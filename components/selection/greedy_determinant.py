"""Chooses different and fitting frames one after the other, by the determinant of their similarities."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST = 1e-10  # what is left of a frame that the chosen ones explain


class Chosen(NamedTuple):
    """Frames in the order of choice."""

    frames: list[int]
    scores: list[float]  # after each: the sum of the logarithms of what all frames so far have added


def greedy_determinant(
    kernel: Tensor,
    most: int,
    bonus: Tensor | None = None,
    *,
    candidates: Sequence[int] | None = None,
    given: Sequence[int] = (),
) -> Chosen:
    """Choose frames so that the determinant of their kernel is large: each time the frame that adds most.

    Args:
        kernel: How similar frames are, ``[T, T]`` float64, positive semi-definite.
        most: Frames to choose. Fewer are chosen where every other frame is explained by them.
        bonus: Added to the logarithm of what each frame adds, ``[T]``.
        candidates: Frames to choose from; all by default.
        given: Frames that are there already; not among the result, but their scores are.

    Returns:
        The frames. Of equal ones the first is chosen.

    Source: Chen et al., Fast greedy MAP inference for determinantal point processes (arXiv:1709.05135).
    """
    bonus = torch.zeros(len(kernel), dtype=kernel.dtype) if bonus is None else bonus
    left = kernel.diagonal().clone()
    rows = kernel.new_zeros(0, len(kernel))
    score = 0.0
    chosen = Chosen([], [])
    allowed = torch.zeros(len(kernel), dtype=torch.bool)
    allowed[list(range(len(kernel)) if candidates is None else candidates)] = True
    for number in range(len(given) + most):
        if number < len(given):
            best = given[number]
        else:
            gains = (left.clamp(min=_LEAST).log() + bonus).masked_fill(~allowed | (left <= _LEAST), -torch.inf)
            best = int(gains.argmax())
            if gains[best] == -torch.inf:
                break
        score += float(left[best].clamp(min=_LEAST).log() + bonus[best])
        row = (kernel[best] - rows.T @ rows[:, best]) / left[best].clamp(min=_LEAST).sqrt()
        rows = torch.cat([rows, row[None]])
        left = left - row.square()
        allowed[best] = False
        if number >= len(given):
            chosen.frames.append(best)
            chosen.scores.append(score)
    return chosen
