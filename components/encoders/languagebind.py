"""A frozen frame encoder made of LanguageBind's video transformer and image transformer."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from components.encoders.frame_check import check_frames
from components.encoders.languagebind_transformer import WINDOW_FRAMES, FrameWindows, VisionTransformer
from components.encoders.languagebind_weights import (
    load_vision_transformer,
    random_vision_transformer,
    read_languagebind_config,
)
from components.interfaces import FrameEncoder, FrameFeatures
from components.packed_frames import locate_frames
from components.pooling.patch_pooling import GridPooling
from components.positions import patch_grid_side
from components.sharding import hand_to_sharding


class LanguageBindEncoder(FrameEncoder):
    """Computes a class vector and patch features per frame with LanguageBind, the encoder of VideoLLaMB.

    Videos with one frame are encoded by the image transformer, other videos by the video transformer. In the video
    transformer, frames attend to each other within windows of 8 consecutive frames of a video. The last window of a
    video may be shorter: its r frames have the temporal positions 0 to r - 1. The original code forms windows across
    the batch and needs multiples of 8 frames; if every video has a multiple of 8 frames, both give the same result.

    Features are the output of the chosen layer, before any final norm; later layers are not built. The encoder is
    frozen: no gradients, always in eval mode. Both transformers run in every call, if necessary on zero frames.

    Args:
        video_path: Folder with ``config.json`` and complete weights of the video transformer (such as
            LanguageBind_Video_merge), or a weights file with ``config.json`` in the same folder.
        image_path: The same for the image transformer. LoRA adapters in it are merged.
        layer: Layer to take the output of, as an index into the hidden states: 0 is before the first layer, -1 after
            the last, -2 after the second to last.
        patch_grid: Average the square grid of patches to this side; None keeps all patches.
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

    def __init__(
        self,
        video_path: str,
        image_path: str,
        layer: int = -2,
        patch_grid: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        max_frames_per_call: int = 64,
        weights: Literal["pretrained", "random"] = "pretrained",
    ) -> None:
        super().__init__()
        if weights not in ("pretrained", "random"):
            raise ValueError(f"weights is {weights!r}; expected 'pretrained' or 'random'")
        if max_frames_per_call < WINDOW_FRAMES or max_frames_per_call % WINDOW_FRAMES:
            raise ValueError(
                f"max_frames_per_call must be a positive multiple of {WINDOW_FRAMES}, got {max_frames_per_call}"
            )
        self.max_frames_per_call = max_frames_per_call
        weights_dtype = getattr(torch, dtype)
        make = load_vision_transformer if weights == "pretrained" else random_vision_transformer
        self.video_transformer = make(video_path, layer, temporal=True, dtype=weights_dtype)
        self.image_transformer = make(image_path, layer, temporal=False, dtype=weights_dtype)
        config = self.video_transformer.config
        _refuse_other_sizes(self.video_transformer, video_path, self.image_transformer, image_path)
        self.image_size = config.image_size
        self.dim = config.hidden_size
        self.num_patches = config.num_patches if patch_grid is None else patch_grid**2
        if patch_grid is not None:
            patch_grid_side(config.num_patches)
        self.pooling = None if patch_grid is None else GridPooling(self.dim, grid=patch_grid)
        self.requires_grad_(False)
        self.train(False)
        for transformer in (self.video_transformer, self.image_transformer):
            self._sharding = hand_to_sharding(transformer, weights_dtype)

    def train(self, mode: bool = True) -> "LanguageBindEncoder":
        """Always stay in eval mode, because the encoder is frozen."""
        super().train(False)
        return self

    @staticmethod
    def frame_side(video_path: str, **_others: object) -> int:
        """Side of the frames, in pixels, for these constructor arguments. The encoder is not built.

        Raises:
            FileNotFoundError: There is no configuration.
            ValueError: The configuration does not have an image size.
        """
        return read_languagebind_config(video_path).image_size

    @torch.no_grad()
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode packed frames.

        Args:
            frames: uint8 ``[F, 3, image_size, image_size]``; F may be 0.
            frame_counts: Number of frames of every video, ``[V]`` int64; windows do not cross videos.

        Returns:
            Features of the F frames in the encoder's dtype.

        Raises:
            ValueError: The frames have another dtype or shape (position embeddings are not interpolated), or the counts
                do not sum to F.
        """
        check_frames(frames, self.image_size, "LanguageBind")
        num_frames = frames.shape[0]
        cls = torch.empty(num_frames, self.dim, dtype=self._dtype, device=frames.device)
        patches = torch.empty(num_frames, self.num_patches, self.dim, dtype=self._dtype, device=frames.device)
        for call in self._calls(frame_counts.cpu(), num_frames):
            index = call.frame_index.to(frames.device)
            windows = None if call.lengths is None else FrameWindows.of_lengths(call.lengths, frames.device)
            transformer = self.image_transformer if windows is None else self.video_transformer
            tokens = transformer(self._normalised(frames[index]), windows).to(self._dtype)  # [f, 1 + N, D]
            cls[index] = tokens[:, 0]
            full_grid = tokens[:, 1:]
            patches[index] = full_grid if self.pooling is None else self.pooling(full_grid)
        return FrameFeatures(cls, patches)

    def dummy_frames(self, device: object) -> Tensor:
        """One black frame, uint8 ``[1, 3, image_size, image_size]``."""
        return torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8, device=torch.device(str(device)))

    @property
    def _dtype(self) -> torch.dtype:
        return self.video_transformer.embeddings.class_embedding.dtype  # a precision plugin may have changed it

    def _calls(self, frame_counts: Tensor, num_frames: int) -> "Iterator[_Call]":
        """Divide the frames into calls of limited size, at least one per transformer.

        If weights are sharded, all ranks make as many calls as the rank with the most; additional calls have no frames.
        """
        is_image = (frame_counts == 1)[locate_frames(frame_counts, num_frames).video_index]  # [F] bool
        images = is_image.nonzero().squeeze(1)
        for number in range(self._rounds(len(images), self.max_frames_per_call)):
            yield _Call(images[number * self.max_frames_per_call :][: self.max_frames_per_call], None)
        lengths = window_lengths([count for count in frame_counts.tolist() if count > 1])
        video_frames = (~is_image).nonzero().squeeze(1)
        num_windows = self.max_frames_per_call // WINDOW_FRAMES
        start = 0
        for number in range(self._rounds(len(lengths), num_windows)):
            some = lengths[number * num_windows :][:num_windows]
            yield _Call(video_frames[start : start + sum(some)], some)
            start += sum(some)

    def _rounds(self, num_items: int, at_once: int) -> int:
        own = max(1, -(-num_items // at_once))
        return own if self._sharding is None else self._sharding.largest_of_all_ranks(own)

    def _normalised(self, frames: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=frames.device)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        return ((frames.float() / 255 - mean) / std).to(self._dtype)


def window_lengths(frame_counts: list[int]) -> list[int]:
    """Divide every video into windows of 8 frames; its last window may be shorter."""
    return [min(WINDOW_FRAMES, count - start) for count in frame_counts for start in range(0, count, WINDOW_FRAMES)]


class _Call(NamedTuple):
    """The frames of one forward pass."""

    frame_index: Tensor  # [f] int64, index into the packed frames
    lengths: list[int] | None  # number of frames of every window; None for images


def _refuse_other_sizes(video: VisionTransformer, video_path: str, image: VisionTransformer, image_path: str) -> None:
    for name in ("hidden_size", "image_size", "patch_size"):
        sizes = getattr(video.config, name), getattr(image.config, name)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{name!r} is {sizes[0]} in {video_path} but {sizes[1]} in {image_path}: images and videos of a batch "
                "need features of one shape; take two checkpoints that were trained together"
            )
