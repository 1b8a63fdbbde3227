"""How Flash-VStream on Qwen2-VL prepares frames: half of the resolution, and positions of three axes."""

import torch
from torch import Tensor

_CHANNELS = 3
_BLOCK = 2  # patches of a side that the language model sees as one token, so they are stored together


def half_resolution(patches: Tensor, grid: tuple[int, int, int], *, frames_a_patch: int = 2) -> Tensor:
    """Average every 2x2 pixels of patches that are stored as Qwen2-VL stores them.

    Args:
        patches: ``[T * H * W, 3 * frames_a_patch * side * side]``, blocks of 2x2 patches together.
        grid: T, H and W, in patches; H and W are divisible by 4.
        frames_a_patch: Frames that a patch covers.

    Returns:
        ``[T * H * W / 4, ...]`` of the same width and in the same order.

    Raises:
        ValueError: The new grid cannot be cut into blocks of 2x2 patches.

    Source: Flash-VStream (arXiv:2506.23825), Flash-VStream-Qwen, commit 8f6bde2.
    """
    num_frames, height, width = grid
    if height % (2 * _BLOCK) or width % (2 * _BLOCK):
        raise ValueError(
            f"a grid of {height} x {width} patches has no half of whole 2x2 blocks: resize the frames so that height "
            "and width are divisible by 4"
        )
    side = round((patches.shape[1] // (_CHANNELS * frames_a_patch)) ** 0.5)
    shape = (num_frames, height // 2, width // 2, 2, 2, _CHANNELS, frames_a_patch, side, side)
    pixels = patches.reshape(shape).permute(0, 1, 2, 5, 6, 3, 7, 4, 8)  # the pixels of every 2x2 patches as a square
    halves = pixels.reshape(*pixels.shape[:5], side, 2, side, 2).mean(dim=(6, 8))
    blocks = halves.unflatten(2, (width // 4, 2)).unflatten(1, (height // 4, 2))
    halved: Tensor = blocks.transpose(2, 3).reshape(-1, patches.shape[1])
    return halved


def grid_positions(times: Tensor, height: int, width: int) -> Tensor:
    """Time, row and column of every token of frames, for a position code of three axes: ``[3, T * height * width]``.

    Args:
        times: Of every frame, ``[T]`` int64.
        height: Tokens of a column.
        width: Tokens of a row.
    """
    rows, columns = (torch.arange(length, device=times.device) for length in (height, width))
    return torch.stack([axis.flatten() for axis in torch.meshgrid(times, rows, columns, indexing="ij")])
