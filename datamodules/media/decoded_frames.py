"""What every decoder returns, and how large frames may be. It does not import torch, so a decoding process starts fast.

Frames more than 1.5 times as large as the transform needs are scaled down one by one as they are decoded, so a video in
8K is never in memory at 8K. Smaller frames are returned as they are, because the transform scales them faster and
exactly. No frame is enlarged here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import BrokenMediaError, OversizedMediaError, undecodable

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` or, of several frames, ``[T, H, W, 3]``."""

_SCALE_ABOVE = 1.5
"""Frames are scaled down if they are larger than this many times what is needed."""

_PIXELS_AT_ONCE = 16_000_000


class DecodedFrames(NamedTuple):
    """Frames of one video or image."""

    pixels: Pixels  # uint8 [T, H, W, 3]
    frame_ms: NDArray[np.int64]  # [T] milliseconds after the first frame, or after the start of the requested part
    picture_size: tuple[int, int] | None = None  # height and width of a picture in its file, upright; None for a video


class FrameSize(NamedTuple):
    """How large frames may be in the file, and how large they must be when they are returned."""

    max_pixels: int = 64_000_000  # of one frame; 8K has 33 million
    side: int | None = None  # pixels that this side must have; None = the file's own size
    measured: Literal["shorter", "longer"] = "shorter"

    def check(self, width: int, height: int, where: str) -> None:
        """Refuse too large frames before they are decoded.

        Raises:
            OversizedMediaError: A frame has more than ``max_pixels``; a small file can decode to any size.
        """
        if width * height > self.max_pixels:
            raise OversizedMediaError(
                f"{where}: its frames of {width} x {height} pixels are larger than max_pixels {self.max_pixels} "
                "allows; scale it down, leave the sample out, or raise max_pixels"
            )

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height at which a frame of this size is returned."""
        if self.side is None:
            return width, height
        measured = min(width, height) if self.measured == "shorter" else max(width, height)
        if measured <= _SCALE_ABOVE * self.side:
            return width, height
        return max(1, round(width * self.side / measured)), max(1, round(height * self.side / measured))


def scale_down(pixels: Pixels, size: FrameSize) -> Pixels:
    """Scale one picture ``[H, W, 3]`` to the size at which it is returned; bicubic with antialiasing."""
    height, width = pixels.shape[:2]
    scaled = size.scaled(width, height)
    if scaled == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BICUBIC))


def decode_in_portions(
    indices: Sequence[int], decode: Callable[[list[int]], Pixels], size: FrameSize, where: str
) -> Pixels:
    """Decode some frames at a time, for libraries that return frames in the video's own size.

    Args:
        indices: Frames to decode.
        decode: Decodes the frames of a few indices, ``[t, H, W, 3]``.
        size: Largest frame, and how large frames must be.
        where: Shard and key, for messages.

    Returns:
        ``[T, H, W, 3]`` at the size at which frames are returned.

    Raises:
        OversizedMediaError: The frames are larger than is allowed.
        BrokenMediaError: The library returns fewer frames than requested, or frames that differ in size.
    """
    stacked = stack_pictures(_portions(indices, decode, size, where), len(indices), where)
    if stacked is None or len(stacked) < len(indices):
        raise BrokenMediaError(undecodable(where, f"fewer than the {len(indices)} chosen frames came"))
    return stacked


def _portions(
    indices: Sequence[int], decode: Callable[[list[int]], Pixels], size: FrameSize, where: str
) -> Iterator[Pixels]:
    done, at_once = 0, 1
    while done < len(indices):
        pictures = decode(list(indices[done : done + at_once]))
        done += at_once
        height, width = pictures.shape[1:3]
        size.check(width, height, where)
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        yield from (scale_down(picture, size) for picture in pictures)


def stack_pictures(pictures: Iterable[Pixels], count: int, where: str) -> Pixels | None:
    """Stack pictures of one size, each as soon as it is decoded.

    Args:
        pictures: Pictures ``[H, W, 3]``.
        count: Most pictures that come.
        where: Shard and key, for messages.

    Returns:
        ``[T, H, W, 3]``, or None if there is none.

    Raises:
        BrokenMediaError: The pictures differ in size.
    """
    stacked: Pixels | None = None
    number = 0
    for picture in pictures:
        if stacked is None:
            stacked = np.empty((count, *picture.shape), dtype=np.uint8)
        if picture.shape != stacked.shape[1:]:
            raise BrokenMediaError(f"{where}: the frame size changes within the video; encode it again")
        stacked[number] = picture
        number += 1
    return None if stacked is None else stacked[:number]
