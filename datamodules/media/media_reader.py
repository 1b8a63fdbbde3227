"""Reads media as the tensors that a model reads."""

from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from components.pictures.tile_grid import PictureSize
from datamodules.errors import BrokenMediaError
from datamodules.media.array_media import read_array
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import PixelTransform
from datamodules.shards.member_names import ARRAY_ENDINGS, FEATURE_ENDINGS, IMAGE_ENDINGS
from datamodules.shards.shard_reader import RawMedium


class MediaReader(NamedTuple):
    """Reads media as frames. Decoding runs in another process, see ``decoding_process``."""

    sampling: FrameSampling
    transform: PixelTransform
    decoding: Decoding = Decoding()

    def read(self, medium: RawMedium, seed: tuple[int, ...], *, is_alone: bool = True) -> SampleMedia:
        """Decode and transform one medium.

        Cached features were sampled and transformed when they were written, so they are returned as stored.

        Args:
            medium: The medium.
            seed: Seed of the augmentation.
            is_alone: Whether it is the only medium of its sample; only then a picture is cut into tiles.

        Raises:
            SampleError: The media is broken, or its decoder had to be killed.
        """
        if medium.ending in FEATURE_ENDINGS:
            return read_features(medium.content.read(), where=medium.where)
        if medium.ending in ARRAY_ENDINGS:
            video = read_array(medium.content.read(), medium.facts, self.sampling, where=medium.where)
            return SampleMedia(self.transform(video.frames, seed), video.frame_ms)
        is_image = medium.ending in IMAGE_ENDINGS
        request = MediaRequest(
            medium.content,
            is_image,
            self.sampling,
            self.transform.frame_size(self.decoding.max_pixels, is_image=is_image),
            medium.where,
            medium.facts.start_ms,
            medium.facts.end_ms,
        )
        decoded = decode_media(request, self.decoding)
        frames = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2)  # [T, 3, H, W]
        if self.transform.options.tiles is not None and decoded.picture_size is not None:
            size = PictureSize(*decoded.picture_size)
            shown = self.transform.picture(frames, size, is_alone=is_alone).contiguous()
            return SampleMedia(shown, torch.zeros(len(shown), dtype=torch.int64), size)
        return SampleMedia(self.transform(frames, seed).contiguous(), torch.from_numpy(decoded.frame_ms))


def read_features(data: bytes, *, where: str) -> SampleMedia:
    """Read cached features: ``features`` ``[T, rows, width]``, class token first, and ``frame_ms`` ``[T]`` int64.

    Raises:
        BrokenMediaError: The bytes hold no such tensors.
    """
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
        features, frame_ms = tensors["features"], tensors["frame_ms"]
    except (SafetensorError, KeyError) as error:
        raise BrokenMediaError(
            f"{where}: the cached features cannot be read ({error}); write the feature shards again"
        ) from error
    fits = features.ndim == 3 and features.is_floating_point() and len(features) > 0
    if not fits or frame_ms.dtype != torch.int64 or frame_ms.shape != features.shape[:1]:
        raise BrokenMediaError(
            f"{where}: cached features must be floats [T, rows, width] with int64 frame_ms [T], got {features.dtype} "
            f"{list(features.shape)} with {frame_ms.dtype} {list(frame_ms.shape)}; write the feature shards again"
        )
    return SampleMedia(features, frame_ms)
