"""Pools the projected patches of a video over time and space."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.positions import patch_grid_side


class PooledGrid(TokenReadout):
    """Projects every patch, and then pools the video to a box of fixed size, whatever its length.

    Windows over time, rows and columns are those of adaptive pooling: they touch or overlap, and a video with fewer
    frames than windows is read several times. So every video has equally many visual tokens.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        shape: Frames, rows and columns of the box.
        stretched_to: Compute as the published code, which repeats the frames of a video with fewer frames than this
            ``int(frames / T) + 1`` times and cuts the rest off, so that its last frames are lost. None: no frame is.

    Raises:
        ValueError: A side of the box is not positive.

    Source: PLLaVA (arXiv:2404.16994), magic-research/PLLaVA, ``modeling_pllava.py: PllavaMultiModalProjector``, commit
    6f49fd2, with 16 frames and (16, 12, 12); the repository has no licence file, so this is written from a description.
    """

    reads_kept_tokens = False

    def __init__(
        self, dim: int, out_dim: int, *, shape: tuple[int, int, int] = (16, 12, 12), stretched_to: int | None = None
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must have three positive numbers (frames, rows, columns), got {shape}")
        self.shape = shape
        self.stretched_to = stretched_to
        self.projection = nn.Sequential(nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Pool: ``[V, frames * rows * columns, E]``, frame by frame and row by row, all real."""
        grids, is_real = stored.frames()
        side = patch_grid_side(stored.num_cells)
        projected = self.projection(grids)  # [V, F, N, E]
        num_videos, num_frames = is_real.shape
        planes = projected.flatten(0, 1).mT.unflatten(2, (side, side))  # [V * F, E, side, side]
        cells = functional.adaptive_avg_pool2d(planes, self.shape[1:]).flatten(2).mT  # [V * F, rows * columns, E]
        cells = cells.unflatten(0, (num_videos, num_frames))
        shares = time_windows(is_real, self.shape[0], self.stretched_to).to(cells.dtype)
        tokens = torch.einsum("vtf,vfne->vtne", shares, cells).flatten(1, 2)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def time_windows(is_real: Tensor, number: int, stretched_to: int | None = None) -> Tensor:
    """Share of every frame in each window of adaptive pooling over time.

    Args:
        is_real: Real frames of every video, ``[V, F]`` bool; masked ones may stand between them.
        number: Windows.
        stretched_to: See ``PooledGrid``.

    Returns:
        ``[V, number, F]`` float32; each row sums to 1.
    """
    length = is_real.sum(dim=1, keepdim=True).clamp(min=1)  # [V, 1]
    rank = is_real.cumsum(dim=1) - 1  # [V, F]
    window = torch.arange(number, device=is_real.device)
    if stretched_to is None:
        first, last = window * length // number, ((window + 1) * length + number - 1) // number  # [V, number]
        inside = (rank[:, None] >= first[..., None]) & (rank[:, None] < last[..., None]) & is_real[:, None]
        return inside / inside.sum(dim=2, keepdim=True)
    repeats = torch.where(length < stretched_to, stretched_to // length + 1, 1)  # [V, 1]
    stretched = torch.where(length < stretched_to, stretched_to, length)
    first, last = window * stretched // number, ((window + 1) * stretched + number - 1) // number
    begin = (rank * repeats)[:, None]  # the places that copies of a frame take
    covered = torch.minimum(begin + repeats[..., None], last[..., None]) - torch.maximum(begin, first[..., None])
    counts = covered.clamp(min=0) * is_real[:, None]
    return counts / counts.sum(dim=2, keepdim=True)
