"""A bank of frames that merges similar neighbours in time, read by learned queries that remember their own past."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.bridges.layers.projection import token_projection
from components.bridges.layers.query_layer import QueryLayer
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens
from components.merging.neighbours import chosen_rows
from components.merging.position_bank import PositionBank
from components.positions import interleaved_sinusoid


class MergingBankState(NamedTuple):
    """State after some segments."""

    frames: PositionBank
    queries: tuple[PositionBank, ...]  # of every layer: its inputs in earlier segments; empty without a query bank
    output: Tensor  # [V, Q, H] the queries after each video's last segment


class MergingBank(VisualReader[MergingBankState]):
    """Keeps a bank of at most ``num_memory`` frames, and lets learned queries read it after every segment.

    Where the bank is full, the most similar neighbours in time are merged, for every token position by itself: the mean
    is weighted by the frames that both stand for. After each segment the queries read the bank by cross attention. The
    queries have a bank too: in every layer they also attend to what they were after earlier segments, and this bank
    merges by the same rule. The language model sees the queries after the last segment. The state is of constant size.

    The queries run once a segment, so that strategies that shard weights make equally many calls on every rank. The
    published code runs them for every frame; with segments of one frame it is the same.

    Args:
        dim: Width D of a patch; even.
        out_dim: Language model width E.
        num_memory: Most entries of each bank.
        num_queries: Queries Q, the number of visual tokens.
        width: Inner width H; null for D.
        num_layers: Layers of the queries.
        num_heads: Attention heads.
        context_every: Every so many layers read the bank of frames, beginning with the first.
        query_bank: Whether the queries remember what they were.
        as_published: The queries see the newest frame beside a full bank, so one more entry than ``num_memory``; and no
            gradient reaches earlier segments.

    Raises:
        ValueError: A number is below 1, or widths and heads do not fit.

    Source: MA-LMM (arXiv:2404.05726), boheumd/MA-LMM, lavis/models/blip2_models/blip2.py, commit ffe9fa9. There a
    trained Q-Former of 12 layers is used, the question's words are among the queries, and the code of a frame's number
    is a learned table. Here it is a sinusoidal code whose channels are scaled by learned numbers, zero at the start.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_memory: int = 10,
        num_queries: int = 32,
        width: int | None = None,
        num_layers: int = 2,
        num_heads: int = 8,
        context_every: int = 2,
        query_bank: bool = True,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if min(num_memory, num_queries, num_layers, num_heads, context_every) < 1:
            raise ValueError(
                "num_memory, num_queries, num_layers, num_heads and context_every must be at least 1, got "
                f"{num_memory}, {num_queries}, {num_layers}, {num_heads} and {context_every}"
            )
        if dim % 2:
            raise ValueError(f"codes of frame numbers need an even width, got {dim}: take a projector of even width")
        width = width or dim
        self.num_memory = num_memory
        self.query_bank = query_bank
        self.as_published = as_published
        self.number_scale = nn.Parameter(torch.zeros(dim))
        self.queries = nn.Parameter(torch.randn(num_queries, width) * 0.5**0.5)
        self.layers = nn.ModuleList(
            QueryLayer(width, dim if layer % context_every == 0 else None, num_heads, 4 * width)
            for layer in range(num_layers)
        )
        self.projection = token_projection(width, out_dim)

    def forward(self, segment: SegmentInput, state: MergingBankState | None) -> MergingBankState:
        """Add the frames of one segment of every video and let the queries read; see ``VisualReader.forward``."""
        grid = segment.grid(self)
        code = interleaved_sinusoid(segment.frame_number, grid.shape[3]) * self.number_scale
        grid = (grid + code.to(grid.dtype)[:, :, None]).masked_fill(~segment.frame_mask[..., None, None], 0.0)
        if state is None:
            state = self._start(grid)
        frames = state.frames
        for frame, is_real in zip(grid.unbind(1), segment.frame_mask.unbind(1), strict=True):
            frames = self.with_frame(frames, frame, is_real)
        return self._read_by_queries(state, frames, segment.frame_mask.any(dim=1))

    def with_frame(self, frames: PositionBank, frame: Tensor, is_real: Tensor) -> PositionBank:
        """The bank after one more frame ``[V, N, D]`` of the videos where ``is_real [V]``."""
        if not self.as_published:
            return frames.with_entry(frame, is_real).within(self.num_memory)
        with_room = frames.within(self.num_memory)
        with_room = PositionBank(*(chosen_rows(is_real, new, old) for new, old in zip(with_room, frames, strict=True)))
        return with_room.with_entry(frame, is_real)

    def read(
        self, state: MergingBankState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the queries: ``[V, num_queries, E]``, all real."""
        tokens = self.projection(state.output)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def _start(self, grid: Tensor) -> MergingBankState:
        queries = self.queries.expand(len(grid), -1, -1)
        banks = [PositionBank.empty(queries, self.num_memory + 1) for _ in self.layers] if self.query_bank else []
        return MergingBankState(PositionBank.empty(grid[:, 0], self.num_memory + 1), tuple(banks), queries)

    def _read_by_queries(self, state: MergingBankState, frames: PositionBank, is_real: Tensor) -> MergingBankState:
        queries = self.queries.expand(len(is_real), -1, -1)
        context, context_mask = frames.entries.flatten(1, 2), frames.token_mask
        banks = []
        for number, layer in enumerate(self.layers):
            earlier = queries[:, :0]
            earlier_mask = context_mask[:, :0]
            if self.query_bank:
                bank = state.queries[number]
                earlier, earlier_mask = bank.entries.flatten(1, 2), bank.token_mask
                banks.append(with_queries(bank, queries, is_real, detached=self.as_published))
            queries = layer(queries, earlier, earlier_mask, context, context_mask)
        if self.as_published:
            frames = frames._replace(entries=frames.entries.detach())
        return MergingBankState(frames, tuple(banks), chosen_rows(is_real, queries, state.output))


def with_queries(bank: PositionBank, inputs: Tensor, is_real: Tensor, *, detached: bool) -> PositionBank:
    """A layer's bank after it has read ``inputs [V, T, H]``; one slot stays free.

    Args:
        bank: The bank before.
        inputs: What the layer reads.
        is_real: Videos that have the segment, ``[V]`` bool.
        detached: Whether gradients stop at the bank.
    """
    grown = bank.with_entry(inputs.detach() if detached else inputs, is_real)
    return grown.within(bank.sizes.shape[1] - 1)
