"""Spatial pooling of patch grids: to a given grid, or by windows as a part of the bridge that a config chooses."""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

Reduction = Literal["average", "max"]


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


class PatchPooling(nn.Module, ABC):
    """Makes one patch out of every window of a frame's square grid. Built as ``Pooling(dim, *, options)``.

    Windows are squares that touch but do not overlap. Where their side does not divide the grid's, the rows and columns
    that are left over at the bottom and on the right are not read.

    Args:
        dim: Width of a patch, D.
        stride: Side of a window, in patches.

    Attributes:
        out_dim: Width of a pooled patch.

    Raises:
        ValueError: ``stride`` is not positive.

    Source: the spatial pooling in the VideoLLaMB code.
    """

    out_dim: int

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"the side of a pooling window must be at least 1, got stride={stride}")
        self.out_dim = dim
        self.stride = stride

    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame by itself.

        Args:
            patches: Patches in row-major order, ``[F, N, D]`` with N a square number.

        Returns:
            ``[F, floor(sqrt(N) / stride) ** 2, out_dim]``, row-major.

        Raises:
            ValueError: N is no square number, or the grid is smaller than one window.
        """
        num_frames, num_patches, dim = patches.shape
        side = patch_grid_side(num_patches)
        if side < self.stride:
            raise ValueError(
                f"a grid of {side} x {side} patches holds no window of {self.stride} x {self.stride}: lower the "
                "pooling's stride, or keep more patches in the encoder"
            )
        planes = patches.transpose(1, 2).reshape(num_frames, dim, side, side)
        return self.reduce(planes).flatten(2).transpose(1, 2)

    @abstractmethod
    def reduce(self, planes: Tensor) -> Tensor:
        """From planes ``[F, D, side, side]`` to ``[F, out_dim, side // stride, side // stride]``."""


class WindowPooling(PatchPooling):
    """Keeps the mean or, channel by channel, the largest value of every window. Has no weights.

    Args:
        dim: Width of a patch, D.
        stride: Side of a window, in patches.
        reduction: ``average`` or ``max``.

    Raises:
        ValueError: ``stride`` is not positive, or ``reduction`` is neither of the two.
    """

    def __init__(self, dim: int, *, stride: int = 2, reduction: Reduction = "average") -> None:
        super().__init__(dim, stride)
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}")
        self.reduction = reduction

    def reduce(self, planes: Tensor) -> Tensor:
        """Mean or maximum; see ``PatchPooling.reduce``."""
        pool = functional.avg_pool2d if self.reduction == "average" else functional.max_pool2d
        pooled: Tensor = pool(planes, self.stride)
        return pooled


class ConvPooling(PatchPooling):
    """Learns how a window's patches become one: a convolution whose kernel is the window.

    Args:
        dim: Width of a patch, D.
        stride: Side of a window, in patches.
        out_dim: Width of a pooled patch; D by default.

    Raises:
        ValueError: ``stride`` is not positive.
    """

    def __init__(self, dim: int, *, stride: int = 2, out_dim: int | None = None) -> None:
        super().__init__(dim, stride)
        self.out_dim = out_dim or dim
        self.convolution = nn.Conv2d(dim, self.out_dim, kernel_size=stride, stride=stride)

    def reduce(self, planes: Tensor) -> Tensor:
        """Convolve; see ``PatchPooling.reduce``."""
        pooled: Tensor = self.convolution(planes)
        return pooled
