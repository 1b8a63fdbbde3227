"""Sinusoidal codes for positions and times. They have no parameters, so they fit any grid and any length."""

import math

import torch
from torch import Tensor


def sinusoidal(position: Tensor, dim: int, *, longest: float, shortest: float) -> Tensor:
    """Encode real-valued positions as sines and cosines of geometrically spaced wavelengths.

    Args:
        position: Positions of any shape ``[...]``, any unit.
        dim: Width of the code, D; even.
        longest: Longest wavelength, in the unit of ``position``.
        shortest: Shortest wavelength; positions closer than about a quarter of it look alike.

    Returns:
        ``[..., D]`` float32, sines first.

    Raises:
        ValueError: ``dim`` is odd, so sines and cosines cannot pair up.
    """
    if dim % 2:
        raise ValueError(f"a sinusoidal code needs an even width, got {dim}")
    ratio = torch.linspace(0.0, 1.0, dim // 2, device=position.device)
    wavelength = longest * (shortest / longest) ** ratio
    angle = position.float().unsqueeze(-1) * (2.0 * math.pi / wavelength)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def interleaved_sinusoid(position: Tensor, dim: int) -> Tensor:
    """Encode integer positions as sines and cosines that take turns, with wavelengths from 2 pi to 10000 times that.

    Args:
        position: Positions of any shape ``[...]``.
        dim: Width of the code, D; even.

    Returns:
        ``[..., D]`` float32: sines in the even, cosines in the odd columns.

    Raises:
        ValueError: ``dim`` is odd, so sines and cosines cannot pair up.

    Source: Attention Is All You Need (arXiv:1706.03762).
    """
    if dim % 2:
        raise ValueError(f"a sinusoidal code needs an even width, got {dim}")
    even = torch.arange(0, dim, 2, device=position.device, dtype=torch.float32)
    angle = position.float().unsqueeze(-1) * torch.exp(even * (-math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def patch_grid_side(num_patches: int) -> int:
    """Side of the square grid that N row-major patches form.

    Args:
        num_patches: Patches of a frame, N.

    Returns:
        The side, ``sqrt(N)``.

    Raises:
        ValueError: N is no square number, so rows and columns are unknown.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(
            f"{num_patches} patches a frame form no square grid, so their rows and columns are unknown: take an "
            "encoder and frames that give a square number of patches"
        )
    return side


def patch_grid_positions(num_patches: int, dim: int, device: torch.device) -> Tensor:
    """Encode row and column of every patch of a square grid, relative to the grid's size.

    Args:
        num_patches: Patches of a frame, N, row-major on a square grid.
        dim: Width D, divisible by 4: one half codes the row, the other the column.
        device: Device of the result.

    Returns:
        ``[N, D]`` float32.

    Raises:
        ValueError: N is no square number, so rows and columns are unknown.
    """
    side = patch_grid_side(num_patches)
    centre = (torch.arange(side, device=device) + 0.5) / side
    line = sinusoidal(centre, dim // 2, longest=2.0, shortest=2.0 / 16)  # [side, D / 2]
    row = line.unsqueeze(1).expand(side, side, -1)
    column = line.unsqueeze(0).expand(side, side, -1)
    return torch.cat([row, column], dim=-1).reshape(num_patches, dim)
