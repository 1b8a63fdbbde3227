"""Paints the needles into frames: coloured shapes, about which questions are asked."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.haystack.drawn_shapes import COLOURS, SHAPES, draw

__all__ = ["COLOURS", "SHAPES", "Needle", "draw", "paint"]


class Needle(NamedTuple):
    """One shape on one frame."""

    shape: str
    colour: str
    frame: int  # index of the frame in its video
    size: int  # side of the square that it fills, in pixels
    top: int
    left: int
    degrees: float  # rotation, clockwise


def paint(frame: NDArray[np.uint8], needle: Needle) -> None:
    """Paint the needle onto a frame.

    Args:
        frame: RGB frame ``[H, W, 3]``; changed in place.
        needle: The needle.

    Raises:
        ValueError: The needle is not completely inside the frame, so its shape may not be recognisable.
    """
    area = frame[needle.top : needle.top + needle.size, needle.left : needle.left + needle.size]
    if min(needle.top, needle.left) < 0 or area.shape[:2] != (needle.size, needle.size):
        raise ValueError(f"{needle} does not fit into a frame of {frame.shape[1]} x {frame.shape[0]} pixels")
    sprite = draw(needle.shape, COLOURS[needle.colour], needle.size, needle.degrees)
    alpha = sprite[..., 3:].astype(np.float32) / 255
    area[:] = np.rint(alpha * sprite[..., :3] + (1 - alpha) * area).astype(np.uint8)
