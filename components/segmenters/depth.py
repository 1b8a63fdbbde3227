"""Depth of the valleys in a similarity curve, in linear time and without loops.

From a gap, climb to the left and to the right while the similarity does not fall. The two peaks are the ends of the
monotone runs through the gap; a running maximum (minimum) over the positions where runs begin (end) finds them all at
once. Plateaus are climbed: equal neighbours belong to one run.

Source: SceneTilling, VideoLLaMB (arXiv:2409.01071), after TextTiling.
"""

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-8
# Numbers that are cast to float32 at once: such a block stays in a core's cache until it is read.
_CAST_ELEMENTS = 2**17


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
    cls = cls.detach()
    if len(cls) < 2:
        return torch.zeros(0, device=cls.device)
    squares, products = _squares_and_products_cuda(cls.float()) if cls.is_cuda else _squares_and_products_cpu(cls)
    norms = squares.sqrt().clamp_min(_SMALLEST_NORM)
    return (products / norms.prod(dim=1)).float()


def _squares_and_products_cuda(cls: Tensor) -> tuple[Tensor, Tensor]:
    """Of every pair of neighbours the squared norms, ``[T - 1, 2]``, and the dot product, ``[T - 1]``, as float64."""
    squares = cls.square().sum(dim=1, dtype=torch.float64)
    return squares.unfold(0, 2, 1), (cls[:-1] * cls[1:]).sum(dim=1, dtype=torch.float64)


def _squares_and_products_cpu(cls: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the 2 x 2 Gram matrices of all pairs, in one batched product over overlapping views.

    No elementwise product is written to memory. That is faster than multiplying and summing in blocks that stay in the
    cache, and several times as fast as doing so without blocks (see docs/RESULTS.md). Only what is not float32 goes in
    blocks, for writing and reading back a cast copy of everything takes longer than the products.
    """
    num_pairs = len(cls) - 1
    at_once = num_pairs if cls.dtype == torch.float32 else max(1, _CAST_ELEMENTS // max(1, cls.shape[1]))
    grams = [_gram_of_neighbours(cls[first : first + at_once + 1].float()) for first in range(0, num_pairs, at_once)]
    gram = torch.cat(grams).double()
    return gram.diagonal(dim1=1, dim2=2), gram[:, 0, 1]


def _gram_of_neighbours(cls: Tensor) -> Tensor:
    pairs = cls.unfold(0, 2, 1)  # [T - 1, D, 2], a view
    return pairs.transpose(1, 2) @ pairs  # [T - 1, 2, 2]


def left_rise(similarity: Tensor) -> Tensor:
    """How far the similarity rises to the left of every gap before it falls.

    Args:
        similarity: Similarity of every gap, ``[..., G]``; ``-inf`` marks padding at either end.

    Returns:
        The rises, ``[..., G]``, at least 0; unspecified at padding.
    """
    # A run begins where the left neighbour is lower. Negated, so that a NaN ends a climb as well.
    begins = ~(similarity[..., :-1] >= similarity[..., 1:])
    positions = torch.arange(1, similarity.shape[-1], device=similarity.device)
    begin_positions = torch.zeros(similarity.shape, dtype=torch.int64, device=similarity.device)
    begin_positions[..., 1:] = positions * begins  # a product is several times as fast as a masked fill
    peaks = begin_positions.cummax(dim=-1).values
    return similarity.gather(-1, peaks) - similarity


def right_rise(similarity: Tensor) -> Tensor:
    """How far the similarity rises to the right of every gap before it falls; mirrors ``left_rise``."""
    return left_rise(similarity.flip(-1)).flip(-1)


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
    tied = depth == last_chosen.masked_fill(last_chosen == -torch.inf, torch.nan)  # padding is tied with nothing
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
