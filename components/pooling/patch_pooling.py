"""Three ways to make fewer patches of a frame; ``PatchPooling`` is their contract.

- ``GridPooling`` gives a grid of a given size, whatever size the encoder gives: take it to set the number of patches.
- ``WindowPooling`` takes the mean or the maximum of every window of a given size, or interpolates: take it to divide
  the number of patches without new weights.
- ``ConvPooling`` learns how to combine the patches of a window: take it where the bridge is trained with enough data.
"""

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from components.interfaces import PatchPooling
from components.positions import patch_grid_side

Reduction = Literal["average", "max", "bilinear"]
GridReduction = Literal["average", "bilinear"]


class GridPooling(PatchPooling):
    """Resizes a square patch grid. Has no weights. A grid that has the size already stays as it is.

    Args:
        dim: Width of a patch, D.
        grid: Side of the new grid, in patches.
        reduction: ``average``: a new patch is the mean of the old ones that it covers, as in ``AdaptiveAvgPool2d``.
            ``bilinear``: it is interpolated from the four old ones around its centre, as in LLaVA-OneVision, so that
            patches in between are not read where the grid shrinks much.

    Raises:
        ValueError: ``grid`` is not positive, or ``reduction`` is neither of the two.

    Source: bilinear after LLaVA-OneVision (arXiv:2408.03326).
    """

    def __init__(self, dim: int, *, grid: int, reduction: GridReduction = "average") -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"the side of the pooled grid must be at least 1, got grid={grid}")
        if reduction not in get_args(GridReduction):
            raise ValueError(f"reduction must be one of {get_args(GridReduction)}, got {reduction!r}")
        self.out_dim = dim
        self.grid = grid
        self.reduction = reduction

    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame separately: ``[F, N, D]`` to ``[F, grid * grid, D]``; see ``PatchPooling``."""
        num_frames, num_patches, dim = patches.shape
        if patch_grid_side(num_patches) == self.grid:
            return patches
        if self.reduction == "average":
            if num_frames == 0:  # torch refuses an empty batch
                return patches.new_empty(0, self.grid**2, dim)
            return _to_patches(functional.adaptive_avg_pool2d(_to_planes(patches), self.grid))
        return _interpolated(patches, self.grid)


class WindowPooling(PatchPooling):
    """Keeps the mean or, channel by channel, the maximum of every window of patches. Has no weights.

    Windows are squares that touch but do not overlap. Rows and columns that are left over at the bottom and on the
    right are not read; with ``bilinear``, which interpolates a grid of that many windows rounded up, all parts of the
    picture are.

    Args:
        dim: Width of a patch, D.
        stride: Side of a window, in patches.
        reduction: ``average``, ``max`` or ``bilinear``.

    Raises:
        ValueError: ``stride`` is not positive, or ``reduction`` is none of the three.

    Source: the spatial pooling in the VideoLLaMB code; ``bilinear`` as in LLaVA-NeXT, ``llava_arch.py: get_2dPool``,
    commit df17966 (Apache-2.0).
    """

    def __init__(self, dim: int, *, stride: int = 2, reduction: Reduction = "average") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}")
        self.out_dim = dim
        self.stride = _positive(stride)
        self.reduction = reduction

    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame separately: ``[F, N, D]`` to ``[F, side ** 2, D]``.

        ``side`` is ``sqrt(N) / stride``, rounded down, or up if bilinear.
        """
        if self.reduction == "bilinear":
            side = patch_grid_side(patches.shape[1])
            return _interpolated(patches, -(-side // self.stride))
        _check_window(patches, self.stride)
        pool = functional.avg_pool2d if self.reduction == "average" else functional.max_pool2d
        return _to_patches(pool(_to_planes(patches), self.stride))


class ConvPooling(PatchPooling):
    """Learns how a window's patches become one: a convolution whose kernel is the window.

    Its windows are those of ``WindowPooling``.

    Args:
        dim: Width of a patch, D.
        stride: Side of a window, in patches.
        out_dim: Width of a pooled patch; D by default.

    Raises:
        ValueError: ``stride`` is not positive.

    Source: the spatial pooling in the VideoLLaMB code.
    """

    def __init__(self, dim: int, *, stride: int = 2, out_dim: int | None = None) -> None:
        super().__init__()
        self.out_dim = out_dim or dim
        self.stride = _positive(stride)
        self.convolution = nn.Conv2d(dim, self.out_dim, kernel_size=stride, stride=stride)

    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame separately: ``[F, N, D]`` to ``[F, floor(sqrt(N) / stride) ** 2, out_dim]``."""
        _check_window(patches, self.stride)
        return _to_patches(self.convolution(_to_planes(patches)))


def _interpolated(patches: Tensor, grid: int) -> Tensor:
    if len(patches) == 0:  # torch refuses an empty batch
        return patches.new_empty(0, grid**2, patches.shape[2])
    return _to_patches(functional.interpolate(_to_planes(patches), grid, mode="bilinear", align_corners=False))


def _positive(stride: int) -> int:
    if stride < 1:
        raise ValueError(f"the side of a pooling window must be at least 1, got stride={stride}")
    return stride


def _check_window(patches: Tensor, stride: int) -> None:
    side = patch_grid_side(patches.shape[1])
    if side < stride:
        raise ValueError(
            f"a grid of {side} x {side} patches holds no window of {stride} x {stride}: lower the pooling's stride, or "
            "keep more patches in the encoder"
        )


def _to_planes(patches: Tensor) -> Tensor:
    """Patches ``[F, N, D]``, row-major, as an image of D channels, ``[F, D, sqrt(N), sqrt(N)]``."""
    num_frames, num_patches, dim = patches.shape
    side = patch_grid_side(num_patches)
    return patches.transpose(1, 2).reshape(num_frames, dim, side, side)


def _to_patches(planes: Tensor) -> Tensor:
    return planes.flatten(2).transpose(1, 2)
