"""Keeps the coarse structure of a grid of patches: its low spatial frequencies."""

import math

import torch
from torch import Tensor

from components.full_precision import full_precision
from components.interfaces import PatchPooling
from components.positions import patch_grid_side


class LowFrequencyPooling(PatchPooling):
    """Makes a smaller grid that has the same low spatial frequencies. Has no weights.

    Each channel of a frame is written as a sum of cosine waves over the grid; only the slowest ``reserve`` of each
    direction are kept, and a grid of that side is made of them. All of it is one linear map of rows and columns, so its
    gradient is exact.

    Args:
        dim: Width of a patch, D.
        reserve: Side of the new grid, in patches: waves that are kept of each direction.
        rescale: Keep the size of the values: equal patches stay as they are. Without it they grow by the ratio of the
            two sides, as in the published code.

    Raises:
        ValueError: ``reserve`` is not positive.

    Source: Fourier-VLM (arXiv:2508.06038), whyisverysmart/Fourier-Compressor (Apache-2.0), ``fourier_compressor/``,
    commit 45ab404. ``rescale`` is not in it: its trained projector learns the larger values, a frozen one would not.
    """

    def __init__(self, dim: int, *, reserve: int, rescale: bool = True) -> None:
        super().__init__()
        if reserve < 1:
            raise ValueError(f"reserve must be at least 1, got {reserve}")
        self.out_dim = dim
        self.reserve = reserve
        self.rescale = rescale

    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame separately: ``[F, N, D]`` to ``[F, reserve * reserve, D]``; see ``PatchPooling``.

        Raises:
            ValueError: The patches are no square grid, or its side is below ``reserve``.
        """
        side = patch_grid_side(patches.shape[1])
        if side < self.reserve:
            raise ValueError(
                f"the grid of {side} x {side} patches has fewer than reserve={self.reserve} frequencies: set reserve "
                f"to {side} or less"
            )
        shrink = low_frequency_map(side, self.reserve, rescale=self.rescale)
        shrink = shrink.to(patches.device, non_blocking=True)
        planes = patches.float().unflatten(1, (side, side))  # [F, side, side, D]
        with full_precision(planes.device):
            pooled = torch.einsum("ih,jw,fhwd->fijd", shrink, shrink, planes)
        return pooled.flatten(1, 2).to(patches.dtype)


def low_frequency_map(side: int, reserve: int, *, rescale: bool) -> Tensor:
    """The map of one direction: the inverse cosine transform of ``reserve`` values after the transform of ``side``.

    Args:
        side: Values before.
        reserve: Values after, at most ``side``.
        rescale: Keep the mean. Both transforms are orthonormal, so the mean grows by ``sqrt(side / reserve)`` without.

    Returns:
        ``[reserve, side]`` float32.
    """
    slow = _cosines(side)[:reserve]  # [reserve, side]
    back = _cosines(reserve).T  # [reserve, reserve]
    scale = math.sqrt(reserve / side) if rescale else 1.0
    return (back @ slow * scale).float()


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform DCT-II, ``[size, size]`` float64; row k is the wave of frequency k."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size
    waves = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * places) * math.sqrt(2.0 / size)
    waves[0] = math.sqrt(1.0 / size)
    return waves
