"""Some frames at a high and the others at a low resolution, with newlines."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.pooling.patch_pooling import Reduction, WindowPooling
from components.positions import patch_grid_side
from components.readers.readouts.stored_frames import ranks_of

Newlines = Literal["rows", "frames", "end", "none"]


class SlowFast(TokenReadout):
    """Shows every few frames with many tokens and the frames between them with few.

    Every frame is projected and pooled by windows; a learned vector follows each row, each frame or the video, and a
    second one each frame where some frames are fast.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        every: One of so many frames is slow, the first is; 1 for all of them.
        slow_stride: Side of the windows of slow frames, in patches.
        fast_stride: Side of the windows of fast frames.
        newlines: ``rows``: after every row of a frame. ``frames``: after every frame. ``end``: one after the last
            frame, as in LLaVA-OneVision. ``none``.
        reduction: How a window becomes one token; see ``WindowPooling``.

    Raises:
        ValueError: A number is not positive, or ``newlines`` or ``reduction`` is unknown.

    Source: LLaVA-Video (arXiv:2410.02713), LLaVA-VL/LLaVA-NeXT (Apache-2.0), ``llava_arch.py: get_2dPool,
    add_token_per_grid, add_token_per_frame`` and the slow-fast statements, commit df17966, which are out of use there.
    Its bilinear pooling before the video is stored is ``GridPooling`` here.
    """

    reads_kept_tokens = False

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        every: int = 4,
        slow_stride: int = 1,
        fast_stride: int = 2,
        newlines: Newlines = "rows",
        reduction: Reduction = "average",
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if newlines not in get_args(Newlines):
            raise ValueError(f"newlines must be one of {get_args(Newlines)}, got {newlines!r}")
        self.every = every
        self.newlines: Newlines = newlines
        self.projection = token_projection(dim, out_dim)
        self.slow = WindowPooling(out_dim, stride=slow_stride, reduction=reduction)
        self.fast = WindowPooling(out_dim, stride=fast_stride, reduction=reduction)
        self.newline = nn.Parameter(torch.randn(out_dim) * out_dim**-0.5) if newlines != "none" else None
        self.frame_end = nn.Parameter(torch.randn(out_dim) * out_dim**-0.5) if every > 1 else None

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Show the frames: ``[V, F * n, E]`` with the n tokens of a slow frame; what a fast one lacks is masked."""
        grids, is_real = stored.frames()
        patches = self.projection(grids).flatten(0, 1)  # [V * F, N, E]
        slow = self._laid_out(self.slow(patches))
        if self.every == 1:
            tokens, number = slow, torch.full_like(is_real, slow.shape[1], dtype=torch.int64)
        else:
            fast = self._laid_out(self.fast(patches))
            is_slow = ranks_of(is_real) % self.every == 0
            padded = nn.functional.pad(fast, (0, 0, 0, slow.shape[1] - fast.shape[1]))
            tokens = torch.where(is_slow.flatten()[:, None, None], slow, padded)
            number = torch.where(is_slow, slow.shape[1], fast.shape[1])
        mask = (torch.arange(tokens.shape[1], device=is_real.device) < number[..., None]) & is_real[..., None]
        tokens, mask = tokens.unflatten(0, is_real.shape).flatten(1, 2), mask.flatten(1)
        if self.newlines == "end" and self.newline is not None:
            end = self.newline.to(tokens.dtype).expand(len(tokens), 1, -1)
            tokens, mask = torch.cat([tokens, end], dim=1), torch.cat([mask, mask.any(dim=1, keepdim=True)], dim=1)
        return VisualTokens(tokens, mask)

    def _laid_out(self, patches: Tensor) -> Tensor:
        tokens = with_newlines(patches, self.newline, self.newlines)
        if self.frame_end is None:
            return tokens
        return torch.cat([tokens, self.frame_end.to(tokens.dtype).expand(len(tokens), 1, -1)], dim=1)


def with_newlines(patches: Tensor, newline: Tensor | None, kind: Newlines) -> Tensor:
    """Put a vector after every row or every frame.

    Args:
        patches: ``[F, N, E]``, square grids.
        newline: ``[E]``; None only with ``none``.
        kind: See ``SlowFast``; ``end`` puts none here.

    Returns:
        ``[F, N + newlines, E]``.
    """
    if kind in ("none", "end") or newline is None:
        return patches
    side = patch_grid_side(patches.shape[1])
    rows = patches.unflatten(1, (side, side) if kind == "rows" else (1, -1))
    ends = newline.to(patches.dtype).expand(*rows.shape[:2], 1, -1)
    return torch.cat([rows, ends], dim=2).flatten(1, 2)
