"""Resizes, crops and augments uint8 frames. All frames of a video are changed alike; the encoder normalises them."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from components.pictures.tile_grid import PictureSize
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.picture_tiles import PictureTiles, padded_whole, whole_and_tiles
from datamodules.media.resizing import resized

_SLIMMEST_CROP = 3 / 4
"""Least ratio of a random crop's sides."""

_LONGEST_RATIO = 8
"""Frames with a larger ratio of sides are cropped before they are scaled, because scaling a thin frame may need any
amount of memory."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training videos; everything is off by default.

    Args:
        horizontal_flip: Probability of mirroring. Leave it at 0 where questions ask about left and right.
        color_jitter: Largest relative change of brightness, contrast and saturation.
        crop_scale: Least part of the picture's area that a random crop keeps; 1.0 = no random crop.

    Raises:
        ValueError: A value is outside ``[0, 1]``.
    """

    horizontal_flip: float = 0.0
    color_jitter: float = 0.0
    crop_scale: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.horizontal_flip, self.color_jitter, self.crop_scale)):
            raise ValueError(f"augmentation values must be between 0 and 1, got {self}")


@dataclass(frozen=True)
class PixelOptions:
    """How frames get the size that the encoder reads.

    Args:
        size: Height and width in pixels; None = the command line uses the encoder's.
        fit: ``crop`` scales the shorter side and crops the centre; ``pad`` scales the longer side and pads with black,
            so nothing is cut off; ``stretch`` scales both sides to the size, so the ratio of the sides is lost.
        augmentation: Random changes in training.
        tiles: Cuts pictures into tiles, for a model with ``model.picture_layout``; None = a picture is one frame.

    Raises:
        ValueError: The size is not positive.
    """

    size: int | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    augmentation: Augmentation = Augmentation()
    tiles: PictureTiles | None = field(
        default=None, repr=False
    )  # caches of features, which have no tiles, store the repr

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"the frame size must be positive, got {self.size}")

    @property
    def side(self) -> int:
        """Height and width in pixels.

        Raises:
            ValueError: Neither the options nor the encoder define it.
        """
        if self.size is None:
            raise ValueError("data.pixels.size is not set, and the encoder has no size of its own; set it")
        return self.size


class PixelTransform:
    """Resizes the frames of one video to the encoder's size.

    Args:
        options: Size, fit and augmentation.
        train: Whether augmentation applies.
    """

    def __init__(self, options: PixelOptions, *, train: bool) -> None:
        self.options = options
        self._random = _augmenting_steps(options) if train else None

    def frame_size(self, max_pixels: int, *, is_image: bool = False) -> FrameSize:
        """The size at which frames are decoded, so that this transform loses no detail.

        The decoder scales a frame to the size that this transform would scale it to. With random crops the frame is
        larger, so that even the smallest crop is not enlarged.

        Args:
            max_pixels: Largest frame that is decoded at all.
            is_image: Whether the frame is a picture, which may be cut into tiles.
        """
        size = self.options.side
        if is_image and self.options.tiles is not None:
            return self.options.tiles.frame_size(size, max_pixels)
        if self._random is not None and self.options.augmentation.crop_scale < 1:
            smallest = math.sqrt(max(self.options.augmentation.crop_scale, 1e-4) * _SLIMMEST_CROP)
            return FrameSize(max_pixels, math.ceil(size / smallest), "shorter")
        return FrameSize(max_pixels, size, "longer" if self.options.fit == "pad" else "shorter")

    def picture(self, picture: Tensor, size: PictureSize, *, is_alone: bool) -> Tensor:
        """Transform a picture where ``options.tiles`` is set; it is not augmented.

        Args:
            picture: uint8 ``[1, 3, h, w]``.
            size: Height and width in its file.
            is_alone: Whether it is the only medium of its sample.

        Returns:
            uint8 ``[T, 3, size, size]``: the whole picture, then its tiles if it is alone.
        """
        assert self.options.tiles is not None
        if is_alone:
            return whole_and_tiles(picture, size, self.options.side, self.options.tiles.per_side)
        return padded_whole(picture, self.options.side)

    def __call__(self, frames: Tensor, seed: tuple[int, ...]) -> Tensor:
        """Transform.

        Args:
            frames: uint8 ``[T, 3, H, W]``.
            seed: Seed of the random choices; equal seeds give equal frames in every process.

        Returns:
            uint8 ``[T, 3, size, size]``.
        """
        if self._random is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1)))
                frames = self._random(frames)
        return _fit(frames, self.options)


def _augmenting_steps(options: PixelOptions) -> v2.Compose | None:
    chosen = options.augmentation
    steps: list[v2.Transform] = []
    if chosen.crop_scale < 1:
        scale, ratio = (chosen.crop_scale, 1.0), (_SLIMMEST_CROP, 1 / _SLIMMEST_CROP)
        bicubic = InterpolationMode.BICUBIC
        steps.append(v2.RandomResizedCrop(options.side, scale=scale, ratio=ratio, interpolation=bicubic))
    if chosen.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(chosen.horizontal_flip))
    if chosen.color_jitter:
        steps.append(v2.ColorJitter(chosen.color_jitter, chosen.color_jitter, chosen.color_jitter))
    return v2.Compose(steps) if steps else None


def _fit(frames: Tensor, options: PixelOptions) -> Tensor:
    height, width = frames.shape[-2:]
    if options.fit == "crop" and max(height, width) > _LONGEST_RATIO * min(height, width):
        most = _LONGEST_RATIO * min(height, width)
        height, width = min(height, most), min(width, most)
        frames = v2.functional.center_crop(frames, [height, width])
    size = options.side
    if options.fit == "stretch":
        return resized(frames, [size, size])
    reference = min(height, width) if options.fit == "crop" else max(height, width)
    scaled = resized(frames, [max(1, round(side * size / reference)) for side in (height, width)])
    fitted: Tensor = v2.functional.center_crop(scaled, [size, size])  # pads with black where the frame is smaller
    return fitted
