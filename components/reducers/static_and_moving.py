"""Reads what stays the same in a segment once, and clusters what is left of it and of every frame."""

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput, SegmentReducer
from components.merging.density_peaks import Noise
from components.reducers.clustered_cells import CellClusters, cell_clusters
from components.reducers.token_choice import keep_tokens


class StaticAndMoving(SegmentReducer[tuple[()]]):
    """Reads the cells that stay the same in a segment once, and the moving ones in every frame; both in clusters.

    A cell is static if its patches in all pairs of frames of the segment are similar on average. Then one token, their
    mean, stands for all of them, in the first frame. The patches of moving cells stay in their frames. The static
    tokens are clustered, and so are the moving ones of each frame. A cluster's token is the mean, at the cell of the
    patch in its middle. How many tokens are left depends on the video, so the program waits for the device once a
    segment.

    Args:
        dim: Width of a patch, D; it stays.
        threshold: Cells with a higher mean cosine similarity are static. A segment of one frame has no static cells.
        cluster_ratio: Clusters for each token, rounded down, but at least one.
        num_neighbours: Tokens by which the clustering finds dense ones.
        unclustered: Groups of at most this many tokens are not clustered.

    Raises:
        ValueError: ``cluster_ratio`` is not above 0 and at most 1, or ``num_neighbours`` is below 1.

    Source: PruneVid (arXiv:2412.16117), Visual-AI/PruneVid (its README names CC BY-NC-SA 4.0; written from a
    description), ``models/pllava/modeling_pllava.py``, commit b12600c. Its windows are those of ``SceneClusters``; any
    segments do here. There a window of one frame divides by zero, ties are broken by random numbers, and clusters are
    in the order of their scores, here of their cells. Its choice of tokens by attention inside the language model is
    not here.
    """

    def __init__(
        self,
        dim: int,
        *,
        threshold: float = 0.8,
        cluster_ratio: float = 0.5,
        num_neighbours: int = 7,
        unclustered: int = 14,
    ) -> None:
        super().__init__()
        if not 0.0 < cluster_ratio <= 1.0:
            raise ValueError(f"cluster_ratio must be above 0 and at most 1, got {cluster_ratio}")
        if num_neighbours < 1:
            raise ValueError(f"num_neighbours must be at least 1, got {num_neighbours}")
        self.out_dim = dim
        self.threshold = threshold
        self.cluster_ratio = cluster_ratio
        self.num_neighbours = num_neighbours
        self.unclustered = unclustered

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self)  # [V, L, N, D]
        static, moving = self.static_and_moving(grid, segment.frame_mask)
        tokens, chosen = moving.on_grid(grid.flatten(0, 1))
        tokens, chosen = tokens.view_as(grid), chosen.view(grid.shape[:3])
        first, is_static = static.on_grid(tokens[:, 0])
        tokens = torch.cat([first.unsqueeze(1), tokens[:, 1:]], dim=1)
        chosen = torch.cat([(chosen[:, 0] | is_static).unsqueeze(1), chosen[:, 1:]], dim=1).flatten(1)
        num_kept = len(chosen[0]) if chosen.is_meta else max(1, int(chosen.sum(dim=1).max()))
        return keep_tokens(segment._replace(tokens=tokens.flatten(1, 2)), chosen, num_kept), ()

    def static_and_moving(
        self, grid: Tensor, frame_mask: Tensor, noise: Noise | None = None
    ) -> tuple[CellClusters, CellClusters]:
        """The static tokens of every segment, and the moving ones of every frame of it.

        Args:
            grid: Patches of a segment, ``[V, L, N, D]``.
            frame_mask: Real frames, ``[V, L]`` bool.
            noise: See ``density_peaks``.
        """
        is_static = static_cells(grid, frame_mask, self.threshold)  # [V, N]
        static = self._clustered(frame_means(grid, frame_mask), is_static, noise)
        is_moving = ~is_static.unsqueeze(1) & frame_mask.unsqueeze(2)
        return static, self._clustered(grid.flatten(0, 1), is_moving.flatten(0, 1), noise)

    def _clustered(self, tokens: Tensor, mask: Tensor, noise: Noise | None) -> CellClusters:
        """Clusters of the tokens ``[B, N, D]`` where there are many, and the others as they are."""
        num_cells, count = tokens.shape[1], mask.sum(dim=1)
        many = (count > self.unclustered).unsqueeze(1)
        wanted = (count.double() * self.cluster_ratio).long().clamp(min=1)
        most = max(1, int(num_cells * self.cluster_ratio))
        neighbours = torch.full_like(count, self.num_neighbours)
        clusters = cell_clusters(tokens, mask & many, wanted, neighbours, most=most, noise=noise)
        # Rows of few tokens keep all of them, at their cells.
        missing = num_cells - most
        cells = torch.arange(num_cells, device=tokens.device).expand_as(mask)
        return CellClusters(
            torch.where(many.unsqueeze(2), functional.pad(clusters.tokens, (0, 0, 0, missing)), tokens),
            torch.where(many, functional.pad(clusters.mask, (0, missing)), mask),
            torch.where(many, functional.pad(clusters.cell, (0, missing)), cells),
        )


def frame_means(grid: Tensor, frame_mask: Tensor) -> Tensor:
    """Mean over the real frames of every cell, ``[V, N, D]`` in the dtype of the patches ``[V, L, N, D]``."""
    real = grid.float().masked_fill(~frame_mask[:, :, None, None], 0.0)
    return (real.sum(dim=1) / frame_mask.sum(dim=1).clamp(min=1)[:, None, None]).to(grid.dtype)


def static_cells(grid: Tensor, frame_mask: Tensor, threshold: float) -> Tensor:
    """Cells whose patches are similar in all pairs of frames on average, ``[V, N]`` bool.

    Args:
        grid: Patches of a segment, ``[V, L, N, D]``.
        frame_mask: Real frames, ``[V, L]`` bool.
        threshold: Mean cosine similarity above which a cell is static.
    """
    directions = functional.normalize(grid.detach().float(), dim=3)
    directions = directions.masked_fill(~frame_mask[:, :, None, None], 0.0)
    count = frame_mask.sum(dim=1, keepdim=True)  # [V, 1]
    # The squared length of the sum is the sum over all pairs of frames, also of each frame with itself.
    with_itself = directions.square().sum(dim=(1, 3))
    of_pairs = directions.sum(dim=1).square().sum(dim=2) - with_itself
    return (of_pairs / (count * (count - 1)).clamp(min=1) > threshold) & (count > 1)
