"""Checks the dtype and size of frames, for all encoders that read pixels."""

import torch
from torch import Tensor


def check_frames(frames: Tensor, size: int, encoder: str) -> None:
    """Check that packed frames have the dtype and shape that an encoder reads.

    Args:
        frames: The packed frames, ``[F, ...]``.
        size: Side of the square frames that the encoder reads, in pixels.
        encoder: Name of the encoder, for the message.

    Raises:
        ValueError: They are cached features, or have another size or dtype. Frames are resized where they are decoded,
            not here.
    """
    if frames.dtype == torch.uint8 and frames.shape[1:] == (3, size, size):
        return
    raise ValueError(f"{encoder} reads uint8 frames [F, 3, {size}, {size}], {_advice(frames, size)}")


def _advice(frames: Tensor, size: int) -> str:
    got = f"got {frames.dtype} {list(frames.shape)}"
    if frames.is_floating_point() and frames.ndim == 3:
        num_patches, dim = frames.shape[1] - 1, frames.shape[2]
        return (
            f"{got}: these shards hold cached features, which an encoder computed earlier. Set model.encoder to "
            f"components.encoders.cached.CachedFeatures with dim {dim} and num_patches {num_patches} (fewer if the "
            "cache has saliency or joint embeddings), or give shards of videos and pictures"
        )
    if frames.dtype == torch.uint8 and frames.ndim == 4 and frames.shape[1] == 3:
        return f"{got}: set data.pixels.size to {size}, or leave it out to use the encoder's size"
    return f"{got}: give decoded RGB frames that are not normalised"
