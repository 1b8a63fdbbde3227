"""Projects and pools the patches of frames, before any reader reads them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameFeatures, PatchPooling, Projector, Segments
from components.positions import patch_grid_side
from components.streams import dtype_of


class ReadFrames(NamedTuple):
    """Packed frames, and what each reader reads of them."""

    features: FrameFeatures
    frame_ms: Tensor  # [F] int64
    segments: Mapping[str, Segments]


def without_unread_frames(frames: ReadFrames) -> ReadFrames:
    """Leave out the frames that no reader reads, so that nothing is computed for them."""
    is_read = torch.zeros(len(frames.frame_ms), dtype=torch.bool)
    for segments in frames.segments.values():
        is_read[segments.frame_index[segments.frame_mask]] = True
    if bool(is_read.all()):
        return frames
    new_index = is_read.cumsum(0) - 1
    left = is_read.nonzero()[:, 0].to(frames.frame_ms.device, non_blocking=True)
    features = FrameFeatures(
        frames.features.cls[left],
        frames.features.patches[left],
        None if frames.features.saliency is None else frames.features.saliency[left],
        None if frames.features.joint is None else frames.features.joint[left],
    )
    moved = {
        name: segments._replace(frame_index=new_index[segments.frame_index].masked_fill(~segments.frame_mask, 0))
        for name, segments in frames.segments.items()
    }
    return ReadFrames(features, frames.frame_ms[left], moved)


def reduced_patches(
    features: FrameFeatures, projector: Projector | None, pooling: PatchPooling | None, dtype: torch.dtype
) -> FrameFeatures:
    """Project the patches, then pool them. Saliency is pooled alike; class vectors stay as they are.

    Args:
        features: The encoder's output.
        projector: Maps the patches to another width; None keeps theirs.
        pooling: Makes fewer patches of every frame; None keeps all.
        dtype: Dtype in which patches are pooled, and read by a part without weights; one with weights reads its own.
            The patches keep theirs where neither part is given.
    """
    if projector is None and pooling is None:
        return features
    patches = features.patches.to(dtype)
    if projector is not None:
        patches = projector(patches.to(dtype_of(projector, patches)))
    if pooling is not None:
        patches = pooling(patches.to(dtype_of(pooling, patches)))
    saliency = features.saliency
    if saliency is not None and saliency.shape[1] != patches.shape[1]:
        saliency = _pooled(saliency, patches.shape[1])
    return features._replace(patches=patches, saliency=saliency)


def _pooled(saliency: Tensor, num_patches: int) -> Tensor:
    """Mean saliency of the patches that became one, ``[F, N']``."""
    if len(saliency) == 0:  # torch's pooling refuses an empty batch
        return saliency.new_zeros(0, num_patches)
    side = patch_grid_side(saliency.shape[1])
    planes = saliency.view(-1, 1, side, side)
    return functional.adaptive_avg_pool2d(planes, patch_grid_side(num_patches)).flatten(1)
