"""Stores static patches once a segment, and few of the others."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.full_precision import full_precision
from components.interfaces import SegmentInput, SegmentReducer
from components.merging.density_peaks import Noise, density_peaks, memberships
from components.reducers.token_choice import keep_tokens


class WindowTokens(NamedTuple):
    """What is left of a segment, at the cells of its frames."""

    static: Tensor  # [V, N, D] means over the frames, clustered
    static_mask: Tensor  # [V, N] bool
    moving: Tensor  # [V, L, N, D]
    salient_mask: Tensor  # [V, L, N] bool, patches that stay as they are
    merged_mask: Tensor  # [V, L, N] bool, patches in which others are merged


class StaticMerge(SegmentReducer[tuple[()]]):
    """Stores patches that stay the same once for the whole segment, and of every frame the most salient others.

    Static patches are averaged over the frames of the segment, and clustered. Of the others, each frame keeps the most
    salient ones and, with ``merged``, clusters of the rest. Static tokens stand in the first frame of the segment.
    What is saved by storing them once makes room for more of the others.

    Args:
        dim: Width of a patch, D; it stays.
        ratio: Tokens that are left of a segment, as a share of all its patches.
        threshold: A patch is static if its cosine similarity from every frame to the next is above this.
        centre: Weight of the patch in the middle of a cluster; the mean of the others has the rest.
        neighbours: Patches that make the density of the clustering.
        merged: Share of the tokens of a frame that are clusters instead of salient patches.

    Raises:
        ValueError: ``ratio`` is not above 0 and at most 1, or ``merged`` or ``centre`` not from 0 to 1.

    Source: HoliTom (arXiv:2505.21334), cokeshao/HoliTom (Apache-2.0), ``llava_arch.py``, commit e9b2972, with ratio
    0.1, threshold 0.8, centre 0.6 and merged 0; above 0 its code does not run. There the room that static patches save
    is shared by the whole video; here it stays in the segment, because the future is not known. Its second merging,
    inside the language model, is not part of this. ``StaticSegments`` are its segments.
    """

    reads_saliency = True

    def __init__(
        self,
        dim: int,
        *,
        ratio: float = 0.25,
        threshold: float = 0.8,
        centre: float = 0.6,
        neighbours: int = 7,
        merged: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
        for name, value in (("merged", merged), ("centre", centre)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")
        self.out_dim = dim
        self.ratio = ratio
        self.threshold = threshold
        self.centre = centre
        self.neighbours = neighbours
        self.merged = merged

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before, or there is no saliency.
        """
        grid, real = segment.grid(self), segment.frame_mask
        if segment.saliency is None:
            raise ValueError("StaticMerge needs the saliency of patches: set the encoder's saliency_layer")
        _, length, num_cells, _ = grid.shape
        saliency = segment.saliency.detach().view(-1, length, num_cells)
        is_static = static_cells(grid.detach(), real, self.threshold)
        count = real.sum(dim=1).double()
        total = count * num_cells
        saved = is_static.sum(dim=1) * (count - 1).clamp(min=0)
        ratio = (self.ratio * total / (total - saved).clamp(min=1)).clamp(max=1.0)
        found = self.window_tokens(grid, real, saliency, is_static, ratio)
        chosen = found.salient_mask | found.merged_mask
        first = torch.arange(length, device=grid.device) == 0
        at_first = (found.static_mask & real.any(dim=1, keepdim=True)).unsqueeze(1) & first[:, None]  # [V, L, N]
        tokens = torch.where(at_first.unsqueeze(3), found.static.unsqueeze(1), found.moving)
        chosen = chosen | at_first
        # Rounded down shares of nothing may leave nothing; then the most salient patch stays.
        none = real.any(dim=1) & ~chosen.flatten(1).any(dim=1)
        best = saliency.masked_fill(~real.unsqueeze(2), -torch.inf).flatten(1).argmax(dim=1)
        chosen = chosen.flatten(1) | (functional.one_hot(best, length * num_cells).bool() & none[:, None])
        most = min(length * num_cells, int(self.ratio * length * num_cells) + length + 1)
        return keep_tokens(segment._replace(tokens=tokens.flatten(1, 2)), chosen, most), ()

    def window_tokens(
        self,
        grid: Tensor,
        frame_mask: Tensor,
        saliency: Tensor,
        is_static: Tensor,
        ratio: Tensor,
        noise: Noise | None = None,
    ) -> WindowTokens:
        """What is left of a segment of every video.

        Args:
            grid: Patches, ``[V, L, N, D]``.
            frame_mask: Real frames, ``[V, L]`` bool.
            saliency: ``[V, L, N]``.
            is_static: Cells whose patches stay the same, ``[V, N]`` bool.
            ratio: Share of the tokens that is left, ``[V]`` float64.
            noise: See ``density_peaks``; called for the moving patches, then for the static ones.
        """
        num_videos, length, num_cells, _ = grid.shape
        num_moving = num_cells - is_static.sum(dim=1)  # [V]
        wanted = (num_moving * ratio - 1e-9).ceil().long()
        num_salient = (wanted * (1.0 - self.merged)).round().long()
        is_moving = ~is_static[:, None] & frame_mask.unsqueeze(2)  # [V, L, N]
        ranked = saliency.masked_fill(~is_moving, -torch.inf)
        rank = ranked.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        salient = (rank < num_salient[:, None, None]) & is_moving
        frames, left = grid.flatten(0, 1), (is_moving & ~salient).flatten(0, 1)
        moving, merged = frames, torch.zeros_like(left)
        if self.merged > 0:
            moving, merged = self._clustered(frames, left, (wanted - num_salient).repeat_interleave(length), noise)
        weight = frame_mask[:, :, None, None].to(grid.dtype)
        means = (grid * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        num_static = (is_static.sum(dim=1) * ratio).round().long()
        static, static_mask = self._clustered(means, is_static, num_static, noise)
        shape = (num_videos, length)
        return WindowTokens(static, static_mask, moving.unflatten(0, shape), salient, merged.unflatten(0, shape))

    def _clustered(self, entries: Tensor, mask: Tensor, number: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Clusters of every row, each at its centre, ``[B, N, D]``, and which places are a centre, ``[B, N]``."""
        width = entries.shape[1]
        neighbours = number.clamp(max=self.neighbours)
        peaks = density_peaks(entries, mask, number, neighbours.clamp(min=1), most=width, noise=noise)
        members = memberships(peaks, mask)  # [B, K, N]
        is_centre = functional.one_hot(peaks.centres, width) * peaks.mask.unsqueeze(2)
        others = members * (1 - is_centre)
        count = others.sum(dim=2, keepdim=True)
        with full_precision(entries.device):
            middle = is_centre.float() @ entries.float()
            mean = (others @ entries.float().masked_fill(~mask.unsqueeze(2), 0.0)) / count.clamp(min=1)
            tokens = torch.where(count > 0, self.centre * middle + (1 - self.centre) * mean, middle)
            placed = (is_centre.float().mT @ tokens).to(entries.dtype)
        at = is_centre.any(dim=1)
        return torch.where(at.unsqueeze(2), placed, entries), at


def static_cells(grid: Tensor, frame_mask: Tensor, threshold: float) -> Tensor:
    """Cells whose patches are similar from every real frame to the next, ``[V, N]`` bool; none of a single frame."""
    similar = functional.cosine_similarity(grid[:, :-1].float(), grid[:, 1:].float(), dim=3) > threshold
    both = (frame_mask[:, :-1] & frame_mask[:, 1:]).unsqueeze(2)
    return (similar | ~both).all(dim=1) & both.any(dim=1)
