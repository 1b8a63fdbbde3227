"""Projects and pools the patches of every frame, before any reader reads them."""

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameFeatures, PatchPooling, Projector
from components.positions import patch_grid_side


def reduced_patches(
    features: FrameFeatures, projector: Projector | None, pooling: PatchPooling | None, dtype: torch.dtype
) -> FrameFeatures:
    """Project the patches, then pool them. Saliency is pooled alike; class vectors stay as they are.

    Args:
        features: The encoder's output.
        projector: Maps the patches to another width; None keeps theirs.
        pooling: Makes fewer patches of every frame; None keeps all.
        dtype: Dtype in which patches are projected and pooled; the patches keep theirs where neither is given.
    """
    if projector is None and pooling is None:
        return features
    patches = features.patches.to(dtype)
    if projector is not None:
        patches = projector(patches)
    if pooling is not None:
        patches = pooling(patches)
    return features._replace(patches=patches, saliency=_pooled(features.saliency, patches.shape[1]))


def _pooled(saliency: Tensor | None, num_patches: int) -> Tensor | None:
    """Mean saliency of the patches that became one, ``[F, N']``."""
    if saliency is None or saliency.shape[1] == num_patches or len(saliency) == 0:
        return None if saliency is None else saliency.new_zeros(0, num_patches) if len(saliency) == 0 else saliency
    side = patch_grid_side(saliency.shape[1])
    planes = saliency.view(-1, 1, side, side)
    return functional.adaptive_avg_pool2d(planes, patch_grid_side(num_patches)).flatten(1)
