"""Small pictures of frames."""

import base64
import io

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from datamodules.media.resizing import resized
from datamodules.media.transforms import PixelOptions, PixelTransform

FRAME_SIDE, PICTURE_SIDE = 120, 240
"""Shorter side in pixels, of a frame among several and of a picture."""

_SLIMMEST = 3  # ratio of the sides above which a frame is cropped: its picture would fill the page
_QUALITY = 80


class WholeFrames(PixelTransform):
    """Scales frames to small pictures, and leaves the ratio of their sides as it is."""

    def __init__(self) -> None:
        super().__init__(PixelOptions(PICTURE_SIDE), train=False)

    def __call__(self, frames: Tensor, seed: tuple[int, ...]) -> Tensor:
        """Transform.

        Args:
            frames: uint8 ``[T, 3, H, W]``.
            seed: Not used.

        Returns:
            uint8 ``[T, 3, h, w]``.
        """
        return thumbnails(frames)


def thumbnails(frames: Tensor) -> Tensor:
    """Scale large frames down; the middle of very long ones is cut out.

    Args:
        frames: uint8 ``[T, 3, H, W]``.

    Returns:
        uint8 ``[T, 3, h, w]``.
    """
    height, width = frames.shape[-2:]
    longest = _SLIMMEST * min(height, width)
    frames = v2.functional.center_crop(frames, [min(height, longest), min(width, longest)])
    scale = (FRAME_SIDE if len(frames) > 1 else PICTURE_SIDE) / min(height, width)
    if scale >= 1:
        return frames
    return resized(frames, [max(1, round(side * scale)) for side in frames.shape[-2:]])


def jpeg_url(frame: Tensor) -> str:
    """A frame, uint8 ``[3, H, W]``, as a ``data:`` url."""
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(file, "jpeg", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
