"""Chooses the segments of the highest scores, with gradients as if the choice were soft."""

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST = 1e-6  # keeps the noise finite


class ChosenSegments(NamedTuple):
    """Segments that were chosen for every question."""

    segments: Tensor  # [C, chosen] int64, ascending
    weights: Tensor  # [C, chosen] float32, exactly 1; their gradient is that of a soft choice


def choose_segments(scores: Tensor, most: int, *, is_sampled: bool) -> ChosenSegments:
    """Choose at most ``most`` segments for every question.

    Args:
        scores: ``[C, S]`` float32, -inf where there is no segment. Of equal ones the earlier segment is chosen.
        most: Most segments that are chosen. Where fewer exist, segments that do not exist fill up.
        is_sampled: Add Gumbel noise: segments are then drawn without replacement, likelier the higher their scores.

    Returns:
        The segments.
    """
    if is_sampled:
        uniform = torch.rand_like(scores).clamp(_LEAST, 1.0 - _LEAST)
        scores = scores - (-uniform.log()).log()
    best = scores.detach().argsort(dim=1, descending=True, stable=True)[:, :most]
    segments = best.sort(dim=1).values
    soft = scores.softmax(dim=1).gather(1, segments)
    return ChosenSegments(segments, 1.0 + (soft - soft.detach()))
