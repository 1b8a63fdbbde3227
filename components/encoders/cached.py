"""Uses features that a frozen encoder computed earlier, instead of frames."""

import torch
from torch import Tensor

from components.interfaces import FrameEncoder, FrameFeatures


class CachedFeatures(FrameEncoder):
    """Splits cached features into class vectors and patch features. It has no weights.

    Args:
        dim: Width D of the cached features.
        num_patches: Number of patches per frame in the cache, N.
    """

    def __init__(self, dim: int, num_patches: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_patches = num_patches

    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Split cached features.

        Args:
            frames: Features of packed frames, class token first, ``[F, 1 + N, D]``, in the dtype of the cache.
            frame_counts: Ignored.

        Returns:
            The features, in the dtype of the cache.

        Raises:
            ValueError: The shape is different: the shards contain pixels, or features of another encoder.
        """
        if frames.ndim != 3 or frames.shape[1:] != (1 + self.num_patches, self.dim):
            raise ValueError(
                f"CachedFeatures expects features [F, {1 + self.num_patches}, {self.dim}] (class token and "
                f"{self.num_patches} patches, width {self.dim}), got {list(frames.shape)}: read shards that the "
                "feature cache command wrote, and set dim and num_patches to those of the encoder that wrote them"
            )
        return FrameFeatures(frames[:, 0], frames[:, 1:])

    def dummy_frames(self, device: object) -> Tensor:
        """Features of one frame, zeros, float32 ``[1, 1 + N, D]``."""
        return torch.zeros(1, 1 + self.num_patches, self.dim, device=torch.device(str(device)))
