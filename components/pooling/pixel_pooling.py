"""Halves the resolution of frames that are already cut into patches of pixels."""

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
