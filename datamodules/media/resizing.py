"""Resizes uint8 frames, in the one way that all transforms share."""

from collections.abc import Sequence

from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def resized(frames: Tensor, size: Sequence[int]) -> Tensor:
    """Resize ``[T, 3, H, W]`` to this height and width, bicubic with antialiasing."""
    if list(frames.shape[-2:]) == list(size):
        return frames
    scaled: Tensor = v2.functional.resize(frames, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return scaled
