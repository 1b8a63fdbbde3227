"""The memory bridge of VideoLLaMB in the form that its authors published."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.padding import replace_rows
from components.bridges.layers.post_norm import PostNormAttention, PostNormBlock
from components.bridges.layers.segment_layers import last_patch_tokens, mix_segment
from components.checkpoints.part_weights import load_part_weights
from components.interfaces import BridgeDiagnostics, Questions, SegmentInput, VisualReader, VisualTokens
from components.sharding import SkipsUnusedCompute


class VideoLLaMBState(NamedTuple):
    """State of the published bridge after some segments."""

    memory: Tensor  # [V, M, D] memory tokens after the last real segment of every video, before retrieval
    cache: tuple[Tensor, ...]  # one [V, M, D] a segment: the memory tokens it wrote
    cache_mask: tuple[Tensor, ...]  # one [V] bool a segment: videos that have it
    last_input: Tensor  # [V, M + P, D] memory and patch tokens of the last real segment, input of the last layer
    token_mask: Tensor  # [V, P] bool


class VideoLLaMBBridge(VisualReader[VideoLLaMBState], SkipsUnusedCompute):
    """Carries memory tokens across segments, updates them from all earlier ones and shows the last segment.

    In every step the memory tokens and the segment's patches attend to each other; the published model averages the
    patches of every frame to a grid of 12 x 12 before (``patch_pooling`` of the model). The resulting memory tokens
    are cached. Before the next segment they attend to the complete cache, including themselves (*retrieval*). The
    language model sees only the patch tokens of the last segment, projected and passed through a GELU.

    It reproduces the published numbers with their flaws: the memory tokens start as equal zeros, only dropout makes
    them differ, there are no positions, and all memory tokens of a video soon hold the same. ``RecurrentMemoryBridge``
    is the better default. Parameters of the original that it never uses do not exist here.

    Args:
        dim: Vision width D; divisible by ``num_heads``.
        out_dim: Language model width E.
        num_memory: Memory tokens M.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_width: Hidden width of the feed-forward parts.
        dropout: Probability on attention weights and on the outputs of attention and feed-forward parts.
        retrieval: False passes the memory tokens to the next segment unchanged, the "no retrieval" ablation of the
            paper.
        weights: Safetensors file with the trained bridge, as ``components.weights.videollamb`` writes it.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``, a size is not positive, or ``weights`` holds a
            bridge of another shape.

    Source: VideoLLaMB (arXiv:2409.01071) and its code, commit a885b99.
    """

    reads_kept_tokens = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_memory: int = 32,
        num_layers: int = 1,
        num_heads: int = 8,
        mlp_width: int = 4096,
        dropout: float = 0.1,
        retrieval: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if min(num_memory, num_layers) < 1:
            raise ValueError(f"num_memory ({num_memory}) and num_layers ({num_layers}) must be at least 1")
        self.initial_memory = nn.Parameter(torch.zeros(num_memory, dim))
        self.layers = nn.ModuleList(PostNormBlock(dim, num_heads, mlp_width, dropout) for _ in range(num_layers))
        self.retrieval = PostNormAttention(dim, num_heads, dropout) if retrieval else None
        self.projection = nn.Linear(dim, out_dim)
        if weights is not None:
            advice = (
                "Set the bridge's sizes as they were trained; original checkpoints are imported by `python -m "
                "components.weights.videollamb import`"
            )
            load_part_weights(self, Path(weights), "bridge.weights", advice)

    def forward(self, segment: SegmentInput, state: VideoLLaMBState | None) -> VideoLLaMBState:
        """Read one segment of every video; see ``VisualReader.forward``."""
        if state is None:
            state = self._learned_start(len(segment.tokens))
        memory = self.retrieve(state)
        tokens = segment.tokens.to(self.initial_memory.dtype)
        written, mixed, token_mask = mix_segment(self.layers, memory, tokens, segment.token_mask)
        active = segment.frame_mask.any(dim=1)  # [V]
        replace = partial(replace_rows, active, shortcut=self.may_skip_unused_compute)
        return VideoLLaMBState(
            memory=replace(written, state.memory),
            cache=(*state.cache, written),
            cache_mask=(*state.cache_mask, active),
            last_input=replace(mixed, state.last_input),
            token_mask=replace(token_mask, state.token_mask),
        )

    def read(
        self, state: VideoLLaMBState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the last segment's patch tokens: ``[V, P, E]``."""
        return VisualTokens(F.gelu(self.projection(self.last_tokens(state))), state.token_mask)

    def diagnostics(
        self, state: VideoLLaMBState, questions: Questions | None = None, *, with_attention: bool = False
    ) -> BridgeDiagnostics:
        """Show the memory tokens; see ``VisualReader.diagnostics``."""
        return BridgeDiagnostics(memory=state.memory)

    def last_tokens(self, state: VideoLLaMBState) -> Tensor:
        """Patch tokens of the last real segment of every video after the bridge's layers, ``[V, P, D]``."""
        return last_patch_tokens(self.layers[-1], state.memory.shape[1], state.last_input, state.token_mask)

    def retrieve(self, state: VideoLLaMBState) -> Tensor:
        """Memory that enters the next segment, ``[V, M, D]``.

        The original also computes it after the last segment, where nothing reads it.
        """
        if self.retrieval is None or not state.cache:
            return state.memory
        keys = torch.cat(state.cache, dim=1)  # [V, segments * M, D]
        mask = torch.stack(state.cache_mask, dim=1)  # [V, segments]
        has_memories = mask.any(dim=1, keepdim=True)
        # A video without a segment so far attends to masked keys, because a row without any key would be NaN.
        key_mask = (mask | ~has_memories).repeat_interleave(state.cache[0].shape[1], dim=1)
        retrieved = self.retrieval(state.memory, keys, key_mask)
        return torch.where(has_memories.unsqueeze(-1), retrieved, state.memory)

    def start(self, memory: Tensor) -> VideoLLaMBState:
        """State before the first segment with a given memory instead of the learned one.

        Args:
            memory: ``[V, M, D]``; M may differ from ``num_memory``.
        """
        memory = memory.to(self.initial_memory.dtype)
        return VideoLLaMBState(memory, (), (), memory, memory.new_empty(memory.shape[0], 0, dtype=torch.bool))

    def _learned_start(self, num_videos: int) -> VideoLLaMBState:
        memory = self.initial_memory.expand(num_videos, -1, -1)
        if self.retrieval is not None:
            # Nothing is cached yet. But under DDP and ZeRO every parameter must be in the graph of every batch, also of
            # one that holds only images or videos of one segment.
            memory = memory + 0.0 * self.retrieval(memory, memory, None)
        return self.start(memory)
