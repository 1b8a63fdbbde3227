"""A frozen frame encoder for any Hugging Face vision transformer."""

from typing import Literal

import torch
from torch import Tensor

from components.attention_kernels import AttentionChoice
from components.encoders.image_settings import read_image_settings
from components.encoders.pixel_encoder import FrameChunk, PixelEncoder
from components.encoders.vision_model import load_vision_model, probe_frames, read_vision_config
from components.encoders.vision_outputs import joint_width, prepare_outputs, vision_outputs, wanted_outputs
from components.interfaces import FrameFeatures
from components.problems import Problems


class HuggingFaceVisionEncoder(PixelEncoder):
    """Computes a class vector and patch features per frame, from one layer of a vision transformer.

    Works with CLIP, SigLIP, DINOv2 and similar models. Of a dual model (vision and text), only the vision part is
    loaded, and only the layers that are needed. Features are the output of the chosen layer, before any final norm. The
    class vector is the class token; for a model without one (SigLIP), it is the mean of the patches. Register tokens
    are dropped. The encoder is frozen: no gradients, always in eval mode.

    Args:
        path: Folder or hub name of the checkpoint, with ``preprocessor_config.json``.
        layer: Layer to take the output of, as an index into the hidden states: 1 is after the first layer, -1 after the
            last, -2 after the second to last.
        image_size: Side of the frames in pixels; None is the checkpoint's. Position embeddings are interpolated for
            other sizes. If it is not a multiple of the patch size, the remaining pixels on the right and at the bottom
            are ignored, as in the original model.
        dtype: Dtype of weights and features.
        attn: Attention kernel, see ``resolve_attention``.
        max_frames_per_call: Maximum number of frames per forward pass. Limits memory; does not change the result.
        saliency_layer: Layer of which to read the saliency of patches, as an index like ``layer``: the attention that
            the class token pays to them, mean over the heads. Without a class token (SigLIP) it is the mean over all
            tokens' attention. None computes no saliency.
        joint: Whether to compute each frame's embedding in the space that a dual model shares with text: CLIP's
            projected class token, SigLIP's pooled output. All layers are loaded then.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.
        joint_dim: Width J of the joint embedding; 0 without it.

    Raises:
        ValueError: The checkpoint is not a vision transformer, has no weights or pixel settings, has no such layer, or
            cannot process images of that size; its attention cannot be read, or it has no joint embedding. The message
            lists all problems.

    Source: saliency after FasterVLM (arXiv:2412.01818); without class token after FastVID (arXiv:2503.11187).
    """

    def __init__(
        self,
        path: str,
        layer: int = -2,
        image_size: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attn: AttentionChoice = "auto",
        max_frames_per_call: int = 64,
        saliency_layer: int | None = None,
        joint: bool = False,
    ) -> None:
        super().__init__(max_frames_per_call)
        self.path = path
        self.title = f"the encoder {path}"
        config = read_vision_config(path)
        problems = Problems()
        self._wanted = wanted_outputs(config, layer, saliency_layer, joint, problems)
        config.num_hidden_layers = self._wanted.num_layers
        with problems.collected():
            settings = read_image_settings(path)
            self._scales, self._shifts = settings.scales, settings.shifts
            self.image_size = settings.size if image_size is None else image_size
            self._layout = probe_frames(config, self._wanted, self.image_size)
        problems.refuse(f"the encoder {path!r}")
        self.dim: int = config.hidden_size
        self.gives_saliency = saliency_layer is not None
        self.joint_dim = joint_width(config, self._wanted)
        self.num_patches = self._layout.num_patches
        weights_dtype = getattr(torch, dtype)
        self.vision_model = load_vision_model(path, config, weights_dtype, attn, joint=joint)
        prepare_outputs(self.vision_model, self._wanted, has_class_token=self._layout.has_class_token)
        self.prepared(self.vision_model, weights_dtype)

    @staticmethod
    def frame_side(path: str, image_size: int | None = None, **_others: object) -> int:
        """Side of the frames, in pixels, for these constructor arguments. The encoder is not built.

        Raises:
            ValueError: The checkpoint does not have an image size.
        """
        return read_image_settings(path).size if image_size is None else image_size

    def encode_chunk(self, chunk: FrameChunk) -> FrameFeatures:
        """Encode the frames of one chunk, each by itself."""
        outputs = vision_outputs(self.vision_model, self._wanted, self._normalised(chunk.frames), self._layout.options)
        num_prefix = self._layout.num_prefix_tokens
        patches = outputs.hidden[:, num_prefix:]  # [F, N, D]
        cls = outputs.hidden[:, 0] if self._layout.has_class_token else patches.mean(dim=1)
        saliency = None if outputs.attention is None else outputs.attention[:, num_prefix:]
        return FrameFeatures(cls, patches, saliency, outputs.joint)

    def _normalised(self, frames: Tensor) -> Tensor:
        channels = zip(frames.unbind(dim=1), self._scales, self._shifts, strict=True)
        pixels = torch.stack([channel.float() * scale + shift for channel, scale, shift in channels], dim=1)
        return pixels.to(self.vision_model.dtype)
