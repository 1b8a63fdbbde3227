"""The recurrent memory bridge: memory tokens walk through the segments and are read back at any time."""

from collections.abc import Callable
from functools import partial
from itertools import compress
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import TransformerBlock
from components.bridges.layers.padding import context_mask, replace_rows
from components.bridges.layers.selective_update import Selection, SelectiveUpdate
from components.bridges.readouts.memory import CacheAndMemoryReadout, MemoryState, Readout
from components.interfaces import MemoryBridge, Questions, SegmentInput, VisualTokens
from components.pooling.patch_pooling import PatchPooling
from components.positions import patch_grid_positions, sinusoidal
from components.sharding import SkipsUnusedCompute

Recurrence = Literal["replacing", "selective", "none"]


class RecurrentMemoryBridge(MemoryBridge[MemoryState], SkipsUnusedCompute):
    """Carry distinct memory tokens across segments and read them through a readout.

    In every step the memory tokens and the segment's patches attend to each other. What the memory tokens become, the
    segment's *written* memory, is cached. It becomes the *lasting* memory, which goes on to the next segment: whole, or
    as far as a gate lets it in. What enters a segment is ``initial + tanh(gate) * LayerNorm(lasting)`` with one gate a
    channel, zero at the start of training (with ``selective``, half open): every segment begins near the learned
    initial memory, so drift cannot build up over hundreds of segments. Videos without the segment keep all they had.

    With ``selective``, what the gate keeps out is out of the cache as well, so a readout sees the few segments in which
    something happened, however long the video is. Nothing in a training video of a few segments teaches the gate to
    stay closed for hundreds; a gate_probability on opening does. The first segment is always admitted: from it the
    bridge learns what a memory is good for, before there is anything to select.

    Patches know their place in the frame and their frame's in the segment. When in the video a segment was is told to
    the readouts of the cache, with every written memory; the recurrence itself does not know it.

    Differs from the published bridge, which is kept as a compatible form: there the tokens start as equal zeros and
    never come apart, nothing tells where a patch or a frame was, and the memory drifts with every step.

    Args:
        dim: Vision width D.
        out_dim: Language model width E.
        width: Inner width of memory and layers; D by default. Divisible by ``num_heads`` and by 4.
        num_memory: Memory tokens M.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        recurrence: ``replacing``: what was written becomes the lasting memory; ``selective``: a gate that has seen both
            decides how much of it does (``SelectiveUpdate``); ``none``: every segment starts from the initial memory.
        update_penalty: Weight of the gate's mean chance to be open in the training loss; only with ``selective``.
        readout: Builds the readout from the inner width and E.
        patch_pooling: Builds from D what makes every frame's patches fewer before they are read; None reads all.

    Raises:
        ValueError: ``recurrence`` is none of the three, there is no memory token or layer, or ``update_penalty`` is
            negative, which would reward forgetting.

    Source: after VideoLLaMB (arXiv:2409.01071); recurrence after RMT (arXiv:2207.06881).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        width: int | None = None,
        num_memory: int = 32,
        num_layers: int = 1,
        num_heads: int = 8,
        recurrence: Recurrence = "selective",
        update_penalty: float = 0.03,
        readout: Callable[[int, int], Readout] = CacheAndMemoryReadout,
        patch_pooling: Callable[[int], PatchPooling] | None = None,
    ) -> None:
        super().__init__()
        if recurrence not in get_args(Recurrence):
            raise ValueError(f"recurrence must be one of {get_args(Recurrence)}, got {recurrence!r}")
        if num_memory < 1 or num_layers < 1:
            raise ValueError(f"num_memory and num_layers must be at least 1, got {num_memory} and {num_layers}")
        if update_penalty < 0:
            raise ValueError(f"update_penalty must be at least 0, got {update_penalty}")
        self.width = width or dim
        self.carried = float(recurrence != "none")
        self.update = SelectiveUpdate(self.width) if recurrence == "selective" else None
        self.update_penalty = update_penalty
        self.patch_pooling = None if patch_pooling is None else patch_pooling(dim)
        patch_dim = dim if self.patch_pooling is None else self.patch_pooling.out_dim
        self.patch_input = nn.Sequential(nn.LayerNorm(patch_dim), nn.Linear(patch_dim, self.width))
        # Small beside what the first block writes, so that what the memory saw, not what it began as, dominates it.
        self.initial_memory = nn.Parameter(torch.randn(num_memory, self.width) * 0.02)
        self.memory_norm = nn.LayerNorm(self.width)
        # A replaced memory holds little of the past at first, a selected one all that was let in: it is heard at once.
        self.gate = nn.Parameter(torch.full((self.width,), 0.5 if recurrence == "selective" else 0.0))
        self.layers = nn.ModuleList(TransformerBlock(self.width, num_heads) for _ in range(num_layers))
        self.readout = readout(self.width, out_dim)
        self.reads_questions = self.readout.reads_questions

    def forward(self, segment: SegmentInput, state: MemoryState | None) -> MemoryState:
        """Read one segment of every video; see ``MemoryBridge.forward``."""
        patches = self._positioned(segment.patches)  # [V, L, N, D]
        num_videos, _, num_patches, _ = patches.shape
        memory = self._entering_memory(state, num_videos, patches.dtype)
        num_memory = memory.shape[1]
        token_mask = segment.frame_mask.repeat_interleave(num_patches, dim=1)  # [V, P]
        mask = context_mask(num_memory, token_mask)
        mixed = torch.cat([memory, patches.flatten(1, 2)], dim=1)
        *earlier_layers, last_layer = self.layers
        for layer in earlier_layers:
            mixed = layer(mixed, mask)
        # Patch tokens leave the last layer only when a readout reads them; most segments' are never read.
        written = last_layer(mixed, mask, part=slice(num_memory))
        selection = None
        if self.update is not None:
            lasting = memory if state is None else state.memory
            selection = self.update(lasting, written, patches.flatten(1, 2), token_mask)
            selection = selection.whole() if state is None else selection
        if not self.readout.reads_tokens:
            mixed, token_mask = mixed[:, :0], token_mask[:, :0]
        return _advance(state, segment, written, selection, mixed, token_mask, self.may_skip_unused_compute)

    def read(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Turn the state into visual tokens."""
        if self.readout.reads_tokens:
            num_memory = state.memory.shape[1]
            mask = context_mask(num_memory, state.token_mask)
            state = state._replace(tokens=self.layers[-1](state.last_input, mask, part=slice(num_memory, None)))
        visual: VisualTokens = self.readout(state, questions)
        return visual

    def prune(self, state: MemoryState) -> MemoryState:
        """Drop segments from the cache that were not admitted in any video."""
        if not state.admitted:
            return state
        kept = torch.stack(state.admitted).any(dim=1).tolist()
        return state._replace(
            cache=tuple(compress(state.cache, kept)),
            cache_mask=tuple(compress(state.cache_mask, kept)),
            admitted=tuple(compress(state.admitted, kept)),
            cache_ms=tuple(compress(state.cache_ms, kept)),
        )

    def penalty(self, state: MemoryState) -> Tensor | None:
        """The gate's mean gate_probability over each video's segments after the first, ``[V]``, times its weight."""
        if self.update is None:
            return None
        num_updates = torch.stack(state.cache_mask).sum(dim=0) - 1
        return self.update_penalty * state.gate_probability / num_updates.clamp(min=1)

    def _positioned(self, patches: Tensor) -> Tensor:
        if self.patch_pooling is not None:
            patches = self.patch_pooling(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        length, num_patches = patches.shape[1:3]
        place = patch_grid_positions(num_patches, self.width, patches.device)
        order = sinusoidal(
            torch.arange(length, device=patches.device), self.width, longest=_LONGEST_SEGMENT, shortest=2.0
        )
        position = (place + order.unsqueeze(1)).to(patches.dtype)  # [L, N, D]
        normed: Tensor = self.patch_input(patches) + position
        return normed

    def _entering_memory(self, state: MemoryState | None, num_videos: int, dtype: torch.dtype) -> Tensor:
        initial = self.initial_memory.to(dtype).expand(num_videos, -1, -1)
        # Before the first segment nothing is carried, yet norm and gate are used (times zero): under DDP and ZeRO a
        # parameter that some batch leaves out of the graph would stop the run.
        previous, carried = (initial, 0.0) if state is None else (state.memory, self.carried)
        entering: Tensor = initial + carried * torch.tanh(self.gate).to(dtype) * self.memory_norm(previous)
        return entering


def _advance(
    state: MemoryState | None,
    segment: SegmentInput,
    written: Tensor,
    selection: Selection | None,
    last_input: Tensor,
    token_mask: Tensor,
    shortcut: bool,
) -> MemoryState:
    """Take the new segment into the state of the videos that have it; the others keep theirs."""
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
    )


# Longest wavelength of the frame order inside a segment, in frames: above any sensible segment length.
_LONGEST_SEGMENT = 256.0
