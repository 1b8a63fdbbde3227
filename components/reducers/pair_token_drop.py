"""Drops the patches of every other frame that look like those of the frame before."""

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.token_choice import keep_tokens


class PairTokenDrop(SegmentReducer[tuple[()]]):
    """Keeps every fourth frame of a segment whole, and of the frames between them what is new.

    Frames are taken in pairs: of the second one, the patches least like those at the same places of the first stay.
    Then the third frame of every four is compared with the first in the same way. How many tokens are left is known
    before.

    Args:
        dim: Width of a patch, D; it stays.
        drop: Share of the patches that a compared frame loses; the others, rounded down, stay, but at least one.
        as_published: Compute as the published code: the last group of four keeps its third frame whole, and the last of
            an odd number of frames is lost, if the segment has another. A compared frame may keep none, and a product
            such as (1 - 0.8) * 10, which is a little below 2, is rounded down to 1.

    Raises:
        ValueError: ``drop`` is below 0 or not below 1.

    Source: DyCoke (arXiv:2411.15024), KD-TAO/DyCoke (Apache-2.0), ``llava_arch.py: dycole_ttm``, commit dd74634, with
    0.7 in its evaluation. Its pruning inside the language model is not part of this. It works on the whole video, here
    a segment is the unit; it orders the kept patches of a frame by similarity, here they stay in the order of the grid.
    """

    def __init__(self, dim: int, *, drop: float = 0.7, as_published: bool = False) -> None:
        super().__init__()
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"drop must be at least 0 and below 1, got {drop}")
        self.out_dim = dim
        self.drop = drop
        self.as_published = as_published

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Drop tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self).detach()
        chosen = tokens_of_pairs(grid, segment.frame_mask, self.drop, as_published=self.as_published)
        _, length, num_cells, _ = grid.shape
        few = patches_that_stay(num_cells, self.drop, as_published=self.as_published)
        compared = length // 2 + (length + 1) // 4
        most = num_cells * length if self.as_published else num_cells * (length - compared) + few * compared
        return keep_tokens(segment, chosen.flatten(1), most), ()


def tokens_of_pairs(grid: Tensor, frame_mask: Tensor, drop: float, *, as_published: bool = False) -> Tensor:
    """Find the patches that stay.

    Args:
        grid: Patches, ``[V, L, N, D]``.
        frame_mask: Real frames, ``[V, L]`` bool, first those.
        drop: See ``PairTokenDrop``.
        as_published: See ``PairTokenDrop``.

    Returns:
        ``[V, L, N]`` bool.
    """
    length, num_cells = grid.shape[1:3]
    few = patches_that_stay(num_cells, drop, as_published=as_published)
    place = torch.arange(length, device=grid.device)
    # The second of a pair is compared with the first, the third of four with the first of four.
    back = torch.where(place % 2 == 1, 1, torch.where(place % 4 == 2, 2, 0))  # [L]
    similarity = functional.cosine_similarity(grid.float(), grid[:, place - back].float(), dim=3)  # [V, L, N]
    rank = similarity.argsort(dim=2, stable=True).argsort(dim=2)
    is_compared = (back > 0).expand(frame_mask.shape)
    number = frame_mask.sum(dim=1, keepdim=True)
    stays = frame_mask
    if as_published:
        is_compared = is_compared & ((place % 2 == 1) | (place - 2 < number - 4))
        stays = frame_mask & ((place < number // 2 * 2) | (number == 1))
    kept: Tensor = (~is_compared.unsqueeze(2) | (rank < few)) & stays.unsqueeze(2)
    return kept


def patches_that_stay(num_cells: int, drop: float, *, as_published: bool = False) -> int:
    """Patches of a compared frame that stay; see ``PairTokenDrop``."""
    share = (1 - drop) * num_cells
    return int(share) if as_published else max(1, int(share + 1e-6))
