"""A memory of clusters of small frames in the order of time, and of large frames for the largest clusters."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens
from components.merging.neighbours import chosen_rows
from components.merging.weighted_kmeans import nearest, ordered_by_time, weighted_kmeans
from components.pooling.patch_pooling import GridPooling


class ClusterAndDetailState(NamedTuple):
    """State after some segments; clusters are in the order of time, empty ones at the end."""

    centroids: Tensor  # [V, K, n, D] mean of small frames
    weights: Tensor  # [V, K] float32, frames of each cluster; 0 for none
    times: Tensor  # [V, K] float32, mean frame number; of no meaning for an empty cluster
    frames: Tensor  # [V, K, N, D] for each cluster the stored large frame nearest to it


class ClusterAndDetailMemory(VisualReader[ClusterAndDetailState]):
    """Remembers what happened as clusters of small frames, and details as the large frames nearest to some clusters.

    After each segment the clusters and its frames, pooled, are clustered again by weighted k-means. Clusters are sorted
    by the mean time of their frames. The language model sees first the large frames of the ``num_details`` largest
    clusters, in the order of time, then all clusters. A video of few frames is shown twice: small and large. The state
    is of constant size, so for each cluster one large frame is stored: the nearest one among those stored before and
    the new ones. A search over all frames of the video could find a nearer one.

    Args:
        dim: Width D of a patch; frames are square grids.
        out_dim: Language model width E.
        num_clusters: Most clusters K.
        cluster_grid: Side of a small frame.
        num_details: Large frames, at most ``num_clusters``.

    Raises:
        ValueError: A number is below 1, or there are more large frames than clusters.

    Source: the context synopsis memory and the detail augmentation memory of Flash-VStream (arXiv:2506.23825),
    IVGSZ/Flash-VStream (Apache-2.0), Flash-VStream-Qwen, commit 8f6bde2. There pixels are pooled before the encoder,
    all frames are clustered at once from random starts, large frames come in the order of their clusters' sizes, and
    the positions of the language model follow the frames' times.
    """

    def __init__(
        self, dim: int, out_dim: int, *, num_clusters: int = 60, cluster_grid: int = 4, num_details: int = 30
    ) -> None:
        super().__init__()
        if not 1 <= num_details <= num_clusters:
            raise ValueError(
                "num_details must be at least 1 and at most num_clusters, because a large frame belongs to a cluster; "
                f"got {num_details} and {num_clusters}"
            )
        self.num_clusters = num_clusters
        self.num_details = num_details
        self.pooling = GridPooling(dim, grid=cluster_grid)
        self.projection = token_projection(dim, out_dim)

    def forward(self, segment: SegmentInput, state: ClusterAndDetailState | None) -> ClusterAndDetailState:
        """Cluster the frames of one segment of every video; see ``VisualReader.forward``."""
        grid = segment.grid(self).masked_fill(~segment.frame_mask[..., None, None], 0.0)
        small = self._pooled(grid)
        old = self._start(grid) if state is None else state
        weights = torch.cat([old.weights, segment.frame_mask.float()], dim=1)
        times = torch.cat([old.times, segment.frame_number.float()], dim=1)
        clusters = weighted_kmeans(torch.cat([old.centroids, small], dim=1).flatten(2), weights, self.num_clusters)
        clusters, mean_times = ordered_by_time(clusters, times, weights)
        mean_times = mean_times.masked_fill(clusters.weights <= 0, 0.0)
        candidates = torch.cat([old.frames, grid], dim=1)
        chosen = nearest(clusters.centroids, self._pooled(candidates).flatten(2), weights > 0)
        frames = candidates.gather(1, chosen[:, :, None, None].expand(-1, -1, *grid.shape[2:]))
        new = (clusters.centroids.unflatten(2, small.shape[2:]), clusters.weights, mean_times, frames)
        has_new = segment.frame_mask.any(dim=1)
        return ClusterAndDetailState(*(chosen_rows(has_new, one, other) for one, other in zip(new, old, strict=True)))

    def read(
        self, state: ClusterAndDetailState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project large frames and clusters: ``[V, num_details * N + num_clusters * n, E]``."""
        chosen = largest_clusters(state.weights, self.num_details).sort(dim=1).values
        details = state.frames.gather(1, chosen[:, :, None, None].expand(-1, -1, *state.frames.shape[2:]))
        shown = ((details, state.weights.gather(1, chosen) > 0), (state.centroids, state.weights > 0))
        tokens = torch.cat([part.flatten(1, 2) for part, _ in shown], dim=1)
        mask = torch.cat([mask.repeat_interleave(part.shape[2], dim=1) for part, mask in shown], dim=1)
        return VisualTokens(self.projection(tokens), mask)

    def _start(self, grid: Tensor) -> ClusterAndDetailState:
        frames = grid.new_zeros(len(grid), self.num_clusters, *grid.shape[2:])
        numbers = torch.zeros(len(grid), self.num_clusters, device=grid.device)
        return ClusterAndDetailState(self._pooled(frames), numbers, numbers, frames)

    def _pooled(self, grid: Tensor) -> Tensor:
        """Every frame of ``[V, L, N, D]`` pooled."""
        pooled: Tensor = self.pooling(grid.flatten(0, 1)).unflatten(0, grid.shape[:2])
        return pooled


def largest_clusters(weights: Tensor, number: int) -> Tensor:
    """The clusters of the largest weights ``[V, K]``, largest first; of equal ones the first. ``[V, number]`` int64."""
    return weights.argsort(dim=1, descending=True, stable=True)[:, :number]
