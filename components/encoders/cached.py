"""Uses features that a frozen encoder computed earlier, instead of frames."""

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameEncoder, FrameFeatures


class CachedFeatures(FrameEncoder):
    """Splits cached features into class vectors, patch features and what else was cached. It has no weights.

    Args:
        dim: Width D of the cached features.
        num_patches: Number of patches per frame in the cache, N.
        saliency: Whether the cache has the saliency of patches: the encoder that wrote it had a ``saliency_layer``.
        joint_dim: Width J of the joint embedding in the cache; 0 for a cache without one. With a joint embedding, the
            encoder that wrote it had ``joint``.
    """

    def __init__(self, dim: int, num_patches: int, saliency: bool = False, joint_dim: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.num_patches = num_patches
        self.gives_saliency = saliency
        self.joint_dim = joint_dim

    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Split cached features.

        Args:
            frames: A matrix for each of the packed frames, ``[F, rows, width]``, as ``cache_matrices`` makes them.
            frame_counts: Ignored.

        Returns:
            The features, in the dtype of the cache.

        Raises:
            ValueError: The shape is different: the shards contain pixels, features of another encoder, or features
                without saliency or joint embedding.
        """
        if frames.ndim != 3 or frames.shape[1:] != self._shape:
            raise ValueError(self._advice(frames))
        saliency = frames[:, 1 : 1 + self.num_patches, self.dim].float() if self.gives_saliency else None
        joint = frames[:, 1 + self.num_patches :].flatten(1)[:, : self.joint_dim] if self.joint_dim else None
        return FrameFeatures(frames[:, 0, : self.dim], frames[:, 1 : 1 + self.num_patches, : self.dim], saliency, joint)

    def dummy_frames(self, device: object) -> Tensor:
        """Features of one frame, zeros, float32 ``[1, rows, width]``."""
        return torch.zeros(1, *self._shape, device=torch.device(str(device)))

    @property
    def _shape(self) -> tuple[int, int]:
        width = self.dim + int(self.gives_saliency)
        return 1 + self.num_patches + -(-self.joint_dim // width), width

    def _advice(self, frames: Tensor) -> str:
        rows, width = self._shape
        expected = f"CachedFeatures expects features [F, {rows}, {width}] (class token and {self.num_patches} patches, "
        expected += f"width {self.dim}"
        wanted = {"saliency": self.gives_saliency, "a joint embedding": self.joint_dim > 0}
        more = " and ".join(name for name, is_wanted in wanted.items() if is_wanted)
        expected += f", and {more}" if more else ""
        advice = (
            "read shards that the feature cache command wrote, and set dim, num_patches, saliency and joint_dim as "
            "they were written"
        )
        if more and frames.ndim == 3 and frames.shape[1:] == (1 + self.num_patches, self.dim):
            advice = (
                f"this cache has no {more}: cache again with saliency_layer (for saliency) or joint (for a joint "
                "embedding) set in the encoder, or leave saliency and joint_dim out here"
            )
        return f"{expected}), got {list(frames.shape)}: {advice}"


def cache_matrices(features: FrameFeatures) -> Tensor:
    """Join an encoder's output to one matrix a frame, as feature shards store it.

    Its rows are the class vector, the patches and, if there is one, the joint embedding, cut into as many rows as it
    needs. If there is a saliency, it is one more column; the rows of other tokens have 0 there.

    Args:
        features: Features of F frames.

    Returns:
        ``[F, 1 + N + ceil(J / width), width]`` in the dtype of the features; width is D, or D + 1 with saliency.
    """
    matrices = torch.cat([features.cls.unsqueeze(1), features.patches], dim=1)
    if features.saliency is not None:
        column = functional.pad(features.saliency, (1, 0)).unsqueeze(2)  # [F, 1 + N, 1]
        matrices = torch.cat([matrices, column.to(matrices.dtype)], dim=2)
    if features.joint is not None:
        width = matrices.shape[2]
        joint = functional.pad(features.joint, (0, -features.joint.shape[1] % width))
        matrices = torch.cat([matrices, joint.unflatten(1, (-1, width)).to(matrices.dtype)], dim=1)
    return matrices
