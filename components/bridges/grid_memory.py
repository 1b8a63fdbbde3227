"""A recurrent memory whose tokens are complete grids of patches, with a cache of the last memories."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from components.bridges.fusers import MemoryFuser, MlpFuser
from components.bridges.grid_memory_state import GridMemoryState
from components.bridges.layers.cross_attention import CrossAttention, CrossAttentionLayer, KeysAndValues
from components.bridges.layers.padding import is_known_full
from components.checkpoints.part_weights import load_part_weights
from components.interfaces import BridgeDiagnostics, Questions, SegmentInput, VisualReader, VisualTokens
from components.pooling.patch_pooling import GridPooling
from components.positions import interleaved_sinusoid, patch_grid_side
from components.sharding import SkipsUnusedCompute
from components.type_embedding import TypeEmbedding

ShownMemories = Literal["cache", "last"]


@dataclass(frozen=True)
class GridMemoryOptions:
    """What a grid memory adds to its input and output, how much of it is shown, and how far gradients go.

    Args:
        frame_positions: Add a sinusoidal code of each frame's number in its video to its patches.
        type_embedding: Add a learned vector to all visual tokens of the memory.
        shown: ``cache``: the language model sees all memories in the cache. ``last``: the newest alone.
        max_tokens: Most visual tokens of a video. Every memory's grids are averaged to the largest side with which a
            full cache fits. So the side is the same for every video, and a short video shows fewer tokens than fit.
            None: grids are shown as they are.
        cut_gradients_every: Cut the gradient between the memories before and after every so many segments, so that
            training memory does not grow with the video. In a batch it grows again once the shortest video has ended,
            and under ZeRO-3 always: gradients are the same, but earlier segments stay in memory for the videos that may
            have ended; take ``recompute`` there. None: gradients reach the first segment.
        recompute: Compute every segment again in the backward pass instead of storing its activations.
    """

    frame_positions: bool = True
    type_embedding: bool = True
    shown: ShownMemories = "cache"
    max_tokens: int | None = None
    cut_gradients_every: int | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.shown not in get_args(ShownMemories):
            raise ValueError(f"shown must be one of {get_args(ShownMemories)}, got {self.shown!r}")
        if self.cut_gradients_every is not None and self.cut_gradients_every < 1:
            raise ValueError(f"cut_gradients_every must be at least 1 or null, got {self.cut_gradients_every}")


class GridMemory(VisualReader[GridMemoryState], SkipsUnusedCompute):
    """Carries a few grids of memory vectors from segment to segment, and shows the last memories.

    A memory is ``num_memory`` grids of ``num_cells`` vectors. The vectors are queries, each by itself:

    - Before a segment they attend to all memories in the cache, including the newest, from which they come. The first
      segment starts from a learned memory instead.
    - Then they attend to the patches of the segment in ``depth`` layers.
    - The result is the newest memory of the cache. The cache has at most ``cache_limit`` of them and drops the oldest.

    The language model sees the memories of the cache, the oldest first, through a fuser.

    It is the memory of the Memory-Augmented VLM with the same numbers, but batched over videos. Memories are projected
    to keys and values once, when they enter the cache. Initial values are ours: the published code starts from
    uninitialised memory. Here the initial memory and the positions of its grids are normal with a variance of one half
    each: all vectors of a memory differ from the start, and together they have the variance that normalised memories
    have.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E; equal to D.
        num_cells: Vectors of a grid; need not be the patches of a frame.
        num_memory: Grids of a memory.
        depth: Layers that read a segment.
        num_heads: Attention heads.
        cache_limit: Most memories that are stored and shown.
        fuser: Builds from E what the shown memories are passed through; None to show them as they are.
        options: See ``GridMemoryOptions``.
        weights: Safetensors file with a trained memory, under the names of this class.

    Raises:
        ValueError: D and E differ or do not fit heads or positions, a number is not positive, ``max_tokens`` is too
            small, or ``weights`` does not fit.
        FileNotFoundError: There is no such file.

    Source: the Memory-Augmented VLM code, commit 437dbe3.
    """

    reads_kept_tokens = True
    is_elastic = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_cells: int = 196,
        num_memory: int = 8,
        depth: int = 2,
        num_heads: int = 8,
        cache_limit: int = 10,
        fuser: Callable[[int], MemoryFuser] | None = MlpFuser,
        options: GridMemoryOptions | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.options = options or GridMemoryOptions()
        _check_sizes(dim, out_dim, self.options)
        if min(num_cells, num_memory, depth, cache_limit) < 1:
            raise ValueError(
                f"num_cells, num_memory, depth and cache_limit must be at least 1, got {num_cells}, {num_memory}, "
                f"{depth} and {cache_limit}"
            )
        self.num_memory = num_memory
        self.num_cells = num_cells
        self.cache_limit = cache_limit
        self.initial_memory = nn.Parameter(torch.randn(num_memory, num_cells, dim) * 0.5**0.5)
        self.memory_positions = nn.Parameter(torch.randn(num_memory, 1, dim) * 0.5**0.5)
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, num_heads) for _ in range(depth))
        self.update = CrossAttention(dim, num_heads)
        self.fuser = None if fuser is None else fuser(dim)
        self.type_embedding = TypeEmbedding(dim) if self.options.type_embedding else None
        self._shown_side(None)  # refuses a max_tokens that is too small
        if weights is not None:
            load_part_weights(self, Path(weights), "the reader's weights")

    def forward(self, segment: SegmentInput, state: GridMemoryState | None) -> GridMemoryState:
        """Read one segment of every video; see ``VisualReader.forward``."""
        active = segment.frame_mask.any(dim=1)  # [V]
        # A strategy that gathers weights counts the tensors of a state that get a gradient: all ranks need one graph.
        is_in_all = self.may_skip_unused_compute and (segment.is_in_all or is_known_full(active))
        tokens, key_mask = self._positioned(segment), _key_mask(segment, active)
        if state is None:
            state = self._start(len(tokens), tokens.dtype)
        every = self.options.cut_gradients_every
        if every is not None:
            if state.since_cut.shape[1] >= every:
                initial = self._initial(tokens.dtype)
                state = state.cut_gradients(active, self.update.project, initial, is_in_all=is_in_all)
            state = state.counted()
        if self.options.recompute and torch.is_grad_enabled():
            # Again to the end, not only as far as backward needs: strategies that shard free weights at the end.
            with set_checkpoint_early_stop(False):
                written, projected = checkpoint(
                    self._read_segment, state, tokens, key_mask, use_reentrant=False, preserve_rng_state=False
                )
        else:
            written, projected = self._read_segment(state, tokens, key_mask)
        return state.with_segment(written, projected, active, is_in_all=is_in_all, cache_limit=self.cache_limit)

    def read(
        self, state: GridMemoryState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Show the memories of the cache, or the newest: ``[V, memories * num_memory * cells, E]``.

        Raises:
            ValueError: The budget is too small for one vector of every grid.
        """
        if self.options.shown == "last":
            return self._show((state.newest,), None, budget)
        return self._show(state.memories, state.memory_mask, budget)

    def written(self, segment: SegmentInput, state: GridMemoryState) -> VisualTokens:
        """Show the memory after the segment, where the fuser does not mix memories; see ``VisualReader.written``."""
        if self.options.shown == "cache" and self.fuser is not None and not self.fuser.is_tokenwise:
            return super().written(segment, state)
        return self._show((state.newest,), segment.frame_mask.any(dim=1, keepdim=True), None)

    def diagnostics(
        self, state: GridMemoryState, questions: Questions | None = None, *, with_attention: bool = False
    ) -> BridgeDiagnostics:
        """Show the mean vector of each grid of the newest memory, ``[V, num_memory, D]``.

        There is no attention to segments to show: a memory holds earlier memories too.
        """
        return BridgeDiagnostics(memory=state.newest.unflatten(1, (-1, self.num_cells)).mean(dim=2))

    def _positioned(self, segment: SegmentInput) -> Tensor:
        """The segment's patches with the codes of their frames, ``[V, P, D]``."""
        if not self.options.frame_positions:
            return segment.tokens
        code = interleaved_sinusoid(segment.frame_number, segment.tokens.shape[2]).to(segment.tokens.dtype)  # [V, L, D]
        if segment.kept is None:
            return segment.tokens + code.repeat_interleave(segment.num_cells, dim=1)
        return segment.tokens + code.gather(1, segment.kept.group[..., None].expand_as(segment.tokens))

    def _initial(self, dtype: torch.dtype) -> Tensor:
        """The memory before the first segment, ``[B, D]``."""
        return (self.initial_memory + self.memory_positions).to(dtype).flatten(0, 1)

    def _start(self, num_videos: int, dtype: torch.dtype) -> GridMemoryState:
        initial = self._initial(dtype).expand(num_videos, -1, -1)
        # The first segment does not use the attention to the cache. But under DDP and ZeRO every parameter must be in
        # the graph of every batch, also of one that holds only images or videos of one segment.
        one = initial[:1, :1]
        return GridMemoryState.start(initial + 0.0 * self.update(one, self.update.project(one), None))

    def _read_segment(
        self, state: GridMemoryState, tokens: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, KeysAndValues]:
        """Memory after a segment with its keys and values; calls submodules alone, so that it can run again."""
        memory = self._updated(state) if state.memories else state.newest
        for layer in self.layers:
            memory = layer(memory, tokens, key_mask)
        return memory, self.update.project(memory)

    def _updated(self, state: GridMemoryState) -> Tensor:
        """The newest memory after it has attended to the cache, ``[V, B, D]``."""
        context = KeysAndValues(torch.cat(state.keys, dim=1), torch.cat(state.values, dim=1))
        mask = state.memory_mask
        if mask is None:
            updated: Tensor = self.update(state.newest, context, None)
            return updated
        has_memory = mask.any(dim=1, keepdim=True)  # [V, 1]
        # A video without a segment so far attends to masked keys, because a row without any key would be NaN.
        key_mask = (mask | ~has_memory).repeat_interleave(state.newest.shape[1], dim=1)
        return torch.where(has_memory[..., None], self.update(state.newest, context, key_mask), state.newest)

    def _show(self, memories: tuple[Tensor, ...], memory_mask: Tensor | None, budget: int | None) -> VisualTokens:
        """Visual tokens of memories, ``[V, B, D]`` each, of which ``memory_mask [V, memories]`` are real."""
        side = self._shown_side(budget)
        tokens = torch.cat(memories, dim=1)
        if side is not None:
            grids = tokens.unflatten(1, (-1, self.num_cells))
            pooled = GridPooling(tokens.shape[2], grid=side)(grids.flatten(0, 1))
            tokens = pooled.unflatten(0, grids.shape[:2]).flatten(1, 2)
        mask = None
        if memory_mask is not None:
            mask = memory_mask.repeat_interleave(tokens.shape[1] // len(memories), dim=1)
        if self.fuser is not None:
            tokens = self.fuser(tokens, mask)
        if self.type_embedding is not None:
            tokens = self.type_embedding(tokens)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask)

    def _shown_side(self, budget: int | None) -> int | None:
        """Side to which grids are averaged; None to show them as they are."""
        limits = [limit for limit in (budget, self.options.max_tokens) if limit is not None]
        if not limits:
            return None
        num_grids = self.num_memory * (self.cache_limit if self.options.shown == "cache" else 1)
        if min(limits) < num_grids:
            raise ValueError(
                f"{min(limits)} visual tokens do not suffice for one of each of the {num_grids} grids that GridMemory "
                "shows of a long video: raise max_tokens or the budget, lower cache_limit or num_memory, or set shown "
                "to last"
            )
        return min(patch_grid_side(self.num_cells), math.isqrt(min(limits) // num_grids))


def _key_mask(segment: SegmentInput, active: Tensor) -> Tensor | None:
    """Which patches the memory attends to, ``[V, P]`` bool; None if all are known to be real."""
    if segment.is_full and segment.kept is None:
        return None
    mask = segment.token_mask | ~active[:, None]  # a row without any key would be NaN
    return None if is_known_full(mask) else mask


def _check_sizes(dim: int, out_dim: int, options: GridMemoryOptions) -> None:
    if dim != out_dim:
        raise ValueError(
            f"GridMemory shows its memories unprojected, so the patches need the language model's width {out_dim}, but "
            f"they have {dim}: give the model a projector"
        )
    if options.frame_positions and dim % 2:
        raise ValueError(f"frame_positions need an even width, got {dim}: take another width or no frame_positions")
