"""Drops the patches that look like the patch at the same position of the frame before."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.token_choice import keep_tokens

Reference = Literal["previous", "last_kept"]


class TokenDropState(NamedTuple):
    """What the next frame is compared with."""

    last: Tensor  # [V, N, D] float32, patch that each cell is compared with, scaled to length 1; zeros before a frame
    seen: Tensor  # [V] bool on the host, videos that have had a frame


class TemporalTokenDrop(SegmentReducer[TokenDropState]):
    """Drops the patches that hardly differ from the patch at the same position of the frame before.

    Patches are compared by cosine similarity. The first frame of a video keeps all its patches. Every later frame keeps
    at least one: where none differs enough, the one that differs most. What is kept stays unchanged and in order, with
    its place and its gradient. A frame is what the reader reads as one: a frame group.

    The kept tokens of a segment are moved together, so that the reader computes less: the segment becomes as long as
    the most tokens that one of its videos keeps. With ``threshold`` this number depends on the patches, so the program
    waits for the device once a segment. With ``ratio`` the number is known before; the program waits once a batch, to
    know which videos have begun.

    Args:
        dim: Width of a patch, D; it stays.
        threshold: Patches with a higher similarity are dropped; at 1 none is. The share that this drops depends on the
            encoder: ``python -m benchmarks.token_drop`` measures it. Has no effect with ``ratio``.
        ratio: Drop this share of every frame's patches instead, rounded down to a whole number: the most similar ones.
            Of equal ones the last in row-major order are dropped.
        reference: ``previous`` compares with the frame before, as published: what changes slowly is never kept again.
            ``last_kept`` compares with the patch that was kept last at the same position.

    Raises:
        ValueError: ``ratio`` is below 0 or not below 1, or ``reference`` is neither of the two.

    Source: the form of TimeChat-Online (arXiv:2504.17343) that compares features, and its code, commit 25a1578. There a
    frame may lose all patches. ``last_kept`` is not in the paper.
    """

    def __init__(
        self, dim: int, *, threshold: float = 0.5, ratio: float | None = None, reference: Reference = "previous"
    ) -> None:
        super().__init__()
        if ratio is not None and not 0.0 <= ratio < 1.0:
            raise ValueError(f"ratio must be at least 0 and below 1, so that every frame keeps a patch; got {ratio}")
        if reference not in get_args(Reference):
            raise ValueError(f"reference must be one of {get_args(Reference)}, got {reference!r}")
        self.out_dim = dim
        self.threshold = threshold
        self.ratio = ratio
        self.reference = reference

    def forward(self, segment: SegmentInput, state: TokenDropState | None) -> tuple[SegmentInput, TokenDropState]:
        """Drop tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before, so a cell has no patch in some frames.
        """
        grid = segment.grid(self).detach()  # [V, L, N, D]; which patches to keep is decided without gradient
        if state is None:
            last = torch.zeros_like(grid[:, 0], dtype=torch.float32)
            state = TokenDropState(last, torch.zeros(len(grid), dtype=torch.bool))
        all_seen = bool(state.seen.all())
        kept, last = self._compare(grid, segment.frame_mask, state, all_seen)
        seen = state.seen if all_seen else state.seen | segment.frame_mask.any(dim=1).cpu()
        reduced = keep_tokens(segment, kept.flatten(1), self._most_tokens(kept, all_seen))
        return reduced, TokenDropState(last, seen)

    def _compare(
        self, grid: Tensor, frame_mask: Tensor, state: TokenDropState, all_seen: bool
    ) -> tuple[Tensor, Tensor]:
        """Compare every frame with the reference.

        Returns:
            The patches to keep, ``[V, L, N]`` bool, and the reference after the segment.
        """
        last, kept = state.last, []
        for group, (patches, is_real) in enumerate(zip(grid.unbind(1), frame_mask.unbind(1), strict=True)):
            patches = functional.normalize(patches.float(), dim=-1)
            # The cosine of vectors of length 1. Of equal patches it is exactly 1, and rounding errors of the encoder do
            # not change that, because they are squared.
            similarity = 1.0 - (patches - last).square().sum(dim=-1) / 2.0
            keep = self._keeps(similarity)  # [V, N]
            if group == 0 and not all_seen:  # real frame groups come before masked ones
                keep = keep | ~state.seen.to(keep.device, non_blocking=True).unsqueeze(1)
            keep = keep & is_real.unsqueeze(1)
            replaced = keep if self.reference == "last_kept" else is_real.unsqueeze(1)
            last = torch.where(replaced.unsqueeze(2), patches, last)
            kept.append(keep)
        return torch.stack(kept, dim=1), last

    def _keeps(self, similarity: Tensor) -> Tensor:
        """Which patches of a frame to keep, ``[V, N]`` bool: at least one of each video."""
        if self.ratio is not None:
            chosen = similarity.argsort(dim=1, stable=True)[:, : self._kept_of_frame(similarity.shape[1])]
            return torch.zeros_like(similarity, dtype=torch.bool).scatter(1, chosen, True)
        cells = torch.arange(similarity.shape[1], device=similarity.device)
        return (similarity <= self.threshold) | (similarity.argmin(dim=1, keepdim=True) == cells)

    def _kept_of_frame(self, num_cells: int) -> int:
        """Patches that every frame keeps with ``ratio``."""
        assert self.ratio is not None
        return num_cells - int(num_cells * self.ratio + 1e-6)  # 100 * 0.29 is 28.999... in floating point

    def _most_tokens(self, kept: Tensor, all_seen: bool) -> int:
        """Most tokens that a video keeps of the segment; at least 1, so that no reader reads nothing."""
        _, length, num_cells = kept.shape
        if self.ratio is not None:
            each = self._kept_of_frame(num_cells)
            return (each if all_seen else num_cells) + (length - 1) * each
        if kept.is_meta:  # operations are being counted, there are no values: as many as there can be
            return length * num_cells
        return max(1, int(kept.sum(dim=(1, 2)).max()))
