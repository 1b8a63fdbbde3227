"""SceneTilling as its definition says it, gap by gap: slow, and what the fast form is held against."""

import math
from statistics import mean, stdev

import torch
from torch import Tensor


def depth_by_definition(similarity: list[float]) -> list[float]:
    """Climb left and right while similarity does not fall; add both rises."""
    depths = []
    for gap, here in enumerate(similarity):
        left = right = gap
        while left > 0 and similarity[left - 1] >= similarity[left]:
            left -= 1
        while right < len(similarity) - 1 and similarity[right + 1] >= similarity[right]:
            right += 1
        depths.append((similarity[left] - here) + (similarity[right] - here))
    return depths


def cuts_by_definition(similarity: list[float], k: int | None, alpha: float | None, max_cuts: int | None) -> list[int]:
    depth = depth_by_definition(similarity)
    candidates = list(range(len(similarity)))
    if alpha is not None:
        threshold = mean(depth) + alpha * stdev(depth) if len(depth) > 1 else math.inf
        candidates = [gap for gap in candidates if depth[gap] > threshold]
    limit = len(candidates) if k is None and max_cuts is None else (k if k is not None else max_cuts)
    return sorted(sorted(candidates, key=lambda gap: (-depth[gap], gap))[:limit])


def random_curve(generator: torch.Generator, length: int, levels: int | None) -> Tensor:
    """Similarities on a coarse scale (many plateaus and ties) or a fine one; exact in float32 and in sums."""
    return torch.randint(-(levels or 4096), (levels or 4096) + 1, (length,), generator=generator) / 4096
