"""Merges similar patches of every frame."""

import torch

from components.interfaces import SegmentInput, SegmentReducer
from components.merging.bipartite import MergedTokens, merge_similar
from components.reducers.merged_segment import with_merged_tokens


class FrameMerge(SegmentReducer[tuple[()]]):
    """Merges similar patches of every frame, so that a quarter of them is left.

    In the first round half of the patches join others, in the second a quarter, and so on. A mean takes the place of
    the patch that the others joined. The number of tokens does not depend on the video, so nothing waits for the
    device.

    Args:
        dim: Width of a patch, D; it stays.
        rounds: Rounds; each leaves about half of the patches.
        weighted: Whether a mean of many patches counts more than a single one in the next round. As published it does
            not.

    Raises:
        ValueError: ``rounds`` is not positive.

    Source: AIM (arXiv:2412.03248), LaVi-Lab/AIM (Apache-2.0), ``token_merge.py`` and ``get_2dPool``, commit edc24e9:
    two rounds after pooling to half the side. There the order of the tokens is that of the matching, and a frame of one
    patch is an error; here the order is that of the frame, and it stays.
    """

    def __init__(self, dim: int, *, rounds: int = 2, weighted: bool = False) -> None:
        super().__init__()
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.out_dim = dim
        self.rounds = rounds
        self.weighted = weighted

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self)  # [V, L, N, D]
        num_videos, length, num_cells, _ = grid.shape
        frames = grid.flatten(0, 1)
        count = torch.full((len(frames),), num_cells, device=grid.device)
        merged = MergedTokens.of_tokens(frames, count)
        left = num_cells
        for joined in numbers_that_join(num_cells, self.rounds):
            merged = merge_similar(merged, torch.full_like(count, joined), weighted=self.weighted)
            left -= joined
        merged = merged.in_order()
        start = num_cells * torch.arange(length, device=grid.device).repeat(num_videos)
        together = MergedTokens(
            merged.tokens[:, :left].unflatten(0, (num_videos, length)).flatten(1, 2),
            merged.sizes[:, :left].unflatten(0, (num_videos, length)).flatten(1, 2),
            (merged.place[:, :left] + start[:, None]).unflatten(0, (num_videos, length)).flatten(1, 2),
            segment.frame_mask.sum(dim=1) * left,
        )
        return with_merged_tokens(segment, together, length * left), ()


def numbers_that_join(num_cells: int, rounds: int) -> list[int]:
    """Patches that join others in every round: a half, a quarter and so on of all, rounded down."""
    return [num_cells // 2**number for number in range(1, rounds + 1)]
