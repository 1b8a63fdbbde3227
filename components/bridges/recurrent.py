"""The recurrent memory bridge: memory tokens are updated segment by segment and can be read at any time."""

from collections.abc import Callable
from functools import partial
from itertools import compress
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import TransformerBlock
from components.bridges.layers.padding import replace_rows
from components.bridges.layers.segment_layers import last_patch_tokens, mix_segment
from components.bridges.layers.selective_update import Selection, SelectiveRecurrence, SelectiveUpdate, within_capacity
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.segment_entries import flat, in_groups
from components.interfaces import (
    BridgeDiagnostics,
    MemoryState,
    Questions,
    Readout,
    SegmentInput,
    VisualReader,
    VisualTokens,
)
from components.positions import patch_grid_positions, sinusoidal
from components.sharding import SkipsUnusedCompute

Recurrence = Literal["replacing", "selective", "none"]

# Longest wavelength of a frame's position in its segment, in frames. Longer segments than this are far beyond what fits
# into a recurrent step, and another value would change what trained bridges read.
_LONGEST_SEGMENT = 256.0


class RecurrentMemoryBridge(VisualReader[MemoryState], SkipsUnusedCompute):
    """Carries memory tokens from segment to segment and reads them through a readout.

    In every step the memory tokens and the segment's patches attend to each other.

    - The memory tokens after the step are the segment's *written* memory. They are cached.
    - The *lasting* memory goes on to the next segment. It is the written memory, or with ``selective`` as much of it as
      a gate admits.
    - What enters a segment is ``initial + tanh(gate) * LayerNorm(lasting)`` with one gate a channel, which starts at
      zero (with ``selective`` half open). Every segment starts near the learned initial memory, so errors cannot add up
      over hundreds of segments.

    With ``selective`` a segment that the gate does not admit is hidden in the cache too. So a readout sees the few
    segments in which something happened, however long the video is. Training videos of a few segments do not teach the
    gate to stay closed for hundreds; a penalty on its probability to open does. The first segment is always admitted,
    so that the bridge learns to use a memory before there is anything to select. With a ``capacity`` at most so many
    segments stay admitted, those that the gate was most likely to open for.

    Patches carry their position in the frame and their frame's position in the segment. The readouts of the cache know
    when each segment was in the video; the recurrence does not.

    The published bridge (``VideoLLaMBBridge``) differs: its memory tokens start as equal zeros and stay equal, it has
    no positions, and its memory drifts with every step.

    Args:
        dim: Vision width D.
        out_dim: Language model width E.
        width: Inner width of memory and layers; D by default. Divisible by ``num_heads`` and by 4.
        num_memory: Memory tokens M.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        recurrence: ``replacing``: the written memory becomes the lasting memory. ``selective``: a gate that has seen
            both decides how much of it does (``SelectiveUpdate``); a ``SelectiveRecurrence`` in its place sets the
            gate's numbers. ``none``: every segment starts from the initial memory.
        update_penalty: Weight of the gate's mean probability to open in the training loss; only with ``selective``.
        readout: Builds the readout from the inner width and E.

    Raises:
        ValueError: ``recurrence`` is none of the three, there is no memory token or layer, or ``update_penalty`` is
            negative, which would reward forgetting.

    Source: after VideoLLaMB (arXiv:2409.01071); recurrence after RMT (arXiv:2207.06881).
    """

    reads_kept_tokens = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        width: int | None = None,
        num_memory: int = 32,
        num_layers: int = 1,
        num_heads: int = 8,
        recurrence: Recurrence | SelectiveRecurrence = "selective",
        update_penalty: float = 0.03,
        readout: Callable[[int, int], Readout] = CacheAndMemoryReadout,
    ) -> None:
        super().__init__()
        selective = SelectiveRecurrence() if recurrence == "selective" else recurrence
        if not isinstance(selective, SelectiveRecurrence) and recurrence not in get_args(Recurrence):
            raise ValueError(f"recurrence must be one of {get_args(Recurrence)}, got {recurrence!r}")
        if num_memory < 1 or num_layers < 1:
            raise ValueError(f"num_memory and num_layers must be at least 1, got {num_memory} and {num_layers}")
        if update_penalty < 0:
            raise ValueError(f"update_penalty must be at least 0, got {update_penalty}")
        self.width = width or dim
        self.carried = float(recurrence != "none")
        self.update = SelectiveUpdate(self.width, selective) if isinstance(selective, SelectiveRecurrence) else None
        self.update_penalty = update_penalty
        self.patch_input = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self.width))
        # Small beside what the first block writes, so that the memory is mostly what it has read.
        self.initial_memory = nn.Parameter(torch.randn(num_memory, self.width) * 0.02)
        self.memory_norm = nn.LayerNorm(self.width)
        carry = selective.first_carry if isinstance(selective, SelectiveRecurrence) else 0.0
        self.gate = nn.Parameter(torch.full((self.width,), carry))
        self.layers = nn.ModuleList(TransformerBlock(self.width, num_heads) for _ in range(num_layers))
        self.readout = readout(self.width, out_dim)
        self.reads_questions = self.readout.reads_questions

    def forward(self, segment: SegmentInput, state: MemoryState | None) -> MemoryState:
        """Read one segment of every video; see ``VisualReader.forward``."""
        patches = self._positioned(segment)  # [V, P, D]
        memory = self._entering_memory(state, len(patches), patches.dtype)
        written, mixed, token_mask = mix_segment(self.layers, memory, patches, segment.token_mask)
        selection = None
        if self.update is not None:
            lasting = memory if state is None else state.memory
            selection = self.update(lasting, written, patches, token_mask)
            selection = selection.with_all_admitted() if state is None else selection
        if not self.readout.reads_tokens:
            mixed, token_mask = mixed[:, :0], token_mask[:, :0]
        after = _advance(state, segment, written, selection, mixed, token_mask, self.may_skip_unused_compute)
        return after if selection is None else self._bounded(after, state, selection)

    def read(
        self, state: MemoryState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Turn the state into visual tokens; see ``VisualReader.read``."""
        state = flat(state)
        if self.readout.reads_tokens:
            num_memory = state.memory.shape[1]
            tokens = last_patch_tokens(self.layers[-1], num_memory, state.last_input, state.token_mask)
            state = state._replace(tokens=tokens)
        visual: VisualTokens = self.readout(state, questions)
        return visual

    def written(self, segment: SegmentInput, state: MemoryState) -> VisualTokens:
        """What the readout shows after the segment, where it shows the last segment alone."""
        if not self.readout.shows_last_segment:
            return super().written(segment, state)
        visual = self.read(state)
        has_segment = segment.frame_mask.any(dim=1, keepdim=True)
        return visual._replace(mask=visual.mask.to(has_segment.device, non_blocking=True) & has_segment)

    def prune(self, state: MemoryState) -> MemoryState:
        """Drop segments from the cache that the gate admitted in no video, or that are over the capacity."""
        if self.capacity is not None:
            return _only_admitted(state, 0)._replace(pruned=())  # any segment may be dropped later
        return in_groups(_only_admitted(state, len(state.pruned)))

    def penalty(self, state: MemoryState) -> Tensor | None:
        """The gate's mean probability to open over each video's segments after the first, times its weight, ``[V]``."""
        if self.update is None:
            return None
        num_updates = torch.stack(flat(state).cache_mask).sum(dim=0) - 1
        return self.update_penalty * state.gate_probability / num_updates.clamp(min=1)

    def diagnostics(
        self, state: MemoryState, questions: Questions | None = None, *, with_attention: bool = False
    ) -> BridgeDiagnostics:
        """Show memory tokens, admissions and the readout's attention; see ``VisualReader.diagnostics``."""
        state = flat(state)
        admitted = torch.stack(state.admitted, dim=1) if state.admitted else None
        attention = self.readout.segment_attention(state, questions) if with_attention else None
        return BridgeDiagnostics(state.memory, admitted, attention)

    @property
    def capacity(self) -> int | None:
        """Most segments that stay admitted; None for no limit."""
        return None if self.update is None else self.update.settings.capacity

    def _bounded(self, state: MemoryState, before: MemoryState | None, selection: Selection) -> MemoryState:
        """The state with at most ``capacity`` admitted segments of every video."""
        if self.capacity is None:
            return state
        logits = (*(() if before is None else before.gate_logits), selection.logit)
        return state._replace(admitted=within_capacity(state.admitted, logits, self.capacity), gate_logits=logits)

    def _positioned(self, segment: SegmentInput) -> Tensor:
        """Patch tokens of the inner width with their positions, ``[V, P, width]``."""
        device, length = segment.tokens.device, segment.frame_mask.shape[1]
        in_frame = patch_grid_positions(segment.num_cells, self.width, device)
        frames = torch.arange(length, device=device)
        in_segment = sinusoidal(frames, self.width, longest=_LONGEST_SEGMENT, shortest=2.0)
        if segment.kept is None:
            position = (in_frame + in_segment.unsqueeze(1)).flatten(0, 1)  # [P, width]
        else:
            position = in_frame[segment.kept.cell] + in_segment[segment.kept.group]  # [V, P, width]
        normed: Tensor = self.patch_input(segment.tokens) + position.to(segment.tokens.dtype)
        return normed

    def _entering_memory(self, state: MemoryState | None, num_videos: int, dtype: torch.dtype) -> Tensor:
        """What the memory tokens are at the start of a segment, ``[V, M, width]``."""
        initial = self.initial_memory.to(dtype).expand(num_videos, -1, -1)
        # Before the first segment there is nothing to carry, yet norm and gate are used, times zero: under DDP and ZeRO
        # a parameter that some batch leaves out of the graph would stop the run.
        previous, carried = (initial, 0.0) if state is None else (state.memory, self.carried)
        entering: Tensor = initial + carried * torch.tanh(self.gate).to(dtype) * self.memory_norm(previous)
        return entering


def _only_admitted(state: MemoryState, known: int) -> MemoryState:
    """The state without the segments that are admitted in no video; the first ``known`` entries are admitted."""
    if known == len(state.admitted):
        return state
    admitted = torch.stack(state.admitted[known:]).any(dim=1).tolist()

    def chosen(entries: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return entries[:known] + tuple(compress(entries[known:], admitted))

    kept = chosen(state.admitted)
    return state._replace(
        cache=chosen(state.cache),
        cache_mask=chosen(state.cache_mask),
        admitted=kept,
        cache_ms=chosen(state.cache_ms),
        gate_logits=chosen(state.gate_logits),
        pruned=kept,
    )


def _advance(
    state: MemoryState | None,
    segment: SegmentInput,
    written: Tensor,
    selection: Selection | None,
    last_input: Tensor,
    token_mask: Tensor,
    shortcut: bool,
) -> MemoryState:
    """Add the new segment to the state of the videos that have it; the others keep theirs."""
    active = segment.frame_mask.any(dim=1)  # [V]
    count = segment.frame_mask.sum(dim=1)
    end_ms = segment.frame_ms.masked_fill(~segment.frame_mask, 0).amax(dim=1)
    middle = (count.clamp(min=1) - 1) // 2
    middle_ms = segment.frame_ms.gather(1, middle.unsqueeze(1)).squeeze(1)
    tokens = written[:, :0]
    lasting, gate_probability = written, written.new_zeros(len(active))
    admitted: tuple[Tensor, ...] = ()
    if selection is not None:
        previous = torch.zeros_like(written) if state is None else state.memory
        lasting = previous + selection.share * (written - previous)
        gate_probability, admitted = selection.gate_probability * active, (selection.admitted,)
    if state is None:
        return MemoryState(
            lasting,
            gate_probability,
            (written,),
            (active,),
            admitted,
            (middle_ms,),
            end_ms,
            last_input,
            tokens,
            token_mask,
        )
    replace = partial(replace_rows, active, shortcut=shortcut)
    return MemoryState(
        memory=replace(lasting, state.memory),
        gate_probability=state.gate_probability + gate_probability,
        cache=(*state.cache, written),
        cache_mask=(*state.cache_mask, active),
        admitted=state.admitted + admitted,
        cache_ms=(*state.cache_ms, middle_ms),
        end_ms=torch.maximum(state.end_ms, end_ms),
        last_input=replace(last_input, state.last_input),
        tokens=tokens,
        token_mask=replace(token_mask, state.token_mask),
        pruned=state.pruned,
    )
