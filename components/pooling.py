"""Spatial pooling of patch grids."""

import math

from torch import Tensor
from torch.nn import functional


def patch_grid_side(num_patches: int) -> int:
    """Side of the square grid that N row-major patches form.

    Args:
        num_patches: Patches of a frame, N.

    Returns:
        The side, ``sqrt(N)``.

    Raises:
        ValueError: N is no square number; the rows of the grid cannot be told apart.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} patches a frame form no square grid, so they cannot be pooled to one")
    return side


def pool_patches(patches: Tensor, grid: int) -> Tensor:
    """Average a square patch grid down (or up) to another one, as ``AdaptiveAvgPool2d`` does.

    Windows overlap where the old side is no multiple of the new one; a smaller grid is repeated up.

    Args:
        patches: Patches in row-major order, ``[F, N, D]`` with N a square number.
        grid: Side g of the new grid.

    Returns:
        ``[F, g * g, D]``, row-major, same dtype.

    Raises:
        ValueError: N is no square number.
    """
    num_frames, num_patches, dim = patches.shape
    side = patch_grid_side(num_patches)
    if side == grid:
        return patches
    if num_frames == 0:  # torch's pooling refuses an empty batch
        return patches.new_empty(0, grid * grid, dim)
    planes = patches.transpose(1, 2).reshape(num_frames, dim, side, side)
    pooled = functional.adaptive_avg_pool2d(planes, grid)
    return pooled.flatten(2).transpose(1, 2)
