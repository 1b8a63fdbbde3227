"""A frozen frame encoder made of LanguageBind's video transformer and image transformer."""

from typing import Literal

import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from components.encoders.languagebind_transformer import WINDOW_FRAMES, FrameWindows, VisionTransformer
from components.encoders.languagebind_weights import (
    load_vision_transformer,
    random_vision_transformer,
    read_languagebind_config,
)
from components.encoders.pixel_encoder import FrameChunk, PixelEncoder
from components.interfaces import FrameFeatures

_IMAGES, _VIDEOS = 0, 1  # numbers of the two networks


class LanguageBindEncoder(PixelEncoder):
    """Computes a class vector and patch features per frame with LanguageBind, the encoder of VideoLLaMB.

    Videos with one frame are encoded by the image transformer, other videos by the video transformer. In the video
    transformer, frames attend to each other within windows of 8 consecutive frames of a video. The last window of a
    video may be shorter: its r frames have the temporal positions 0 to r - 1. The original code forms windows across
    the batch and needs multiples of 8 frames; if every video has a multiple of 8 frames, both give the same result.

    Features are the output of the chosen layer, before any final norm; later layers are not built. The encoder is
    frozen: no gradients, always in eval mode. It gives no saliency and no joint embedding.

    Args:
        video_path: Folder with ``config.json`` and complete weights of the video transformer (such as
            LanguageBind_Video_merge), or a weights file with ``config.json`` in the same folder.
        image_path: The same for the image transformer. LoRA adapters in it are merged.
        layer: Layer to take the output of, as an index into the hidden states: 0 is before the first layer, -1 after
            the last, -2 after the second to last.
        dtype: Dtype of weights and features.
        max_frames_per_call: Maximum number of frames per forward pass, a multiple of 8. Limits memory; does not change
            the result.
        weights: ``pretrained`` loads the weights, ``random`` initialises the transformers at random, for measurements
            of speed and memory.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.

    Raises:
        FileNotFoundError: A configuration or weights do not exist.
        ValueError: A checkpoint does not match its configuration, has no such layer, the two transformers have
            different sizes, or ``weights`` has another value.

    Source: LanguageBind (arXiv:2310.01852), as VideoLLaMB (arXiv:2409.01071) runs it.
    """

    window_frames = WINDOW_FRAMES
    num_networks = 2
    title = "LanguageBind"

    def __init__(
        self,
        video_path: str,
        image_path: str,
        layer: int = -2,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_frames_per_call: int = 64,
        weights: Literal["pretrained", "random"] = "pretrained",
    ) -> None:
        super().__init__(max_frames_per_call)
        if weights not in ("pretrained", "random"):
            raise ValueError(f"weights is {weights!r}; expected 'pretrained' or 'random'")
        weights_dtype = getattr(torch, dtype)
        make = load_vision_transformer if weights == "pretrained" else random_vision_transformer
        self.video_transformer = make(video_path, layer, temporal=True, dtype=weights_dtype)
        self.image_transformer = make(image_path, layer, temporal=False, dtype=weights_dtype)
        config = self.video_transformer.config
        _refuse_other_sizes(self.video_transformer, video_path, self.image_transformer, image_path)
        self.image_size = config.image_size
        self.dim = config.hidden_size
        self.num_patches = config.num_patches
        for transformer in (self.video_transformer, self.image_transformer):
            self.prepared(transformer, weights_dtype)

    @staticmethod
    def frame_side(video_path: str, **_others: object) -> int:
        """Side of the frames, in pixels, for these constructor arguments. The encoder is not built.

        Raises:
            FileNotFoundError: There is no configuration.
            ValueError: The configuration does not have an image size.
        """
        return read_languagebind_config(video_path).image_size

    def network_of(self, num_frames: int) -> int:
        """The image transformer for a video of one frame, else the video transformer."""
        return _IMAGES if num_frames == 1 else _VIDEOS

    def encode_chunk(self, chunk: FrameChunk) -> FrameFeatures:
        """Encode images, or windows of video frames."""
        dtype = self.video_transformer.embeddings.class_embedding.dtype  # a precision plugin may have changed it
        pixels = self._normalised(chunk.frames).to(dtype)
        if chunk.network == _IMAGES:
            tokens = self.image_transformer(pixels)
        else:
            windows = FrameWindows.of_lengths(chunk.window_lengths, pixels.device)
            tokens = self.video_transformer(pixels, windows)
        tokens = tokens.to(dtype)  # [f, 1 + N, D]; autocast computes in another one
        return FrameFeatures(tokens[:, 0], tokens[:, 1:])

    def _normalised(self, frames: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=frames.device)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        return (frames.float() / 255 - mean) / std


def _refuse_other_sizes(video: VisionTransformer, video_path: str, image: VisionTransformer, image_path: str) -> None:
    for name in ("hidden_size", "image_size", "patch_size"):
        sizes = getattr(video.config, name), getattr(image.config, name)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{name!r} is {sizes[0]} in {video_path} but {sizes[1]} in {image_path}: images and videos of a batch "
                "need features of one shape; take two checkpoints that were trained together"
            )
