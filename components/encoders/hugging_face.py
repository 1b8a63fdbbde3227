"""A frozen frame encoder for any Hugging Face vision transformer."""

from typing import Literal

import torch
from torch import Tensor

from components.attention_kernels import AttentionChoice
from components.encoders.frame_check import check_frames
from components.encoders.image_settings import read_image_settings
from components.encoders.vision_model import (
    layer_output,
    layers_needed,
    load_vision_model,
    probe_frames,
    read_vision_config,
)
from components.interfaces import FrameEncoder, FrameFeatures
from components.pooling.patch_pooling import GridPooling
from components.positions import patch_grid_side
from components.problems import Problems
from components.sharding import hand_to_sharding


class HuggingFaceVisionEncoder(FrameEncoder):
    """Computes a class vector and patch features per frame, from one layer of a vision transformer.

    Works with CLIP, SigLIP, DINOv2 and similar models. Of a dual model (vision and text), only the vision part is
    loaded, and only the layers up to the chosen one. Features are the output of that layer, before any final norm. The
    class vector is the class token; for a model without one (SigLIP), it is the mean of the patches. Register tokens
    are dropped. The encoder is frozen: no gradients, always in eval mode.

    Args:
        path: Folder or hub name of the checkpoint, with ``preprocessor_config.json``.
        layer: Layer to take the output of, as an index into the hidden states: 1 is after the first layer, -1 after the
            last, -2 after the second to last.
        patch_grid: Average the square grid of patches to this side; None keeps all patches.
        image_size: Side of the frames in pixels; None is the checkpoint's. Position embeddings are interpolated for
            other sizes. If it is not a multiple of the patch size, the remaining pixels on the right and at the bottom
            are ignored, as in the original model.
        dtype: Dtype of weights and features.
        attn: Attention kernel, see ``resolve_attention``.
        max_frames_per_call: Maximum number of frames per forward pass. Limits memory; does not change the result.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.

    Raises:
        ValueError: The checkpoint is not a vision transformer, has no weights or pixel settings, has no such layer, or
            cannot process images of that size. The message lists all problems.
    """

    def __init__(
        self,
        path: str,
        layer: int = -2,
        patch_grid: int | None = None,
        image_size: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attn: AttentionChoice = "auto",
        max_frames_per_call: int = 64,
    ) -> None:
        super().__init__()
        if max_frames_per_call < 1:
            raise ValueError(f"max_frames_per_call must be at least 1, got {max_frames_per_call}")
        self.path = path
        self.max_frames_per_call = max_frames_per_call
        config = read_vision_config(path)
        problems = Problems()
        with problems.collected():
            config.num_hidden_layers = layers_needed(layer, config.num_hidden_layers)
        with problems.collected():
            settings = read_image_settings(path)
            self._scales, self._shifts = settings.scales, settings.shifts
            self.image_size = settings.size if image_size is None else image_size
            self._form = probe_frames(config, self.image_size)
            if patch_grid is not None:
                patch_grid_side(self._form.num_patches)
        problems.refuse(f"the encoder {path!r}")
        self.dim: int = config.hidden_size
        self.num_patches = self._form.num_patches if patch_grid is None else patch_grid**2
        self.pooling = None if patch_grid is None else GridPooling(self.dim, grid=patch_grid)
        self._num_layers: int = config.num_hidden_layers
        self.vision_model = load_vision_model(path, config, getattr(torch, dtype), attn)
        self.requires_grad_(False)
        self.train(False)
        self._sharding = hand_to_sharding(self.vision_model, getattr(torch, dtype))

    def train(self, mode: bool = True) -> "HuggingFaceVisionEncoder":
        """Always stay in eval mode: dropout in a frozen encoder would only add noise."""
        super().train(False)
        return self

    @staticmethod
    def frame_side(path: str, image_size: int | None = None, **_others: object) -> int:
        """Side of the frames, in pixels, for these constructor arguments. The encoder is not built.

        Raises:
            ValueError: The checkpoint does not have an image size.
        """
        return read_image_settings(path).size if image_size is None else image_size

    @torch.no_grad()
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode packed frames.

        Args:
            frames: uint8 ``[F, 3, image_size, image_size]``; F may be 0.
            frame_counts: Ignored; frames are encoded independently.

        Returns:
            Features of the F frames in the encoder's dtype.

        Raises:
            ValueError: The frames have another dtype or shape. They are resized where they are decoded, not here.
        """
        check_frames(frames, self.image_size, f"the encoder {self.path}")
        if frames.shape[0] == 0 and self._sharding is None:
            empty = torch.empty(0, self.num_patches, self.dim, dtype=self.vision_model.dtype, device=frames.device)
            return FrameFeatures(empty[:, :0].sum(dim=1), empty)
        parts = frames.split(self.max_frames_per_call)
        rounds = len(parts) if self._sharding is None else self._sharding.largest_of_all_ranks(len(parts))
        chunks = [self._encode(part) for part in parts]
        for _ in range(rounds - len(parts)):
            self._encode(self.dummy_frames(frames.device))  # equal numbers of calls on all ranks
        return FrameFeatures(torch.cat([chunk.cls for chunk in chunks]), torch.cat([chunk.patches for chunk in chunks]))

    def dummy_frames(self, device: object) -> Tensor:
        """One black frame, uint8 ``[1, 3, image_size, image_size]``."""
        return torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8, device=torch.device(str(device)))

    def _encode(self, frames: Tensor) -> FrameFeatures:
        tokens = layer_output(self.vision_model, self._num_layers, self._normalised(frames), self._form.options)
        patches = tokens[:, self._form.num_prefix_tokens :]  # [F, N, D]
        cls = tokens[:, 0] if self._form.has_class_token else patches.mean(dim=1)
        return FrameFeatures(cls, patches if self.pooling is None else self.pooling(patches))

    def _normalised(self, frames: Tensor) -> Tensor:
        channels = zip(frames.unbind(dim=1), self._scales, self._shifts, strict=True)
        pixels = torch.stack([channel.float() * scale + shift for channel, scale, shift in channels], dim=1)
        return pixels.to(self.vision_model.dtype)
