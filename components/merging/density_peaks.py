"""Clusters the entries of every row around those that are dense and far from denser ones (DPC-KNN)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.full_precision import full_precision

Noise = Callable[[Tensor], Tensor]
"""Gives random numbers in 0..1 for the real entries of a mask ``[B, T]``; published code adds them to the densities."""

_NOISE_SCALE = 1e-6


class DensityPeaks(NamedTuple):
    """Clusters of every row. The first has the centre of highest score."""

    centres: Tensor  # [B, K] int64, entry in the middle of each cluster
    mask: Tensor  # [B, K] bool; False: the row has fewer clusters
    labels: Tensor  # [B, T] int64, cluster of every entry; of no meaning where masked


@torch.no_grad()
def density_peaks(
    entries: Tensor,
    mask: Tensor,
    num_clusters: Tensor,
    num_neighbours: Tensor,
    *,
    most: int,
    noise: Noise | None = None,
) -> DensityPeaks:
    """Cluster by Euclidean distance.

    An entry is *dense* if its nearest neighbours are near. Its *score* is its density times its distance to the nearest
    denser entry. The entries of highest score become centres, and all others join the nearest centre. Of equal ones
    the first wins: of equally dense entries, of equal scores, and of equally near centres in the order of scores.

    Args:
        entries: ``[B, T, W]``.
        mask: Real entries, ``[B, T]`` bool.
        num_clusters: Clusters of every row, ``[B]`` int64; at most as many as real entries are made.
        num_neighbours: Entries of which the mean squared distance makes the density, each entry itself among them,
            ``[B]`` int64; at most as many as real entries are used.
        most: Largest number of clusters of a row, K, known on the host; at most T.
        noise: Random numbers that break ties between densities instead.

    Returns:
        The clusters. There is no gradient.
    """
    points = entries.float()
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / entries.shape[2] ** 0.5
    num_real = mask.sum(dim=1)
    num_clusters = num_clusters.minimum(num_real)
    density = _densities(distances, mask, num_neighbours.minimum(num_real).clamp(min=1))
    if noise is not None:
        density = density + _NOISE_SCALE * noise(mask)
    denser = density.unsqueeze(1) > density.unsqueeze(2)  # [B, T, T], column denser than row
    if noise is None:
        earlier = torch.ones_like(denser).tril(diagonal=-1)
        denser = denser | (earlier & (density.unsqueeze(1) == density.unsqueeze(2)))
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    largest = distances.masked_fill(~both, 0.0).amax(dim=(1, 2))
    separation = torch.where(denser & both, distances, largest[:, None, None]).amin(dim=2)
    score = (density * separation).masked_fill(~mask, -torch.inf)
    if noise is None:
        centres = score.argsort(dim=1, descending=True, stable=True)[:, :most]
    else:
        centres = _published_centres(score, mask, num_clusters, most)
    numbers = torch.arange(most, device=entries.device)
    is_cluster = numbers < num_clusters.unsqueeze(1)
    to_centres = distances.gather(2, centres.unsqueeze(1).expand(-1, distances.shape[1], -1))
    labels = to_centres.masked_fill(~is_cluster.unsqueeze(1), torch.inf).argmin(dim=2)
    own = torch.full((*labels.shape[:1], labels.shape[1] + 1), most, device=labels.device)
    own = own.scatter(1, centres.masked_fill(~is_cluster, labels.shape[1]), numbers.expand_as(centres))[:, :-1]
    return DensityPeaks(centres, is_cluster, torch.where(own < most, own, labels))


def memberships(peaks: DensityPeaks, mask: Tensor) -> Tensor:
    """Which entry is in which cluster, ``[B, K, T]`` float32 of zeros and ones."""
    of_cluster = functional.one_hot(peaks.labels, peaks.mask.shape[1]).mT.float()
    return of_cluster * mask.unsqueeze(1) * peaks.mask.unsqueeze(2)


def cluster_means(entries: Tensor, members: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean of every cluster.

    Args:
        entries: ``[B, T, W]``.
        members: See ``memberships``.
        smoothing: Added to the number of members, as some published code does.

    Returns:
        ``[B, K, W]`` in the dtype of the entries; zeros for a cluster without members.
    """
    sizes = members.sum(dim=2, keepdim=True)
    # Padding may be anything, also infinite or not a number.
    real = entries.float().masked_fill(~members.any(dim=1).unsqueeze(2), 0.0)
    with full_precision(real.device):
        summed = members @ real
    return (summed / (sizes + smoothing).clamp(min=1.0)).to(entries.dtype)


def _densities(distances: Tensor, mask: Tensor, num_neighbours: Tensor) -> Tensor:
    nearest = distances.masked_fill(~mask.unsqueeze(1), torch.inf).sort(dim=2).values
    is_near = torch.arange(distances.shape[2], device=distances.device) < num_neighbours[:, None, None]
    total = torch.where(is_near, nearest, 0.0).square().sum(dim=2)
    return (-total / num_neighbours.unsqueeze(1)).exp().masked_fill(~mask, 0.0)


def _published_centres(score: Tensor, mask: Tensor, num_clusters: Tensor, most: int) -> Tensor:
    """Entries of highest score. The random numbers do not tell all densities apart; ``topk`` orders equal scores."""
    centres = torch.zeros(len(score), most, dtype=torch.int64, device=score.device)
    for row, (own, is_real, count) in enumerate(zip(score, mask, num_clusters.tolist(), strict=True)):
        real = is_real.nonzero().squeeze(1)
        centres[row, :count] = real[own[real].topk(count).indices]
    return centres
