"""SceneTilling as its definition says it, gap by gap: slow, and what the fast form is held against."""

import math
from statistics import mean, stdev

import torch
from torch import Tensor


def depth_by_definition(similarity: list[float]) -> list[float]:
    """Go left and right while the similarity does not fall; add both rises."""
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


def declared_by_definition(similarity: list[float], alpha: float, max_segment_frames: int | None) -> list[list[int]]:
    """What the causal rule has declared after each frame; everything computed anew from the curve so far.

    Raises:
        ArithmeticError: A depth lies at the threshold up to rounding, and not because all depths are equal.
    """
    final: list[int] = []  # gaps whose rise to the right has ended with a fall
    declared: list[int] = []
    history = []
    for newest in range(len(similarity) + 1):
        seen = similarity[:newest]
        depths = depth_by_definition(seen)
        ended = [gap for gap in range(newest) if _falls_behind(seen, gap)]
        for gap in ended:
            after_last = not declared or gap > declared[-1]
            if gap not in final and _stands_out(depths[gap], [depths[each] for each in ended], alpha) and after_last:
                declared = [*declared, gap]
        final = ended
        open_frames = newest - (declared[-1] if declared else -1)
        if max_segment_frames is not None and open_frames >= max_segment_frames:
            declared = [*declared, newest]
        history.append(declared)
    return history


def _falls_behind(similarity: list[float], gap: int) -> bool:
    return any(after < before for before, after in zip(similarity[gap:], similarity[gap + 1 :], strict=False))


def _stands_out(depth: float, depths: list[float], alpha: float) -> bool:
    if len(depths) < 2:
        return False
    threshold = mean(depths) + alpha * stdev(depths)
    if abs(depth - threshold) < 1e-9 and len(set(depths)) > 1:
        raise ArithmeticError(f"depth {depth} is at the threshold {threshold}, where rounding decides")
    return depth > threshold
