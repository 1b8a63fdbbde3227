"""Any Hugging Face vision transformer as a frozen frame encoder."""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from components.attention import AttentionWish, resolve_attention
from components.encoders.image_settings import read_image_settings
from components.interfaces import FrameEncoder, FrameFeatures
from components.pooling import patch_grid_side, pool_patches
from components.sharding import active_sharding, settle_weights
from components.weights.random_weights import mark_random

_CLASS_TOKEN_NAMES = ("class_embedding", "cls_token")
# Parameters that nothing before the chosen layer's output reads; published checkpoints lack some of them.
_UNREAD = ("embeddings.mask_token", "post_layernorm.", "layernorm.", "pooler.", "head.")


class HuggingFaceVisionEncoder(FrameEncoder):
    """Reads class vector and patches from one layer of a vision transformer (CLIP, SigLIP, DINOv2 and their kin).

    Only the vision part of a dual model is kept, and only the layers up to the chosen one are built. The output is the
    chosen layer's, before any final norm. The class vector is the class token's; a model without one (SigLIP) gives
    the mean of its patches. Register tokens are dropped. The encoder is frozen: no gradient, always in eval mode.

    Args:
        path: Folder or hub name of the checkpoint; needs its ``preprocessor_config.json``.
        layer: Whose output to take, as an index into the checkpoint's hidden states: 1 is after the first layer, -1
            after the last, -2 after the last but one.
        patch_grid: Average the square patch grid to this side; None keeps all patches.
        image_size: Side of the frames in pixels; None takes the checkpoint's. Another size than the position
            embeddings were trained for is reached by interpolating them.
        dtype: Dtype of weights and features.
        attn: Attention kernel, see ``resolve_attention``.
        max_frames_per_call: Frames that run through the transformer at once; bounds memory, not the result.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.

    Raises:
        ValueError: The checkpoint is no vision transformer, lacks weights or pixel settings, has no such layer, or
            cannot take images of that size.
    """

    def __init__(
        self,
        path: str,
        layer: int = -2,
        patch_grid: int | None = None,
        image_size: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attn: AttentionWish = "auto",
        max_frames_per_call: int = 64,
    ) -> None:
        super().__init__()
        if max_frames_per_call < 1:
            raise ValueError(f"max_frames_per_call must be at least 1, got {max_frames_per_call}")
        self.path = path
        self.max_frames_per_call = max_frames_per_call
        self.patch_grid = patch_grid
        settings = read_image_settings(path)
        self._scales, self._shifts = settings.scales, settings.shifts
        config = _vision_config(path)
        config.num_hidden_layers = _layers_needed(layer, config.num_hidden_layers, path)
        self.vision_model = _load_vision_model(path, config, getattr(torch, dtype), attn)
        self._num_layers = config.num_hidden_layers
        _last_layer_of(self.vision_model, self._num_layers, path)
        self._has_class_token = any(
            name.endswith(_CLASS_TOKEN_NAMES) for name, _ in self.vision_model.embeddings.named_parameters()
        )
        self._num_prefix_tokens = int(self._has_class_token) + getattr(config, "num_register_tokens", 0)
        self.image_size = settings.size if image_size is None else image_size
        self._forward_options = _options_for_size(self.vision_model, config, self.image_size, path)
        self._num_raw_patches = (self.image_size // config.patch_size) ** 2
        self.dim = config.hidden_size
        self.num_patches = self._num_raw_patches if patch_grid is None else patch_grid**2
        if patch_grid is not None:
            patch_grid_side(self._num_raw_patches)
        self.requires_grad_(False)
        self.train(False)
        self._sharding = settle_weights(self.vision_model, getattr(torch, dtype))

    def train(self, mode: bool = True) -> "HuggingFaceVisionEncoder":
        """Stay in eval mode: dropout or stochastic depth in a frozen encoder would only add noise."""
        super().train(False)
        return self

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
        expected = (3, self.image_size, self.image_size)
        if frames.dtype != torch.uint8 or frames.shape[1:] != expected:
            raise ValueError(
                f"the encoder {self.path} reads uint8 frames [F, {', '.join(map(str, expected))}], got {frames.dtype} "
                f"{list(frames.shape)}: resize where frames are decoded, or set the encoder's image_size"
            )
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
        tokens = self._layer_output(self._normalised(frames))  # [F, prefix + N, D]
        patches = tokens[:, self._num_prefix_tokens :]
        if patches.shape[1] != self._num_raw_patches:
            raise ValueError(
                f"{self.path}: the model gave {tokens.shape[1]} tokens a frame, expected {self._num_prefix_tokens} + "
                f"{self._num_raw_patches} (class and register tokens + patches); this architecture is not known here"
            )
        cls = tokens[:, 0] if self._has_class_token else patches.mean(dim=1)
        return FrameFeatures(cls, patches if self.patch_grid is None else pool_patches(patches, self.patch_grid))

    def _normalised(self, frames: Tensor) -> Tensor:
        channels = zip(frames.unbind(dim=1), self._scales, self._shifts, strict=True)
        pixels = torch.stack([channel.float() * scale + shift for channel, scale, shift in channels], dim=1)
        return pixels.to(self.vision_model.dtype)

    def _layer_output(self, pixels: Tensor) -> Tensor:
        captured: list[Tensor] = []

        def capture(_module: nn.Module, _inputs: Any, output: Any) -> None:
            captured.append(output[0] if isinstance(output, tuple) else output)

        layer = _last_layer_of(self.vision_model, self._num_layers, self.path)
        handle = layer.register_forward_hook(capture)
        try:
            self.vision_model(pixel_values=pixels, **self._forward_options)
        finally:
            handle.remove()
        return captured[0]


def _vision_config(path: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model configuration could be read from {path!r} ({error}). Give a folder with config.json and "
            "weights, or a hub name that can be reached"
        ) from error
    config = getattr(config, "vision_config", config)
    missing = [
        key for key in ("patch_size", "image_size", "hidden_size", "num_hidden_layers") if not hasattr(config, key)
    ]
    if missing:
        raise ValueError(f"{path}: {config.model_type!r} is no vision transformer; config.json lacks {missing}")
    return config


def _layers_needed(layer: int, num_layers: int, path: str) -> int:
    needed = layer if layer >= 0 else num_layers + 1 + layer
    if not 1 <= needed <= num_layers:
        raise ValueError(
            f"{path} has {num_layers} layers, so layer must be in 1..{num_layers} or -{num_layers}..-1, got {layer}"
        )
    return needed


def _load_vision_model(path: str, config: Any, dtype: torch.dtype, attn: AttentionWish) -> Any:
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    kernel = resolve_attention(attn, device_type, dtype)
    loaded = dtype if active_sharding() is None else "auto"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report lists the text part and the layers left out on purpose
    try:
        model, loading = AutoModel.from_pretrained(
            path, config=config, dtype=loaded, attn_implementation=kernel, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"no weights could be read from {path!r} ({error})") from error
    finally:
        logging.set_verbosity(verbosity)
    problems = [f"{key} is missing" for key in sorted(loading["missing_keys"]) if not key.startswith(_UNREAD)]
    problems += [f"{mismatch} has another shape" for mismatch in sorted(map(str, loading["mismatched_keys"]))]
    if problems:
        raise ValueError(
            f"{path}: the checkpoint does not hold the weights that its config.json describes, and random ones would "
            f"take their place: {'; '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}"
        )
    if loading["missing_keys"]:  # nothing reads them, but they differ each time that the model is built
        mark_random(model, sorted(loading["missing_keys"]))
    return model


def _last_layer_of(model: nn.Module, num_layers: int, path: str) -> nn.Module:
    stacks = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == num_layers]
    if len(stacks) != 1:
        raise ValueError(f"{path}: {type(model).__name__} has {len(stacks)} stacks of {num_layers} layers, expected 1")
    return stacks[0][-1]


def _options_for_size(model: Any, config: Any, image_size: int, path: str) -> dict[str, bool]:
    """Arguments that let the model take images of that size."""
    if image_size < config.patch_size or image_size % config.patch_size:
        raise ValueError(f"{path}: image_size {image_size} is no multiple of the patch size {config.patch_size}")
    if image_size == config.image_size:
        return {}
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        return {"interpolate_pos_encoding": True}
    if hasattr(model.embeddings, "interpolate_pos_encoding"):  # DINOv2 always interpolates
        return {}
    raise ValueError(
        f"{path}: {type(model).__name__} cannot interpolate its position embeddings, so frames must be "
        f"{config.image_size} pixels wide, not {image_size}"
    )
