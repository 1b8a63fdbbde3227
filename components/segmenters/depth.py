"""Depth of the valleys in a similarity curve, in linear time and without loops.

From a gap, climb to the left and to the right while the similarity does not fall. The two peaks are the ends of the
monotone runs through the gap; a running maximum (minimum) over the positions where runs begin (end) finds them all at
once. Plateaus are climbed: equal neighbours belong to one run.

Source: SceneTilling, VideoLLaMB (arXiv:2409.01071), after TextTiling.
"""

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-8
_BUFFER_ELEMENTS = 2**18  # 1 MB of float32


def adjacent_similarity(cls: Tensor) -> Tensor:
    """Cosine similarity of neighbouring frames.

    Computed in float32 whatever the input's dtype: half precision moves boundaries. Equal frames give exactly 1, and
    a pair's similarity does not depend on how many pairs are computed with it; streaming relies on that. On CUDA the
    order of a float32 sum does depend on the number of rows, so the sums run in float64 there.

    Args:
        cls: Class vectors, ``[T, D]``; no gradient flows back to them.

    Returns:
        ``[T - 1]`` float32 (``[0]`` for T = 0); 0 beside an all-zero vector.
    """
    cls = cls.detach().float()
    norms = _row_products(cls, cls).sqrt().clamp_min(_SMALLEST_NORM)
    products = _row_products(cls[:-1], cls[1:])
    return (products / (norms[:-1] * norms[1:])).float()


def _row_products(left: Tensor, right: Tensor) -> Tensor:
    """Dot product of every pair of rows, ``[T]`` float64, from two ``[T, D]``.

    A CPU multiplies into a small buffer that stays in its cache. Writing the products of a whole video to memory takes
    several times as long; a batched matrix product is no faster and its rounding depends on the number of rows.
    """
    if left.is_cuda:
        return (left * right).sum(dim=1, dtype=torch.float64)
    num_rows, dim = left.shape
    rows_at_once = max(1, _BUFFER_ELEMENTS // max(1, dim))
    buffer = left.new_empty(min(rows_at_once, num_rows), dim)
    sums = left.new_empty(num_rows)
    for first in range(0, num_rows, rows_at_once):
        rows = slice(first, first + rows_at_once)
        out = sums[rows]
        torch.sum(torch.mul(left[rows], right[rows], out=buffer[: out.shape[0]]), dim=1, out=out)
    return sums.double()


def left_rise(similarity: Tensor) -> Tensor:
    """How far the similarity rises to the left of every gap before it falls.

    Args:
        similarity: Similarity of every gap, ``[..., G]``; ``-inf`` marks padding at the right.

    Returns:
        The rises, ``[..., G]``, at least 0; unspecified at padding.
    """
    positions = torch.arange(similarity.shape[-1], device=similarity.device)
    # A run begins where the left neighbour is lower. Negated, so that a NaN ends a climb as well.
    begins = ~(similarity[..., :-1] >= similarity[..., 1:])
    begin_positions = positions.expand(similarity.shape).clone()
    begin_positions[..., 1:].masked_fill_(~begins, 0)
    peaks = begin_positions.cummax(dim=-1).values
    return similarity.gather(-1, peaks) - similarity


def right_rise(similarity: Tensor) -> Tensor:
    """How far the similarity rises to the right of every gap before it falls; mirrors ``left_rise``."""
    last = similarity.shape[-1] - 1
    positions = torch.arange(last + 1, device=similarity.device)
    ends = ~(similarity[..., 1:] >= similarity[..., :-1])
    end_positions = positions.expand(similarity.shape).clone()
    end_positions[..., :-1].masked_fill_(~ends, last)
    peaks = end_positions.flip(-1).cummin(dim=-1).values.flip(-1)
    return similarity.gather(-1, peaks) - similarity


def depth_scores(similarity: Tensor) -> Tensor:
    """Score how deep a similarity valley each gap is: the sum of both rises.

    Args:
        similarity: Similarity of every gap, ``[..., G]``; ``-inf`` marks padding at the right.

    Returns:
        Depths, ``[..., G]``; ``-inf`` at padding. A cut at gap ``i`` ends a segment after frame ``i``.
    """
    if similarity.shape[-1] == 0:
        return similarity
    depth = left_rise(similarity) + right_rise(similarity)
    return depth.masked_fill(similarity == -torch.inf, -torch.inf)


def deepest(depth: Tensor, limit: int) -> Tensor:
    """Choose the deepest gaps of every row.

    Of equally deep gaps the earlier ones are chosen, so the choice is the same on every device.

    Args:
        depth: Depths, ``[V, G]``; ``-inf`` is never chosen.
        limit: Gaps to choose per row; fewer where a row has fewer.

    Returns:
        The choice, ``[V, G]`` bool.
    """
    limit = min(limit, depth.shape[-1])
    if limit == 0:
        return torch.zeros_like(depth, dtype=torch.bool)
    last_chosen = depth.topk(limit, dim=-1).values[..., -1:]  # [V, 1]; -inf where a row has fewer gaps
    deeper = depth > last_chosen
    tied = (depth == last_chosen) & (depth > -torch.inf)
    places_left = limit - deeper.sum(dim=-1, keepdim=True)
    return deeper | (tied & (tied.cumsum(dim=-1) <= places_left))


def above_deviation(depth: Tensor, alpha: float) -> Tensor:
    """Choose the gaps whose depth stands out: strictly above mean + ``alpha`` standard deviations of their row.

    The standard deviation is the unbiased one over all gaps of the row. A row of one gap has none, so nothing is
    chosen there.

    Args:
        depth: Depths, ``[V, G]``; ``-inf`` at padding.
        alpha: Standard deviations above the mean.

    Returns:
        The choice, ``[V, G]`` bool.
    """
    is_gap = depth > -torch.inf
    exact = depth.double().masked_fill(~is_gap, 0.0)
    count = is_gap.sum(dim=-1, keepdim=True)
    mean = exact.sum(dim=-1, keepdim=True) / count
    variance = ((exact - mean).square() * is_gap).sum(dim=-1, keepdim=True) / (count - 1)
    return is_gap & (exact > mean + alpha * variance.sqrt())
