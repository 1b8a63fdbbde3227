"""A bridge whose memory is the state of Mamba layers that have read all patches so far."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.bridges.layers.patch_sequence import PatchSequenceInput
from components.bridges.layers.projection import token_projection
from components.bridges.layers.selective_state_space import ScanState, SelectiveStateSpace
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens


class MambaState(NamedTuple):
    """The state of every layer after some segments."""

    layers: tuple[ScanState, ...]


class MambaMemory(VisualReader[MambaState]):
    """Reads all patches of a video one after the other with Mamba layers; their state is the memory.

    ``read`` lets the layers read learned tokens after the video, on a copy of the state, and adds what learned queries
    find in the state itself, scaled to unit variance. Without the second, training does not start: what the state gives
    to the learned tokens is at first a thousandth of them. The stored bytes do not grow with the video, and the cuts
    between segments change nothing.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        width: Inner width; D by default. Divisible by 4.
        num_layers: Mamba layers, each with a residual around it.
        state_size: Numbers that each of the ``2 * width`` channels of a layer stores.
        num_queries: Visual tokens Q.
        frame_positions: Add a code of each frame's number in its video to its patches.

    Raises:
        ValueError: A number is below 1, or the width is not divisible by 4.

    Source: Mamba (arXiv:2312.00752), as a memory between frames and language model. What reads the state is ours.
    Published models with Mamba before a language model keep many tokens of every frame instead.
    """

    reads_kept_tokens = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        width: int | None = None,
        num_layers: int = 1,
        state_size: int = 16,
        num_queries: int = 16,
        frame_positions: bool = False,
    ) -> None:
        super().__init__()
        if min(num_layers, state_size, num_queries) < 1:
            raise ValueError(
                f"num_layers, state_size and num_queries must be at least 1, got {num_layers}, {state_size} and "
                f"{num_queries}"
            )
        width = width or dim
        self.patch_input = PatchSequenceInput(dim, width, frame_positions=frame_positions)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_layers))
        layers = [SelectiveStateSpace(width, state_size=state_size) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.state_queries = nn.Parameter(torch.randn(num_layers, num_queries, state_size))
        self.state_output = nn.Linear(sum(layer.inner for layer in layers), width, bias=False)
        self.projection = token_projection(width, out_dim)

    def forward(self, segment: SegmentInput, state: MambaState | None) -> MambaState:
        """Read the patches of one segment of every video; see ``VisualReader.forward``."""
        tokens, mask = self.patch_input(segment)
        return self._run(tokens, mask, state)[1]

    def read(self, state: MambaState, questions: Questions | None = None, *, budget: int | None = None) -> VisualTokens:
        """Read learned tokens after the video, and the state itself: ``[V, Q, E]``, all real."""
        first = state.layers[0].inputs
        queries = self.queries.to(first.dtype).expand(len(first), -1, -1)
        mask = torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)
        tokens = self._run(queries, mask, state)[0] + self._found(state).to(first.dtype)
        tokens = self.projection(tokens)
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def _run(self, tokens: Tensor, mask: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
        """What the last layer gives for every token, ``[V, P, width]``, and the state after them."""
        states = [None] * len(self.layers) if state is None else state.layers
        after = []
        for norm, layer, before in zip(self.norms, self.layers, states, strict=True):
            given, layer_state = layer(norm(tokens), mask, before)
            tokens = tokens + given
            after.append(layer_state)
        return tokens, MambaState(tuple(after))

    def _found(self, state: MambaState) -> Tensor:
        """What the learned queries find in the state, ``[V, Q, width]``."""
        hidden = torch.stack([layer.hidden for layer in state.layers], dim=1)  # [V, layers, I, states]
        found = torch.einsum("vlin,lqn->vqli", hidden, self.state_queries.float())
        scaled = functional.normalize(found.flatten(2), dim=-1) * math.prod(found.shape[2:]) ** 0.5
        given: Tensor = self.state_output(scaled.to(self.state_output.weight.dtype))
        return given
