"""Clusters of the patches of a frame, each at the cell of the patch in its middle."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.merging.density_peaks import DensityPeaks, Noise, cluster_means, density_peaks, memberships


class CellClusters(NamedTuple):
    """Some tokens of every frame, each at its own cell."""

    tokens: Tensor  # [B, K, D]
    mask: Tensor  # [B, K] bool
    cell: Tensor  # [B, K] int64

    def on_grid(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The patches ``[B, N, D]`` with the tokens at their cells, and the cells that have one, ``[B, N]`` bool."""
        num_cells = patches.shape[1]
        cell = self.cell.masked_fill(~self.mask, num_cells)  # the cell behind the grid takes what is masked
        grid = torch.cat([patches, patches[:, :1]], dim=1)
        grid = grid.scatter(1, cell.unsqueeze(2).expand_as(self.tokens), self.tokens)
        has_token = torch.zeros(grid.shape[:2], dtype=torch.bool, device=grid.device).scatter(1, cell, self.mask)
        return grid[:, :num_cells], has_token[:, :num_cells]


def cell_clusters(
    patches: Tensor,
    mask: Tensor,
    num_clusters: Tensor,
    num_neighbours: Tensor,
    *,
    most: int,
    centre_weight: float | None = None,
    noise: Noise | None = None,
) -> CellClusters:
    """Cluster the patches of every frame.

    Args:
        patches: ``[B, N, D]``.
        mask: Patches that are clustered, ``[B, N]`` bool.
        num_clusters: See ``density_peaks``.
        num_neighbours: See ``density_peaks``.
        most: See ``density_peaks``.
        centre_weight: Weight of the patch in the middle; the mean of the others of the cluster has the rest, if there
            are others. None: the mean of all.
        noise: See ``density_peaks``.

    Returns:
        The clusters in the order of their scores.
    """
    peaks = density_peaks(patches, mask, num_clusters, num_neighbours, most=most, noise=noise)
    members = memberships(peaks, mask)
    if centre_weight is None:
        return CellClusters(cluster_means(patches, members), peaks.mask, peaks.centres)
    return CellClusters(_around_centres(patches, peaks, members, centre_weight), peaks.mask, peaks.centres)


def _around_centres(patches: Tensor, peaks: DensityPeaks, members: Tensor, centre_weight: float) -> Tensor:
    others = members.scatter(2, peaks.centres.unsqueeze(2), 0.0)
    centres = patches.gather(1, peaks.centres.unsqueeze(2).expand(-1, -1, patches.shape[2])).float()
    mixed = centre_weight * centres + (1.0 - centre_weight) * cluster_means(patches.float(), others)
    return torch.where(others.any(dim=2, keepdim=True), mixed, centres).to(patches.dtype)
