"""Depth of the valleys in a similarity curve, in linear time and without loops.

From a gap, go to the left and to the right while the similarity does not fall. The two ends are the peaks beside the
gap; the depth is the sum of the two rises. Equal neighbours belong to one rise. A running maximum over the positions
where rises begin finds all peaks at once.

Source: SceneTilling, VideoLLaMB (arXiv:2409.01071), after TextTiling.
"""

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-8
# Numbers that a thread multiplies at once: so many fit a core's cache, with their neighbours and products.
_BLOCK_ELEMENTS = 2**17


def adjacent_similarity(cls: Tensor) -> Tensor:
    """Cosine similarity of neighbouring frames, on the CPU.

    Computed from float32 whatever the input's dtype: half precision moves boundaries. Equal frames give exactly 1, and
    a pair's similarity does not depend on how many pairs are computed with it; streaming relies on that. An accelerator
    computes the sums, and the host waits for them once.

    Args:
        cls: Class vectors on any device, ``[T, D]``; no gradient flows back to them.

    Returns:
        ``[T - 1]`` float32 (``[0]`` for T = 0) on the CPU; 0 beside an all-zero vector.
    """
    cls = cls.detach()
    on_cpu = cls.device.type == "cpu"
    squares, products = _squares_and_products_cpu(cls) if on_cpu else _squares_and_products_accelerator(cls)
    norms = squares.sqrt().clamp_min(_SMALLEST_NORM)
    return (products / (norms[:-1] * norms[1:])).float()


def _squares_and_products_accelerator(cls: Tensor) -> tuple[Tensor, Tensor]:
    """What ``_squares_and_products_cpu`` gives, for class vectors on an accelerator; the results are on the CPU.

    On an accelerator the order in which ``sum`` adds depends on the number of rows, and some have no float64, which
    would hide that. So halves are added until one column is left: every row is added in the same order.
    """
    rows = cls.float()
    terms = torch.cat([rows.square(), rows[:-1] * rows[1:]])  # [2T - 1, D]
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        added = terms[:, :half] + terms[:, half : 2 * half]
        terms = added if terms.shape[1] % 2 == 0 else torch.cat([added, terms[:, -1:]], dim=1)
    sums = terms.sum(dim=1).cpu().double()  # of one column; zeros where a class vector has none
    return sums[: len(cls)], sums[len(cls) :]


def _squares_and_products_cpu(cls: Tensor) -> tuple[Tensor, Tensor]:
    """Dot product of every row with itself, ``[T]``, and with the next one, ``[T - 1]``, as float64.

    It works in blocks that fit the cache: each class vector is read from memory once, and no product is written there.
    Matrix products would take a third less time, but their rounding is not defined. Here equal frames give three equal
    sums, so their similarity is exactly 1, for any number of rows and on any processor.
    """
    num_rows, dim = cls.shape
    block_rows = max(1, torch.get_num_threads() * _BLOCK_ELEMENTS // max(1, dim))
    buffer = torch.empty(min(block_rows, num_rows), dim)
    squares, products = torch.empty(num_rows), torch.empty(max(0, num_rows - 1))
    for first in range(0, num_rows, block_rows):
        block = cls[first : first + block_rows + 1].float()
        for sums, right in ((squares, block), (products, block[1:])):
            out = sums[first : first + block_rows]
            left, right = block[: len(out)], right[: len(out)]
            torch.sum(torch.mul(left, right, out=buffer[: len(out)]), dim=1, out=out)
    return squares.double(), products.double()


def left_rise(similarity: Tensor) -> Tensor:
    """How far the similarity rises to the left of every gap before it falls.

    Args:
        similarity: Similarity of every gap, ``[..., G]``; ``-inf`` marks padding at either end.

    Returns:
        The rises, ``[..., G]``, at least 0; unspecified at padding.
    """
    # A rise to the left ends where the left neighbour is lower. Negated, so that a NaN ends it as well.
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
    remaining = limit - deeper.sum(dim=-1, keepdim=True)
    return deeper | (tied & (tied.cumsum(dim=-1) <= remaining))


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
