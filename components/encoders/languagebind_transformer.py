"""The vision transformer of LanguageBind: CLIP's, in the video variant with attention across frames.

Modules have the names of the published checkpoints (including the spelling ``pre_layrnorm``), so that tensors load
without renaming. There is no final norm or pooler, because VideoLLaMB uses hidden states only.

Source: LanguageBind (arXiv:2310.01852), as VideoLLaMB (arXiv:2409.01071) runs it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

WINDOW_FRAMES = 8
"""Number of frames that attend to each other: the length of the temporal embedding in all published checkpoints."""


class VisionConfig(NamedTuple):
    """Settings of the vision transformer, under their names in ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def num_patches(self) -> int:
        """Number of patches per frame, N."""
        return (self.image_size // self.patch_size) ** 2


class FrameWindows(NamedTuple):
    """W windows of consecutive frames. The frames of a window attend to each other."""

    num_windows: int
    position: Tensor  # [F] int64, position of every frame in the W * WINDOW_FRAMES positions of all windows
    mask: Tensor | None  # [W, WINDOW_FRAMES] bool, False at positions without a frame; None if there are none

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], device: torch.device) -> "FrameWindows":
        """Make windows from their lengths.

        Args:
            lengths: Number of frames of every window, each in 1..WINDOW_FRAMES.
            device: Device of the tensors.
        """
        mask = torch.arange(WINDOW_FRAMES) < torch.tensor(lengths, dtype=torch.int64)[:, None]  # [W, WINDOW_FRAMES]
        position = mask.flatten().nonzero().squeeze(1)
        return cls(len(lengths), position.to(device), None if bool(mask.all()) else mask.to(device))


class VisionTransformer(nn.Module):
    """Computes the hidden states of the class token and the patches of normalised frames.

    Args:
        config: Sizes and activation.
        num_layers: Number of layers to build, at most that of ``config``.
        temporal: Whether the frames of a window attend to each other (video variant) or not (image variant).

    Attributes:
        config: As given.
    """

    def __init__(self, config: VisionConfig, num_layers: int, temporal: bool) -> None:
        super().__init__()
        self.config = config
        make_layer = SpaceTimeLayer if temporal else SpaceLayer
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = LayerStack([make_layer(config) for _ in range(num_layers)])

    def forward(self, pixels: Tensor, windows: FrameWindows | None = None) -> Tensor:
        """Compute the last hidden state.

        Args:
            pixels: Normalised frames, ``[F, 3, H, W]``; F may be 0.
            windows: Windows of the F frames; required by the video variant, ignored by the image variant.

        Returns:
            ``[F, 1 + N, D]``, class token first, without a final norm.
        """
        *_, last = self.hidden_states(pixels, windows)
        return last

    def hidden_states(self, pixels: Tensor, windows: FrameWindows | None = None) -> Iterator[Tensor]:
        """Compute the hidden states one by one: before the first layer, then after every layer.

        Args:
            pixels: See ``forward``.
            windows: See ``forward``.

        Yields:
            ``[F, 1 + N, D]``.
        """
        tokens = self.pre_layrnorm(self.embeddings(pixels))
        yield tokens
        for layer in self.encoder.layers:
            tokens = layer(tokens, windows)
            yield tokens


class LayerStack(nn.Module):
    """A list of layers, under its name in checkpoints."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class PatchEmbeddings(nn.Module):
    """Embeds the class token and the patches, with learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim, side = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.patch_embedding = nn.Conv2d(3, dim, kernel_size=side, stride=side, bias=False)
        self.position_embedding = nn.Embedding(1 + config.num_patches, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed ``[F, 3, H, W]`` as ``[F, 1 + N, D]``."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [F, N, D], row-major
        cls = self.class_embedding.expand(pixels.shape[0], 1, -1)
        positions = torch.arange(1 + patches.shape[1], device=pixels.device)
        tokens: Tensor = torch.cat([cls, patches], dim=1) + self.position_embedding(positions)
        return tokens


class SpaceLayer(nn.Module):
    """Attention over the tokens of each frame, then a feed-forward network; both pre-norm and residual."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.self_attn = AxisAttention(dim, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = FeedForward(dim, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, windows: FrameWindows | None) -> Tensor:
        """Map ``[F, 1 + N, D]`` to the same shape."""
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.layer_norm2(tokens))
        return mixed


class SpaceTimeLayer(SpaceLayer):
    """A ``SpaceLayer`` preceded by attention across the frames of a window, separately for every token position."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        dim = config.hidden_size
        self.temporal_embedding = nn.Parameter(torch.zeros(1, WINDOW_FRAMES, dim))
        self.temporal_attn = AxisAttention(dim, config.num_attention_heads)
        self.temporal_layer_norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def forward(self, tokens: Tensor, windows: FrameWindows | None) -> Tensor:
        """Map ``[F, 1 + N, D]`` to the same shape.

        Raises:
            ValueError: ``windows`` is None.
        """
        if windows is None:
            raise ValueError("a layer with temporal attention needs the windows of the frames, got None")
        time = self.temporal_embedding[0, windows.position % WINDOW_FRAMES]  # [F, D]
        tokens = tokens + time[:, None]  # added to the residual stream in every layer, as in LanguageBind
        tokens = tokens + self._attend_across_frames(self.temporal_layer_norm1(tokens), windows)
        return super().forward(tokens, windows)

    def _attend_across_frames(self, tokens: Tensor, windows: FrameWindows) -> Tensor:
        grid = (windows.num_windows, WINDOW_FRAMES)
        if windows.mask is None:
            attended: Tensor = self.temporal_attn(tokens.unflatten(0, grid)).flatten(0, 1)
            return attended
        padded = tokens.new_zeros(windows.num_windows * WINDOW_FRAMES, *tokens.shape[1:])
        grouped = padded.index_copy(0, windows.position, tokens).unflatten(0, grid)  # [W, WINDOW_FRAMES, 1 + N, D]
        attended = self.temporal_attn(grouped, windows.mask[:, None, None]).flatten(0, 1)
        return attended[windows.position]


class AxisAttention(nn.Module):
    """Multi-head attention along axis 1; axes between it and the last one are independent, like heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: ``[B, A, ..., D]``; the A entries attend to each other.
            mask: True where attention is allowed, bool, broadcast to ``[B, heads, A, A]``.

        Returns:
            Tokens of the same shape.
        """
        query, key, value = (
            # [B, A, ..., D] -> [B, independent, A, head_dim]; flatten works for an empty batch, reshape(-1) does not
            project(tokens).unflatten(-1, (-1, self.head_dim)).flatten(2, -2).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if tokens.numel():
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:  # CUDA's fused kernels do not support an empty batch
            attended = value
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).reshape(tokens.shape))
        return mixed


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden_dim: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[..., D]`` to the same shape."""
        widened = self.activation(self.fc1(tokens))
        narrowed: Tensor = self.fc2(widened)
        return narrowed
