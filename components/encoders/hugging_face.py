"""Any Hugging Face vision transformer as a frozen frame encoder."""

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
    """Reads class vector and patches from one layer of a vision transformer (CLIP, SigLIP, DINOv2 and their kin).

    Only the vision part of a dual model is kept, and only the layers up to the chosen one are built. The output is the
    chosen layer's, before any final norm. The class vector is the class token's; a model without one (SigLIP) gives
    the mean of its patches. Register tokens are dropped. The encoder is frozen: no gradient, always in eval mode.

    Args:
        path: Folder or hub name of the checkpoint; needs its ``preprocessor_config.json``.
        layer: Whose output to take, as an index into the checkpoint's hidden states: 1 is after the first layer, -1
            after the last, -2 after the last but one. A negative one fits encoders of any depth.
        patch_grid: Average the square patch grid to this side; None keeps all patches.
        image_size: Side of the frames in pixels; None takes the checkpoint's. Another size than the position
            embeddings were trained for is reached by interpolating them. Where it is no multiple of the patch size,
            the pixels left over on the right and at the bottom are not read, as in the model itself.
        dtype: Dtype of weights and features.
        attn: Attention kernel, see ``resolve_attention``.
        max_frames_per_call: Frames that run through the transformer at once; bounds memory, not the result.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.

    Raises:
        ValueError: The checkpoint is no vision transformer, lacks weights or pixel settings, has no such layer, or
            cannot take images of that size. Everything that is wrong is said at once.
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
        """Stay in eval mode: dropout or stochastic depth in a frozen encoder would only add noise."""
        super().train(False)
        return self

    @staticmethod
    def frame_side(path: str, image_size: int | None = None, **_others: object) -> int:
        """Side of the frames, in pixels, that an encoder with these arguments reads, without building it.

        Raises:
            ValueError: The checkpoint does not tell it.
        """
        return read_image_settings(path).size if image_size is None else image_size

    @torch.no_grad()
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode packed frames.

        Args:
            frames: uint8 ``[F, 3, image_size, image_size]``; F may be 0.
            frame_counts: Not read; every frame is encoded by itself.

        Returns:
            Features of the F frames in the encoder's dtype.

        Raises:
            ValueError: The frames have another dtype or shape; they are not resized here, but where they are decoded.
        """
        check_frames(frames, self.image_size, f"the encoder {self.path}")
        if frames.shape[0] == 0 and self._sharding is None:
            empty = torch.empty(0, self.num_patches, self.dim, dtype=self.vision_model.dtype, device=frames.device)
            return FrameFeatures(empty[:, :0].sum(dim=1), empty)
        parts = frames.split(self.max_frames_per_call)
        rounds = len(parts) if self._sharding is None else self._sharding.largest_of_all_ranks(len(parts))
        chunks = [self._encode(part) for part in parts]
        for _ in range(rounds - len(parts)):
            self._encode(self.dummy_frames(frames.device))  # keeps step with ranks that have more
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
